"""A network in another precision: float32, or 16 bits for inference."""

import keras
import numpy as np

from keras_smlp import naming
from keras_smlp.checks import check_choice, check_model

PRECISIONS = ("float32", "bfloat16", "float16")


def with_precision(model, precision):
    """A network whose weights and computation are in another precision.

    Under a 16-bit precision the layers from the stem to the final normalization change; the
    normalization of the pixels (with a stem that it is folded into) and the head stay in float32,
    as in a network that is built with such a `dtype`.

    Args:
        model: A model that `keras_smlp.SMLPNet` or `keras_smlp.fold` made, or a functional one on
            their tensors. It is not changed.
        precision: `"float32"`, `"bfloat16"` or `"float16"`.

    Returns:
        A model of the same class, not compiled; `model` itself if nothing in it has to change.

    Raises:
        ValueError: If the model has no sMLPNet in it, is quantized or has LoRA layers, where
            something has to change; or `precision` is another.
    """
    precision = check_choice("precision", precision, PRECISIONS)
    changed = [
        layer for layer in check_model(model).layers if dtypes(layer) & {"bfloat16", "float16"}
    ]
    if precision != "float32":
        changed += [layer for layer in naming.body(model) if not sees_pixels(layer)]
    if all(dtypes(layer) == {precision} for layer in changed):
        return model
    naming.refuse(model, "quantized", "adapted by LoRA")
    names = {layer.name for layer in changed}
    config = model.get_config()
    for layer in config["layers"]:
        # a Sequential's config has it only there
        if layer.get("name", layer["config"].get("name")) in names:
            layer["config"]["dtype"] = precision
    copy = type(model).from_config(config)
    for new, old in zip(copy.layers, model.layers, strict=True):
        new.set_weights([np.asarray(x).astype("float32") for x in old.get_weights()])
    return copy


def sees_pixels(layer):
    """Whether it takes raw pixels, which 16 bits would round: up to the normalization of them."""
    before = isinstance(layer, (keras.layers.InputLayer, keras.layers.Rescaling))
    return before or (layer.name == naming.STEM and layer.use_bias)


def dtypes(layer):
    """The dtypes that a layer computes in and has its weights in."""
    return {layer.compute_dtype, layer.variable_dtype}
