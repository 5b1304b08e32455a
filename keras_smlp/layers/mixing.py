"""The two halves of an sMLPNet block: token mixing and channel mixing, each with its residual."""

import keras

from keras_smlp.layers import forms
from keras_smlp.layers.axial import SparseMLP
from keras_smlp.layers.common import (
    TorchUniform,
    check_map,
    is_positive_integer,
    register,
    run,
    run_batch_norm,
    run_dense,
    run_layer_norm,
)
from keras_smlp.layers.composite import Composite
from keras_smlp.layers.depthwise import DepthwiseConv
from keras_smlp.layers.drop_path import DropPath

# PyTorch's defaults; its momentum of 0.1 is 0.9 in Keras' terms
EPSILON = 1e-5
MOMENTUM = 0.9


def batch_norm(**kwargs):
    """Batch normalization with the official network's constants."""
    return keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, **kwargs)


@register
class TokenMixing(Composite):
    """Token mixing of an sMLPNet block: `x + drop_path(mix(x))`.

    `mix` is batch normalization, GELU, a depthwise 3x3 convolution, batch normalization, GELU and
    the sparse MLP (`SparseMLP`), in this order.

    Args:
        drop_path_rate: Float in `[0, 1)`. Stochastic depth of the branch. Defaults to `0.0`.
        seed: Integer or `None`. Seed of the stochastic depth, see `DropPath`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Call arguments:
        x: Map `(batch, height, width, channels)`, all but the batch known.
        training: Boolean. Batch statistics and stochastic depth if true.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: If `drop_path_rate` is outside `[0, 1)`, or the input is no map or has an
            unknown size.

    Reference:
        [Sparse MLP for Image Recognition](https://arxiv.org/abs/2109.05422), figure 2; an entry of
        `token_mix` in the official `models/smlp.py`.

    Example:

    >>> x = np.zeros((2, 8, 12, 16), "float32")
    >>> tuple(keras_smlp.layers.TokenMixing(drop_path_rate=0.1)(x).shape)
    (2, 8, 12, 16)
    """

    PARTS = ("norm1", "conv", "norm2", "mix", "drop_path")

    def __init__(self, drop_path_rate=0.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.drop_path = DropPath(drop_path_rate, seed, **self.part("drop_path"))

    def build(self, input_shape):
        shape = check_map(self, input_shape, "height", "width", "channels")
        self.input_spec = keras.layers.InputSpec(shape=(None, *shape))
        self.norm1 = batch_norm(**self.part("norm1"))
        self.conv = DepthwiseConv(3, **self.part("conv"))
        self.norm2 = batch_norm(**self.part("norm2"))
        self.mix = SparseMLP(**self.part("mix"))
        for layer in (self.norm1, self.conv, self.norm2, self.mix):
            layer.build(input_shape)

    def call(self, x, training=None):
        y = forms.gelu(run_batch_norm(self, self.norm1, x, training), training)
        y = run(self, self.conv, y)
        y = forms.gelu(run_batch_norm(self, self.norm2, y, training), training)
        y = run(self, self.mix, y)
        return forms.add(x, run(self, self.drop_path, y, training=training))

    def get_config(self):
        path = self.drop_path
        return {**super().get_config(), "drop_path_rate": path.rate, "seed": path.seed}


@register
class ChannelMixing(Composite):
    """Channel mixing of an sMLPNet block: `x + drop_path(mlp(layer_norm(x)))`.

    `mlp` is a dense layer to `expansion * channels`, GELU and a dense layer back, at each position.

    Args:
        expansion: Positive integer. Width of the hidden layer in multiples of the channels.
            Defaults to `3`.
        drop_path_rate: Float in `[0, 1)`. Stochastic depth of the branch. Defaults to `0.0`.
        seed: Integer or `None`. Seed of the stochastic depth, see `DropPath`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Call arguments:
        x: Tensor `(batch, ..., channels)` of any rank, the channels known.
        training: Boolean. Stochastic depth if true.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: If `expansion` is not a positive integer, `drop_path_rate` is outside `[0, 1)`
            or the channels are unknown.

    Reference:
        [Sparse MLP for Image Recognition](https://arxiv.org/abs/2109.05422), figure 2; an entry of
        `channel_mix` in the official `models/smlp.py`.

    Example:

    >>> x = np.zeros((2, 8, 12, 16), "float32")
    >>> tuple(keras_smlp.layers.ChannelMixing(expansion=3)(x).shape)
    (2, 8, 12, 16)
    """

    PARTS = ("norm", "dense1", "dense2", "drop_path")
    AFFINE = True  # whether the normalization has a scale and a shift

    def __init__(self, expansion=3, drop_path_rate=0.0, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not is_positive_integer(expansion):
            raise ValueError(
                f"`expansion` must be a positive integer. Received: expansion={expansion!r}"
            )
        self.expansion = expansion
        self.drop_path = DropPath(drop_path_rate, seed, **self.part("drop_path"))

    def build(self, input_shape):
        channels = check_channels(self, input_shape)
        hidden = self.expansion * channels
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: channels})
        self.norm = keras.layers.LayerNormalization(
            epsilon=EPSILON, center=self.AFFINE, scale=self.AFFINE, **self.part("norm")
        )
        self.dense1 = dense(hidden, channels, **self.part("dense1"))
        self.dense2 = dense(channels, hidden, **self.part("dense2"))
        self.norm.build(input_shape)
        self.dense1.build(input_shape)
        self.dense2.build((*input_shape[:-1], hidden))

    def call(self, x, training=None):
        # as rows: TensorFlow fuses a matrix product with bias and GELU, and XLA is faster on them
        y = run_layer_norm(self, self.norm, forms.rows(x), training)
        y = forms.gelu(run_dense(self, self.dense1, y), training)
        y = forms.as_map(run_dense(self, self.dense2, y), x)
        return forms.add(x, run(self, self.drop_path, y, training=training))

    def get_config(self):
        path = self.drop_path
        return {
            **super().get_config(),
            "expansion": self.expansion,
            "drop_path_rate": path.rate,
            "seed": path.seed,
        }


def check_channels(layer, input_shape):
    """The channels of an input, which must be known."""
    if input_shape[-1] is None:
        raise ValueError(
            f"`{type(layer).__name__}` needs channels that are known when it is built. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    return input_shape[-1]


def dense(units, fan_in, **kwargs):
    """A dense layer with PyTorch's initial values: its bias does not start at zero."""
    return keras.layers.Dense(
        units,
        kernel_initializer=TorchUniform(fan_in),
        bias_initializer=TorchUniform(fan_in),
        **kwargs,
    )
