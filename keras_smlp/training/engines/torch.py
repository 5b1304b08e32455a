"""PyTorch: `torch.distributed` under `torchrun`, a process per device."""

import atexit
import os

from keras_smlp.training.engines.base import Engine, joined, statistics

TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def start(kind):
    import torch

    processes, gpus = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.device_count()
    if processes > 1:
        missing = [name for name in TORCHRUN if name not in os.environ]
        if missing:
            raise ValueError(f"WORLD_SIZE: {processes} without {missing[0]}, allowed: by torchrun")
        if kind == "none":
            raise ValueError(f"`kind`: none in one of {processes} processes, allowed: auto")
        return TorchEngine()
    if kind in ("data_parallel", "multi_host"):
        raise ValueError(
            f"`kind`: {kind}, allowed: auto, none without several processes; "
            f"start them with `torchrun --nproc-per-node {max(gpus, 2)}`"
        )
    engine = Engine()
    if gpus > 1:
        engine.name = f"one of {gpus} GPUs (torchrun uses all)"
    return engine


class TorchEngine(Engine):
    """A process per device, started by `torchrun`; the gradients are averaged by the step.

    All processes have the random states of one checkpoint, so each draws the same masks of
    stochastic depth, for its own images.
    """

    name = "torch.distributed"
    normalized = "each process's part of the batch"

    def __init__(self):
        import torch
        import torch.distributed as dist

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            atexit.register(dist.destroy_process_group)
        self.devices = self.processes = dist.get_world_size()
        self.rank = dist.get_rank()

    def gather(self, rows):
        import torch.distributed as dist

        parts = [None] * self.processes
        dist.all_gather_object(parts, rows)
        return joined(parts)

    def average_statistics(self, model):
        self.average([variable.value for variable in statistics(model)])

    def average(self, tensors):
        import torch
        import torch.distributed as dist

        if not tensors:
            return
        with torch.no_grad():
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            flat /= self.processes
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))
