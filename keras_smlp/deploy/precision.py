"""A network in another precision: float32, or 16 bits for inference."""

import keras
import numpy as np

from keras_smlp import naming
from keras_smlp.checks import check_choice, check_model, shown

PRECISIONS = ("float32", "bfloat16", "float16")


def with_precision(model, precision):
    """A network whose weights and computation are in another precision.

    Under a 16-bit precision the layers from the stem to the final normalization change; the
    normalization of the pixels (with a stem that it is folded into) and the head stay in float32,
    as in a network that is built with such a `dtype`.

    Args:
        model: A model that `keras_smlp.SMLPNet` or `keras_smlp.fold` made, a functional one on
            their tensors, or one that has such a model among its layers. It is not changed.
        precision: `"float32"`, `"bfloat16"` or `"float16"`.

    Returns:
        A model of the same class, not compiled; `model` itself if nothing in it has to change.

    Raises:
        ValueError: If the model has no sMLPNet in it, is quantized or has LoRA layers, where
            something has to change; or `precision` is another.
    """
    precision = check_choice("precision", precision, PRECISIONS)
    network = naming.network_of(check_model(model))
    changed = [x for x in leaves(model) if dtypes(x) & {"bfloat16", "float16"}]
    if precision != "float32":
        changed += [layer for layer in naming.body(network) if not sees_pixels(layer)]
    if all(dtypes(layer) == {precision} for layer in changed):
        return model
    naming.refuse(network, "quantized", "adapted by LoRA")
    config = model.get_config()
    set_dtype(config, model, changed, precision)
    copy = type(model).from_config(config)
    for new, old in zip(copy.layers, model.layers, strict=True):
        new.set_weights([np.asarray(x).astype("float32") for x in old.get_weights()])
    return copy


def leaves(model):
    """The layers of a model and of models that are its layers, these models left out."""
    return [x for x in naming.every_layer(model) if not isinstance(x, keras.Model)]


def set_dtype(config, model, changed, precision):
    """Sets the dtype of some layers in a model's config, also within models that are its layers."""
    layers = {layer.name: layer for layer in model.layers}
    for entry in config["layers"]:
        # a Sequential's config has the name only there
        layer = layers.get(entry.get("name", entry["config"].get("name")))
        if layer in changed:
            entry["config"]["dtype"] = precision
        elif isinstance(layer, keras.Model) and any(x in changed for x in leaves(layer)):
            if "layers" not in entry["config"]:
                raise ValueError(
                    f"`model` must be a graph down to the layers that change their precision to "
                    f"{precision!r}. Received: a model with the layer {shown(layer.name)!r} of "
                    f"type {type(layer).__name__}"
                )
            set_dtype(entry["config"], layer, changed, precision)


def sees_pixels(layer):
    """Whether it takes raw pixels, which 16 bits would round: up to the normalization of them."""
    before = isinstance(layer, (keras.layers.InputLayer, keras.layers.Rescaling))
    before = before or naming.is_gray_to_rgb(layer)
    return before or (layer.name == naming.STEM and layer.use_bias)


def dtypes(layer):
    """The dtypes that a layer computes in and has its weights in."""
    return {layer.compute_dtype, layer.variable_dtype}
