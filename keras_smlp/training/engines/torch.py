"""PyTorch: `torch.distributed` under `torchrun`, a process per device."""

import atexit
import os
from typing import Any

from keras_smlp.layers.drop_path import batch_part
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
    """A process per device, started by `torchrun`; DDP averages the gradients."""

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
        self.parameters: list = []
        self.buckets: Any = None

    def gather(self, rows):
        import torch.distributed as dist

        parts = [None] * self.processes
        dist.all_gather_object(parts, rows)
        return joined(parts)

    def step_scope(self, model):
        return batch_part(self.rank, self.processes)

    def backward(self, model, loss):
        parameters = [variable.value for variable in model.trainable_variables]
        if list(map(id, parameters)) != list(map(id, self.parameters)):
            self.parameters, self.buckets = parameters, buckets(reached(loss, parameters))
        # None where the loss is scaled: whether a part overflows, all processes must know
        steps = model.optimizer.gradient_accumulation_steps
        if not steps:
            self.buckets(loss).backward()
            return
        variables = model.optimizer.variables
        (iteration,) = [v for v in variables if v.name == "iteration"]
        if (int(iteration) + 1) % steps:
            with self.buckets.no_sync():
                self.buckets(loss).backward()
            return
        # what this process alone has gathered goes into the mean
        sums = [v for v in variables if v.name.endswith("gradient_accumulator")]
        sum_of = {id(p): s.value for p, s in zip(parameters, sums, strict=True)}
        for parameter in self.buckets.parameters():
            parameter.grad = sum_of[id(parameter)].detach().clone()
            sum_of[id(parameter)].detach().zero_()
        self.buckets(loss).backward()

    def average_statistics(self, model):
        import torch
        import torch.distributed as dist

        tensors = [variable.value for variable in statistics(model)]
        if not tensors:
            return
        with torch.no_grad():
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            flat /= self.processes
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))


def buckets(parameters):
    """A `DistributedDataParallel` of some parameters, which a loss goes through as it is.

    It averages the gradients in buckets, each as soon as it is full. For this it need not contain
    the model: it knows its parameters by their hooks, and the loss tells it where a step begins.
    """
    import torch

    module = torch.nn.Identity()
    for number, parameter in enumerate(parameters):
        module.register_parameter(str(number), parameter)
    # all processes hold the same (`Engine.check_same`), and the graph of a loss is there already
    parallel = torch.nn.parallel.DistributedDataParallel(
        module, init_sync=False, gradient_as_bucket_view=True
    )
    # DDP fills its buckets anew, in the order of its first backward pass: let it be this one, or a
    # resumed run would add in another order at first
    parallel(sum(parameter.sum() for parameter in parameters)).backward()
    for parameter in parameters:
        parameter.grad = None
    return parallel


def reached(loss, parameters):
    """Those of some parameters that a loss depends on; DDP would wait for the others."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
    found = {id(getattr(node, "variable", None)) for node in seen}
    return [parameter for parameter in parameters if id(parameter) in found]
