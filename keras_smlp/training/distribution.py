"""One step on several devices or processes; the one place that knows how each backend does it.

| | one process, several devices | several processes |
| --- | --- | --- |
| JAX | `keras.distribution.DataParallel` | the same after `keras.distribution.initialize` |
| TensorFlow | `tf.distribute.MirroredStrategy`, `TPUStrategy` | none (see `start`) |
| PyTorch | none | `torch.distributed` under `torchrun` |
"""

import atexit
import contextlib
import functools
import hashlib
import os
import pickle

import keras
import numpy as np
from keras import ops

from keras_smlp.layers.composite import Composite

KINDS = ("auto", "none", "data_parallel", "multi_host")
TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
BATCH_NORM = {"jax": ("global",), "tensorflow": ("global", "local"), "torch": ("local",)}
# Keras 3.15 on MultiWorkerMirroredStrategy: `fit` ends in "Attempt to convert a value
# (PerReplica...) with an unsupported type", where it reduces the first batch for its shapes
NO_MULTI_HOST = "auto, none, data_parallel (`fit` of Keras fails on several TensorFlow hosts; \
use KERAS_BACKEND=jax)"


def start(kind="auto", coordinator=None, processes=None, rank=None, batch_norm="auto"):
    """Starts the engine that distributes the training. Call it first, before any model is built.

    All processes need the same seed (`keras.utils.set_random_seed`) and the same weights. The
    TPU part of the TensorFlow engine has never run: there was no TPU to try it on.

    Args:
        kind: `"auto"` (all devices of this process; on PyTorch the processes of `torchrun`),
            `"none"` (one device), `"data_parallel"` (an error where there is one device) or
            `"multi_host"` (JAX; PyTorch under `torchrun`). Defaults to `"auto"`.
        coordinator: String. `host:port` of process 0, for JAX with `"multi_host"`; there the
            default `None` and those below leave it to the cluster (Slurm, TPU pods).
        processes: Positive integer. Number of processes.
        rank: Integer from 0. Number of this process.
        batch_norm: Over what BatchNorm computes its statistics in training: `"global"`, the whole
            batch (JAX, TensorFlow), `"local"`, each device's part (TensorFlow, PyTorch), or
            `"auto"`, the first that the backend can. Moving statistics are the same on all
            devices at any time: `"local"` ones are averaged after each step.

    Returns:
        An `Engine`.

    Raises:
        ValueError: If the backend cannot do, or would ignore, what is asked for.
    """
    backend = keras.backend.backend()
    if kind not in KINDS:
        raise ValueError(f"distribution.kind: {kind}, allowed: {', '.join(KINDS)}")
    if batch_norm not in ("auto", *BATCH_NORM[backend]):
        allowed = ", ".join(("auto", *BATCH_NORM[backend]))
        raise ValueError(
            f"distribution.batch_norm: {batch_norm}, allowed: {allowed} on the {backend} backend"
        )
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if backend != "torch" and started > 1:
        raise ValueError(
            f"distribution.kind: {kind} in one of {started} processes of `torchrun`, allowed: with "
            "KERAS_BACKEND=torch alone"
        )
    batch_norm = BATCH_NORM[backend][0] if batch_norm == "auto" else batch_norm
    address = {"coordinator": coordinator, "processes": processes, "rank": rank}
    for name, value in address.items():
        if value is not None and (kind != "multi_host" or backend != "jax"):
            raise ValueError(
                f"distribution.{name}: {value}, allowed: null (only JAX with distribution.kind "
                "multi_host reads it)"
            )
    if backend == "jax":
        return start_jax(kind, coordinator, processes, rank)
    return start_tensorflow(kind, batch_norm) if backend == "tensorflow" else start_torch(kind)


def start_jax(kind, coordinator, processes, rank):
    import jax

    if kind == "multi_host":
        try:
            keras.distribution.initialize(coordinator, processes, rank)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"distribution.kind: multi_host with coordinator {coordinator}, processes "
                f"{processes}, rank {rank}, allowed: what JAX can start ({error})"
            ) from error
        return JaxEngine()
    return JaxEngine() if several(kind, jax.device_count()) else Engine()


