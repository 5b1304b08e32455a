"""One step on several devices or processes; the one place that knows how each backend does it.

| | one process, several devices | several processes |
| --- | --- | --- |
| JAX | `keras.distribution.DataParallel` | the same after `keras.distribution.initialize` |
| TensorFlow | `tf.distribute.MirroredStrategy`, `TPUStrategy` | none (see `start`) |
| PyTorch | none | `torch.distributed` under `torchrun` |
"""

import os

import keras

from keras_smlp.training.engines import jax, tensorflow, torch
from keras_smlp.training.engines.base import Engine as Engine

KINDS = ("auto", "none", "data_parallel", "multi_host")
BATCH_NORM = {"jax": ("global", "local"), "tensorflow": ("global", "local"), "torch": ("local",)}


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
            batch (JAX, TensorFlow), `"local"`, each device's part, or `"auto"`: global where the
            backend can. Moving statistics are the same on all devices at any time: `"local"` ones
            are averaged in each step.

    Returns:
        An `Engine`.

    Raises:
        ValueError: If the backend cannot do, or would ignore, what is asked for.
    """
    backend = keras.backend.backend()
    if kind not in KINDS:
        raise ValueError(f"`kind`: {kind}, allowed: {', '.join(KINDS)}")
    if batch_norm not in ("auto", *BATCH_NORM[backend]):
        allowed = ", ".join(("auto", *BATCH_NORM[backend]))
        raise ValueError(f"`batch_norm`: {batch_norm}, allowed: {allowed} on the {backend} backend")
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if backend != "torch" and started > 1:
        raise ValueError(
            f"`kind`: {kind} in one of {started} processes of `torchrun`, allowed: with "
            "KERAS_BACKEND=torch alone"
        )
    batch_norm = BATCH_NORM[backend][0] if batch_norm == "auto" else batch_norm
    address = {"coordinator": coordinator, "processes": processes, "rank": rank}
    for name, value in address.items():
        if value is not None and (kind != "multi_host" or backend != "jax"):
            raise ValueError(
                f"`{name}`: {value}, allowed: None (only JAX with `kind` multi_host reads it)"
            )
    if backend == "jax":
        return jax.start(kind, batch_norm, coordinator, processes, rank)
    return tensorflow.start(kind, batch_norm) if backend == "tensorflow" else torch.start(kind)
