"""LoRA: low-rank adaptation of the dense layers of a network, and how it is merged again."""

import keras
import numpy as np
from keras import ops

from keras_smlp.checks import check_positive_integer, check_positive_number, shown
from keras_smlp.layers.composite import Composite
from keras_smlp.layers.dense import Dense
from keras_smlp.naming import body, dense_layers, has_lora, refuse


def enable_lora(model: keras.Model, rank: int, alpha: float | None = None) -> list[str]:
    """Freezes a network but for its head, and adds trainable low-rank products to its kernels.

    `fuse`, `dense1` and `dense2` of each block compute with `kernel + alpha / rank * A @ B`, where
    `A` is drawn and `B` is zero, so that the outputs are at first the same. Everything else up to
    the final normalization is frozen, biases and statistics too; the layers after it, the head,
    stay as they are. Compile the model afterwards. A saved model goes on training its products when
    it is loaded. Where the weights are loaded into a network without LoRA, they are the sums (under
    16-bit policies rounded to 16 bits): for whole precision call `merge_lora` first.

    Args:
        model: A model that `keras_smlp.SMLPNet` made, or a functional one on its tensors (a new
            head). It is changed, and must not be compiled yet.
        rank: Positive integer. Columns of `A`, rows of `B`.
        alpha: Positive finite number. Weight of the products, in multiples of `1 / rank`.
            Defaults to `rank`.

    Returns:
        The list of the paths of the changed layers.

    Raises:
        ValueError: If the model has no sMLPNet in it, is compiled, folded, quantized or has LoRA
            layers already; or `rank` or `alpha` is out of range.

    Reference:
        [LoRA: Low-Rank Adaptation of Large Language Models](https://arxiv.org/abs/2106.09685); the
        initial values are those of its code.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> len(keras_smlp.enable_lora(model, rank=2))
    6
    """
    refuse(model, "compiled", "folded", "quantized", "adapted by LoRA")
    rank = check_positive_integer("rank", rank)
    alpha = check_positive_number("alpha", alpha, none=True)
    for layer in body(model):
        freeze(layer)
    # the head, which stays as it is, is not part of another layer
    adapted = {path: x for path, x in dense_layers(model).items() if "/" in path}
    for layer in adapted.values():
        layer.enable_lora(rank, lora_alpha=alpha)
    return list(adapted)


def merge_lora(model: keras.Model) -> keras.Model:
    """A copy of a network in which the low-rank products are added to the kernels.

    Args:
        model: A model that `enable_lora` changed, compiled or not. It stays as it is.

    Returns:
        A model of the same class without LoRA, with the same outputs (under 16-bit policies to
        within their rounding), not compiled and trainable throughout.

    Raises:
        ValueError: If the model has no sMLPNet in it, no LoRA layers, or is quantized.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> paths = keras_smlp.enable_lora(model, rank=2)
    >>> keras_smlp.merge_lora(model).count_params() < model.count_params()
    True
    """
    refuse(model, "quantized")
    if not has_lora(model):
        raise ValueError(f"`model` must have LoRA layers. Received: {model.name!r} without any")
    try:
        config = model.get_config()
    except NotImplementedError:  # a subclass with a constructor of its own
        config = {}
    if "layers" not in config:
        raise ValueError(
            "`model` must be a functional model that its config describes: a `PortableModel` on "
            f"its inputs and outputs is one. Received: a {shown(type(model).__name__)}"
        )
    without_lora(config)
    plain = type(model).from_config(config)
    for new, old in zip(plain.layers, model.layers, strict=True):
        transfer(new, old)
        new.trainable = True
    return plain


# ---- layer by layer -----------------------------------------------------------------------------
def freeze(layer):
    """Freezes a layer, but lets what `enable_lora` adds to its dense layers be trained."""
    if isinstance(layer, Composite):
        layer.trainable = True
        for name in layer.PARTS:
            freeze(getattr(layer, name))
    elif isinstance(layer, Dense):
        layer.trainable = True
        for variable in layer.variables:
            variable.trainable = False
    else:
        layer.trainable = False


def without_lora(config):
    """Removes LoRA, and what of the layers is trainable, from the config of a model."""
    for layer in config["layers"]:
        for key in ("lora_rank", "lora_alpha", "parts"):
            layer["config"].pop(key, None)
        if "layers" in layer["config"]:
            without_lora(layer["config"])


def transfer(new, old):
    """Copies the weights and random states of a layer, low-rank products added to their kernels."""
    if isinstance(old, Composite):
        for name in old.PARTS:
            transfer(getattr(new, name), getattr(old, name))
    elif isinstance(old, keras.Model):
        for pair in zip(new.layers, old.layers, strict=True):
            transfer(*pair)
    elif getattr(old, "lora_enabled", False):
        # Keras' own sum, `old.kernel`, is rounded to the compute dtype
        values = {v.name: numpy(v) for v in old.variables}
        product = values.pop("lora_kernel_a") @ values.pop("lora_kernel_b")
        values["kernel"] = values["kernel"] + old.lora_alpha / old.lora_rank * product
        for variable in new.variables:
            variable.assign(values[variable.name])
    else:
        store: dict = {}
        old.save_own_variables(store)
        # copies: JAX would share the arrays, and delete them when one of the models is called
        new.load_own_variables({key: numpy(value) for key, value in store.items()})
        for variable, value in zip(new.variables, old.variables, strict=True):  # of its sublayers
            variable.assign(numpy(value))


def numpy(x):
    """A copy of a variable or tensor."""
    return np.array(ops.convert_to_numpy(x))
