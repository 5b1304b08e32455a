"""A functional model whose files are whole and load on every backend."""

from pathlib import Path

import keras

from keras_smlp.files import replacing
from keras_smlp.layers.common import register
from keras_smlp.layers.mixing import TokenMixing


@register
class PortableModel(keras.Model):
    """A functional `keras.Model` that saves atomically and reloads compiled on any backend.

    - `save` and `save_weights` write under a temporary name and rename: a crash never leaves a
      damaged file in place of a good one.
    - A compiled model saved under PyTorch names PyTorch's optimizer class, and one saved under JAX
      names `jit_compile=True`; neither is what another backend should do, so the file gets
      `keras.optimizers` and `"auto"`.
    - The model has the dtype policy of its blocks (a plain functional model has the global one),
      so that `compile` scales the loss under `mixed_float16`.

    Made by `keras_smlp.SMLPNet` and its named variants; the arguments are those of a functional
    `keras.Model`.
    """

    def __init__(self, inputs, outputs, name=None, **kwargs):
        super().__init__(inputs, outputs, name=name, **kwargs)
        for layer in self.layers:
            if isinstance(layer, TokenMixing):
                self.dtype_policy = layer.dtype_policy
                break

    def save(self, filepath, overwrite=True, **kwargs):
        if not is_replaceable(filepath, ".keras", overwrite) or kwargs:
            return super().save(filepath, overwrite=overwrite, **kwargs)
        with replacing(filepath) as temporary:
            super().save(temporary)

    def save_weights(self, filepath, overwrite=True, **kwargs):
        if not is_replaceable(filepath, ".weights.h5", overwrite) or kwargs:
            return super().save_weights(filepath, overwrite=overwrite, **kwargs)
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
    """Whether it is one local file in a folder that exists, to be overwritten without a question.

    What is not (another format, `hf://`, `overwrite=False`, a missing folder) is left to Keras.
    """
    path = Path(filepath)
    return overwrite and str(filepath).endswith(ending) and path.parent.is_dir()
