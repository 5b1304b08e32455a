"""What the layers share: registration, PyTorch's initial values, calls of sublayers, checks."""

import math
import random

import keras
import numpy as np
from keras import ops

from keras_smlp.layers import forms

register = keras.saving.register_keras_serializable(package="keras_smlp")


@register
class TorchUniform(keras.initializers.Initializer):
    """The initial values of PyTorch's linear and convolution layers, weights and biases alike.

    U(-1/sqrt(fan_in), 1/sqrt(fan_in)), where `fan_in` counts as PyTorch does: for a depthwise
    kernel it is the window alone (Keras' `VarianceScaling` would count the channels too). The
    values are drawn by NumPy: the same on every backend after `keras.utils.set_random_seed`, and
    without compiling one program per shape, which costs JAX ten seconds a network.

    Args:
        fan_in: Positive integer. Inputs that one output sums over.
        seed: Integer or `None`. Seed of the draws; `None` takes one from the generator that
            `keras.utils.set_random_seed` seeds. One instance gives the same values at each call.
    """

    def __init__(self, fan_in, seed=None):
        self.fan_in = fan_in
        self.seed = seed
        self.drawn_seed = random.randint(0, 2**31 - 1) if seed is None else seed

    def __call__(self, shape, dtype=None):
        bound = 1 / math.sqrt(self.fan_in)
        values = np.random.default_rng(self.drawn_seed).uniform(-bound, bound, shape)
        return ops.convert_to_tensor(values.astype("float32"), dtype=dtype)

    def get_config(self):
        return {"fan_in": self.fan_in, "seed": self.seed}


def is_positive_integer(value):
    """Whether it is an integer above zero; `True` is no integer here."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_rate(value):
    """Whether it is a number in [0, 1), as a probability of dropping must be."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def run(parent, layer, *args, **kwargs):
    """Calls a sublayer from its parent's `call`, without the cost of `Layer.__call__` if it can.

    `Layer.__call__` of a sublayer repeats what the parent's has done: cast the inputs, open the
    autocast scope, resolve `training`. On PyTorch this costs more than a small layer's arithmetic.
    A sublayer with another policy (quantized, or kept in float32) needs all of it, and gets it.

    Args:
        parent: The layer that owns `layer` and is being called.
        layer: A built sublayer.
        *args: Tensors for `layer`.
        **kwargs: Call arguments of `layer`, `training` among them where it takes one.

    Returns:
        What `layer` returns, in the parent's compute dtype. Nobody else holds it, unless `layer`
        returns its argument.
    """
    if is_plain(parent, layer):
        return layer.call(*args, **kwargs)
    # a hook of its own may hold what it returned
    return forms.unshared(ops.cast(layer(*args, **kwargs), parent.compute_dtype))


def is_plain(parent, layer):
    """Whether a sublayer has its parent's policy, so that its arithmetic is that of its weights."""
    return layer.dtype_policy == parent.dtype_policy


def kernel_and_bias(layer, x):
    """A layer's kernel and bias as tensors of the dtype it computes in; no bias is `None`."""
    bias = None if layer.bias is None else forms.tensor(layer.bias, x)
    return forms.tensor(layer.kernel, x), bias


def run_dense(parent, layer, x):
    """`run` for a `keras.layers.Dense` on rows `(n, channels)`, in the backend's form."""
    if not is_plain(parent, layer):
        return run(parent, layer, x)
    return forms.dense(x, *kernel_and_bias(layer, x))


def run_layer_norm(parent, layer, x, training):
    """`run` for a `keras.layers.LayerNormalization`, in the backend's form."""
    if not is_plain(parent, layer):
        return run(parent, layer, x)
    return forms.layer_norm(layer, x, training)


def run_batch_norm(parent, layer, x, training):
    """`run` for a `keras.layers.BatchNormalization`, in the backend's form."""
    if not is_plain(parent, layer):
        return run(parent, layer, x, training=training)
    return forms.batch_norm(layer, x, training)


def check_map(layer, input_shape, *static):
    """Refuses an input that is not `(batch, height, width, channels)` with the sizes it needs.

    Args:
        layer: The layer that is being built, for the message.
        input_shape: Shape that `build` received.
        *static: Of `"height"`, `"width"`, `"channels"` the axes whose size must be known.

    Returns:
        The tuple `(height, width, channels)`.
    """
    if len(input_shape) != 4:
        raise ValueError(
            f"`{type(layer).__name__}` takes a map (batch, height, width, channels). "
            f"Received: input_shape={tuple(input_shape)}"
        )
    for axis, name in enumerate(("height", "width", "channels"), start=1):
        if name in static and input_shape[axis] is None:
            raise ValueError(
                f"`{type(layer).__name__}` needs a {name} that is known when it is built. "
                f"Received: input_shape={tuple(input_shape)}"
            )
    return tuple(input_shape[1:])