def start_tensorflow(kind, batch_norm):
    import tensorflow as tf

    if kind == "multi_host":
        raise ValueError(f"distribution.kind: multi_host, allowed: {NO_MULTI_HOST}")
    if kind != "none" and tf.config.list_physical_devices("TPU"):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return TensorFlowEngine(tf.distribute.TPUStrategy(resolver), batch_norm)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if not several(kind, len(devices)):
        return Engine()
    names = [device.name for device in devices]
    return TensorFlowEngine(tf.distribute.MirroredStrategy(names), batch_norm)


def start_torch(kind):
    import torch

    processes, gpus = int(os.environ.get("WORLD_SIZE", "1")), torch.cuda.device_count()
    if processes > 1:
        missing = [name for name in TORCHRUN if name not in os.environ]
        if missing:
            raise ValueError(f"WORLD_SIZE: {processes} without {missing[0]}, allowed: by torchrun")
        if kind == "none":
            raise ValueError(
                f"distribution.kind: none in one of {processes} processes, allowed: auto"
            )
        return TorchEngine()
    if kind in ("data_parallel", "multi_host"):
        raise ValueError(
            f"distribution.kind: {kind}, allowed: auto, none without several processes; "
            f"start them with `torchrun --nproc-per-node {max(gpus, 2)}`"
        )
    engine = Engine()
    if gpus > 1:
        engine.name = f"one of {gpus} GPUs (torchrun uses all)"
    return engine


def several(kind, devices):
    """Whether to distribute over the devices of this process."""
    if kind == "data_parallel" and devices == 1:
        raise ValueError("distribution.kind: data_parallel, allowed: auto, none with one device")
    return kind != "none" and devices > 1


class Engine:
    """One process on one device. The engines of several override what differs.

    Attributes:
        name: String. What distributes.
        devices: Positive integer. Devices of all processes; divides the batch.
        processes: Positive integer. Number of processes; each feeds its own part of the batch.
        rank: Integer from 0. Number of this process.
    """

    name, devices, processes, rank = "one device", 1, 1, 0
    normalized = "the whole batch"

    @property
    def is_main(self):
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def describe(self):
        """One sentence: what distributes, and over what BatchNorm is computed."""
        number = f"{self.devices} devices in {self.processes} processes, "
        return f"{self.name}: {number * (self.devices > 1)}BatchNorm over {self.normalized}."

    def check_batch(self, batch_size):
        """Raises `ValueError` unless the batch of all processes divides by the devices."""
        if batch_size % self.devices:
            raise ValueError(
                f"train.batch_size: {batch_size}, allowed: a multiple of {self.devices}, the "
                "number of devices"
            )

    def check_same(self, model):
        """Raises `RuntimeError` unless all processes hold the same weights and random states."""
        digest = hashlib.sha256()
        for variable in model.trainable_variables + model.non_trainable_variables:
            digest.update(ops.convert_to_numpy(variable).tobytes())
        if len(set(self.gather([digest.hexdigest()]))) > 1:
            raise RuntimeError("the processes have different weights: same seed and files needed")

    def scope(self):
        """Context manager to build and compile models in."""
        return contextlib.nullcontext()

    def forward(self, model):
        """Function from images to logits, with the model's weights of this moment.

        It takes and returns NumPy arrays: `(batch, ...)`, this process's own images, their number
        a multiple of `devices // processes`. The processes may call it a different number of times.
        """
        return model.predict_on_batch

    def gather(self, rows):
        """The rows (a list or a NumPy array) of all processes, in the order of their ranks."""
        return rows

    def sum(self, values):
        """The sum over the processes of a NumPy vector, in float64."""
        return np.sum(self.gather([np.asarray(values, "float64")]), axis=0)

    def barrier(self):
        """Waits for all processes."""
        self.gather([])

    def saving(self):
        """Context manager to save Keras files in; the main process alone may enter it."""
        return contextlib.nullcontext()

    # ---- for the training step ------------------------------------------------------------------
    def check_optimizer(self, optimizer):
        """Raises `ValueError` where the engine cannot do what the optimizer asks for."""

    def batch_norm_scope(self, model):
        """Context manager around forward and backward of a training step."""
        return contextlib.nullcontext()

    def average_statistics(self, model):
        """Makes BatchNorm's moving statistics the mean over the devices, where they differ."""

    def average(self, tensors):
        """Replaces tensors by their mean over the processes."""


