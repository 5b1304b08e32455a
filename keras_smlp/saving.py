"""Atomic writes, and a functional model that saves by them and loads on every backend."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

import keras

from keras_smlp.layers.composite import Composite
from keras_smlp.preprocessing import fix_axes


@contextlib.contextmanager
def replacing(path):
    """Atomic write: yields a temporary path, which replaces `path` when the block succeeds.

    A reader of `path` sees the old file or the new one, never a part of it. If the block
    raises (Ctrl-C included), the temporary file is removed and the old file stays.

    Args:
        path: Path of the file to write. Its folder must exist.

    Yields:
        A `pathlib.Path` in the same folder with the same endings.
    """
    path = Path(path)
    # the whole name stays at the end: Keras and others choose a format by `.weights.h5`
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@keras.saving.register_keras_serializable(package="keras_smlp")
class PortableModel(keras.Model):
    """A functional `keras.Model` that saves atomically and reloads compiled on any backend.

    - `save` and `save_weights` write under a temporary name and rename: a crash never leaves a
      damaged file in place of a good one.
    - A compiled model saved under PyTorch names PyTorch's optimizer class, and one saved under JAX
      names `jit_compile=True`; neither is what another backend should do, so the file gets
      `keras.optimizers` and `"auto"`.
    - The model has the dtype policy of its blocks (a plain functional model has the global one),
      so that `compile` scales the loss under `mixed_float16`.

    `keras_smlp.SMLPNet` and its named variants return one; build one yourself around a body to
    fine-tune. Saving in shards or in an unzipped folder is Keras' own.

    Args:
        inputs: Symbolic tensor, or a list or dict of them.
        outputs: Symbolic tensor, or a list or dict of them.
        name: String. Name of the model.
        **kwargs: Keyword arguments of a functional `keras.Model`.

    Example:

    >>> body = keras_smlp.SMLPNet(8, (1, 1), include_top=False, pooling="avg")
    >>> outputs = keras.layers.Dense(10, activation="softmax")(body.output)
    >>> keras_smlp.PortableModel(body.input, outputs, name="mine").output_shape
    (None, 10)
    """

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any):
        super().__init__(inputs, outputs, name=name, **kwargs)
        for layer in self.layers:
            fix_axes(layer)
        # a global map would take it up, as an entry for this model
        policy = keras.config.dtype_policy()
        has_map = isinstance(policy, keras.dtype_policies.DTypePolicyMap)
        for layer in self.layers:
            if isinstance(layer, Composite) and not has_map:
                self.dtype_policy = layer.dtype_policy
                break

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        if zipped is False or kwargs or not is_replaceable(filepath, ".keras", overwrite):
            return super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)
        with replacing(filepath) as temporary:
            super().save(temporary)

    def save_weights(self, filepath, overwrite=True, max_shard_size=None):
        if max_shard_size is not None or not is_replaceable(filepath, ".weights.h5", overwrite):
            return super().save_weights(filepath, overwrite, max_shard_size)
        with replacing(filepath) as temporary:
            super().save_weights(temporary)

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        optimizer = config.get("optimizer")
        while isinstance(optimizer, dict) and "config" in optimizer:
            if "torch.optimizers" in (optimizer.get("module") or ""):
                optimizer.update(module="keras.optimizers", registered_name=None)
            optimizer = optimizer["config"].get("inner_optimizer")
        config["jit_compile"] = "auto"
        return config


def is_replaceable(filepath, ending, overwrite):
    """Whether a local file of this ending can be written here without asking to overwrite.

    The rest (another format, `hf://`, a missing folder, an existing file with `overwrite=False`) is
    left to Keras.
    """
    path = Path(filepath)
    may_write = overwrite or not path.exists()
    return may_write and str(filepath).endswith(ending) and path.parent.is_dir()
