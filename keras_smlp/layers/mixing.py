"""The two halves of an sMLPNet block: token mixing and channel mixing, each with its residual."""

from typing import Any

import keras

from keras_smlp.checks import check_positive_integer, check_rate
from keras_smlp.layers import backend
from keras_smlp.layers.composite import Composite
from keras_smlp.layers.dense import Dense
from keras_smlp.layers.depthwise import DepthwiseConv
from keras_smlp.layers.drop_path import DropPath
from keras_smlp.layers.initializers import TorchUniform
from keras_smlp.layers.normalization import BatchNormalization, LayerNorm
from keras_smlp.layers.remat import rematerialized
from keras_smlp.layers.sparse_mlp import SparseMLP
from keras_smlp.shapes import check_channels, check_map


class Mixing(Composite):
    """One of the two halves of a block: subclasses define `mixed(x, training)`."""

    remat = False  # whether the backward pass computes it again

    def call(self, x, training=None):
        if self.remat and training:
            return rematerialized(self, x)
        return self.mixed(x, training)


@keras.saving.register_keras_serializable(package="keras_smlp")
class TokenMixing(Mixing):
    """Token mixing of an sMLPNet block: `x + drop_path(branch(x))`.

    `branch` is batch normalization, GELU, a depthwise 3x3 convolution, batch normalization, GELU
    and the sparse MLP (`SparseMLP`), in this order.

    Args:
        drop_path_rate: Float in `[0, 1)`. Stochastic depth of the branch. Defaults to `0.0`.
        seed: Integer or `None`. Seed of the stochastic depth, see `DropPath`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Call arguments:
        x: Feature map `(batch, height, width, channels)`, all but the batch known.
        training: Boolean. Batch statistics and stochastic depth if true.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: If `drop_path_rate` is outside `[0, 1)`, or the input has another rank or an
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

    def __init__(self, drop_path_rate: float = 0.0, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        drop_path_rate = check_rate("drop_path_rate", drop_path_rate)
        self.drop_path = DropPath(drop_path_rate, seed, **self.part_arguments("drop_path"))

    def build_parts(self, input_shape):
        shape = check_map(self, input_shape, "height", "width", "channels")
        self.input_spec = keras.layers.InputSpec(shape=(None, *shape))
        self.norm1 = BatchNormalization(**self.part_arguments("norm1"))
        self.conv = DepthwiseConv(3, **self.part_arguments("conv"))
        self.norm2 = BatchNormalization(**self.part_arguments("norm2"))
        self.mix = SparseMLP(**self.part_arguments("mix"))
        for layer in (self.norm1, self.conv, self.norm2, self.mix):
            layer.build(input_shape)

    def mixed(self, x, training):
        y = backend.gelu(self.run(self.norm1, x, training=training), training)
        y = self.run(self.conv, y)
        y = backend.gelu(self.run(self.norm2, y, training=training), training)
        y = self.run(self.mix, y)
        return backend.add(x, self.run(self.drop_path, y, training=training))

    def get_config(self):
        drop_path = self.drop_path
        return {**super().get_config(), "drop_path_rate": drop_path.rate, "seed": drop_path.seed}


@keras.saving.register_keras_serializable(package="keras_smlp")
class ChannelMixing(Mixing):
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

    def __init__(
        self,
        expansion: int = 3,
        drop_path_rate: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.expansion = check_positive_integer("expansion", expansion)
        drop_path_rate = check_rate("drop_path_rate", drop_path_rate)
        self.drop_path = DropPath(drop_path_rate, seed, **self.part_arguments("drop_path"))

    def build_parts(self, input_shape):
        build_mlp(self, input_shape)

    def mixed(self, x, training):
        # one matrix of all positions: TensorFlow fuses such a product with bias and GELU, and XLA
        # is faster at it
        y = self.run(self.norm, backend.rows(x), training=training)
        y = backend.gelu(self.run(self.dense1, y), training)
        y = backend.as_map(self.run(self.dense2, y), x)
        return backend.add(x, self.run(self.drop_path, y, training=training))

    def get_config(self):
        return {
            **super().get_config(),
            "expansion": self.expansion,
            "drop_path_rate": self.drop_path.rate,
            "seed": self.drop_path.seed,
        }


def build_mlp(layer, input_shape, affine=True):
    """Builds the normalization and the dense layers of a channel mixing.

    Args:
        layer: The `ChannelMixing` or `FoldedChannelMixing`.
        input_shape: Shape that its `build` received.
        affine: Boolean. Whether the normalization has a scale and a shift; a folded one has none.
            Defaults to `True`.
    """
    channels = check_channels(layer, input_shape)
    hidden = layer.expansion * channels
    layer.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: channels})
    layer.norm = LayerNorm(center=affine, scale=affine, **layer.part_arguments("norm"))
    layer.dense1 = dense(hidden, channels, Dense, **layer.part_arguments("dense1"))
    layer.dense2 = dense(channels, hidden, Dense, **layer.part_arguments("dense2"))
    layer.norm.build((None, channels))  # it normalizes rows, see `call`
    layer.dense1.build(input_shape)
    layer.dense2.build((*input_shape[:-1], hidden))


def dense(units, fan_in, kind=keras.layers.Dense, **kwargs):
    """A dense layer with PyTorch's initial values: its bias does not start at zero."""
    return kind(
        units,
        kernel_initializer=TorchUniform(fan_in),
        bias_initializer=TorchUniform(fan_in),
        **kwargs,
    )