class JaxEngine(Engine):
    """Global arrays under `jit`: each program sees the whole batch."""

    name = "keras.distribution.DataParallel"

    def __init__(self):
        import jax

        self.devices, self.processes = jax.device_count(), jax.process_count()
        self.rank = jax.process_index()
        self.distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(self.distribution)

    def forward(self, model):
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        # on this process's devices alone: `predict` fails on arrays that span processes
        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("batch",))
        whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
        groups = (model.trainable_variables, model.non_trainable_variables)
        state = [[jax.device_put(np.asarray(v.value), whole) for v in group] for group in groups]
        call = jax_call(model)
        return lambda images: np.asarray(call(*state, jax.device_put(images, split)))

    @contextlib.contextmanager
    def saving(self):
        # Keras makes variables when it saves; as global arrays, all processes would have to
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(self.distribution)

    def gather(self, rows):
        from jax.experimental.multihost_utils import process_allgather

        # as bytes: JAX would turn float64 into float32
        data = np.frombuffer(pickle.dumps(rows), "uint8")
        sizes = process_allgather(np.array([data.size], "int32")).ravel()
        parts = process_allgather(np.pad(data, (0, sizes.max() - data.size)))
        parts = parts.reshape(len(sizes), -1)
        return joined([pickle.loads(part[:size]) for part, size in zip(parts, sizes, strict=True)])


class TensorFlowEngine(Engine):
    """One process, a copy of the model per device."""

    def __init__(self, strategy, batch_norm):
        self.strategy, self.name = strategy, f"tf.distribute.{type(strategy).__name__}"
        self.devices = strategy.num_replicas_in_sync
        self.local = batch_norm == "local"
        self.normalized = "each device's part of the batch" if self.local else "the whole batch"

    def scope(self):
        return self.strategy.scope()

    def forward(self, model):
        # predict_on_batch would give each device the whole batch
        return lambda images: model.predict(images, batch_size=len(images), verbose=0)

    def check_optimizer(self, optimizer):
        steps = getattr(optimizer, "inner_optimizer", optimizer).gradient_accumulation_steps
        if steps:
            raise ValueError(
                f"optimizer.accumulation: {steps}, allowed: 1 with {self.name} (Keras "
                "accumulates on TensorFlow on one device only)"
            )

    @contextlib.contextmanager
    def batch_norm_scope(self, model):
        layers = [] if self.local else batch_norms(model)
        for layer in layers:
            layer.synchronized = True
        try:
            yield
        finally:
            # it would get into saved files, which JAX and PyTorch then refuse
            for layer in layers:
                layer.synchronized = False

    def average_statistics(self, model):
        import tensorflow as tf

        variables = statistics(model)
        if self.local and variables:
            values = [ops.convert_to_tensor(variable) for variable in variables]
            context = tf.distribute.get_replica_context()
            means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
            for variable, mean in zip(variables, means, strict=True):
                variable.assign(mean)


class TorchEngine(Engine):
    """A process per device, started by `torchrun`; the gradients are averaged by the step.

    Each process draws the same masks for its own images: their random states are one checkpoint's.
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


@functools.lru_cache(maxsize=1)
def jax_call(model):
    """The compiled forward pass of a model, kept for the next evaluation."""
    import jax

    def call(trainable, others, images):
        return model.stateless_call(trainable, others, images, training=False)[0]

    return jax.jit(call)


def batch_norms(model):
    """The BatchNorm layers of a network, those inside the token mixing too."""
    layers = []
    for layer in model.layers:
        is_composite = isinstance(layer, Composite)
        layers += [getattr(layer, name) for name in layer.PARTS] if is_composite else [layer]
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def statistics(model):
    """The moving statistics that training moves: those of BatchNorm layers that are not frozen."""
    layers = [layer for layer in batch_norms(model) if layer.trainable]
    return [value for layer in layers for value in (layer.moving_mean, layer.moving_variance)]


def joined(parts):
    """Lists or NumPy arrays, one after another."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [row for part in parts for row in part]
