"""The dense layers of a network in 8 bits."""

import contextlib
import gc

import keras

from keras_smlp.checks import check_choice
from keras_smlp.naming import dense_layers, refuse

MODES = ("int8",)
PYTHON_FROZEN_OBJECTS = 1000  # at most: Python 3.12 itself freezes some hundreds


def quantize(model: keras.Model, mode: str = "int8") -> list[str]:
    """Quantizes the dense layers of a network in place: `fuse`, `dense1`, `dense2` and the head.

    They hold most of the weights. Kernels become 8-bit integers with one scale per output; the
    inputs of these layers are quantized at each call, with one scale per position (their largest
    absolute value there). It is `keras.Model.quantize` without its warnings about the layers that
    it leaves alone. The `.keras` file loads on every backend.

    Args:
        model: A model that `keras_smlp.SMLPNet` or `keras_smlp.fold` made, or a functional one on
            their tensors. It must not be compiled: load a trained file with `compile=False`.
        mode: `"int8"`, the only one that keeps the answers without calibration. Defaults to it.

    Returns:
        The list of the paths of the quantized layers.

    Raises:
        ValueError: If the model has no sMLPNet in it, is compiled, quantized already, has LoRA
            layers or computes in float16; or `mode` is another.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> keras_smlp.quantize(model, "int8")[:2]
    ['stage1_block1_token_mixing/mix/fuse', 'stage1_block1_channel_mixing/dense1']
    """
    refuse(model, "compiled", "quantized", "adapted by LoRA")
    mode = check_choice("mode", mode, MODES)
    layers = dense_layers(model)
    for path, layer in layers.items():
        if layer.compute_dtype == "float16":
            raise ValueError(
                "`model` must not compute in float16, whose range is too small for 8-bit "
                f"products. Received: {path} with the policy {layer.dtype_policy.name!r}"
            )
    chosen = {id(layer) for layer in layers.values()}
    with hidden_from_garbage_collection():
        model.quantize(mode, filters=lambda layer: id(layer) in chosen)
    return list(layers)


@contextlib.contextmanager
def hidden_from_garbage_collection():
    """Hides the objects that exist now from garbage collection (`gc.freeze`).

    Keras collects garbage for each kernel that it replaces, and each time looks through all objects
    of the process, which takes a hundred times as long as quantizing.
    """
    if gc.get_freeze_count() > PYTHON_FROZEN_OBJECTS:  # somebody else did, and will undo it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
