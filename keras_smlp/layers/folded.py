"""The blocks of a network for inference, batch normalization merged by `keras_smlp.fold`."""

from typing import Any

import keras
from keras import ops

from keras_smlp.checks import check_positive_integer, check_unquantized
from keras_smlp.layers import backend
from keras_smlp.layers.composite import Composite
from keras_smlp.layers.depthwise import DepthwiseConv
from keras_smlp.layers.mixing import build_mlp
from keras_smlp.layers.sparse_mlp import SparseMLP
from keras_smlp.shapes import check_channels, check_map


@keras.saving.register_keras_serializable(package="keras_smlp")
class Affine(keras.Layer):
    """`x * scale + shift` per channel: what batch normalization is at inference.

    Computed in float32 whatever the dtype policy, as Keras' batch normalization.

    Args:
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Input shape:
        `(batch, ..., channels)` of any rank, the channels known.

    Output shape:
        The input's.

    Raises:
        ValueError: If the channels are unknown or the dtype policy is quantized.

    Example:

    >>> x = np.ones((2, 8, 12, 16), "float32")
    >>> tuple(keras_smlp.layers.Affine()(x).shape)
    (2, 8, 12, 16)
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        check_unquantized(self)

    def build(self, input_shape):
        channels = check_channels(self, input_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: channels})
        per_channel = {"shape": (channels,), "autocast": False}
        self.scale = self.add_weight(name="scale", initializer="ones", **per_channel)
        self.shift = self.add_weight(name="shift", initializer="zeros", **per_channel)

    def call(self, x):
        y, scale, shift = (ops.cast(z, "float32") for z in (x, self.scale, self.shift))
        return ops.cast(backend.affine(y, scale, shift), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        # what Keras would record of a layer without this method cannot hold a policy as `dtype`
        return super().get_config()


@keras.saving.register_keras_serializable(package="keras_smlp")
class FoldedTokenMixing(Composite):
    """`TokenMixing` at inference, its second batch normalization merged into the convolution.

    The first one, with no linear layer beside it to be merged into, becomes an `Affine`.

    Args:
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Call arguments:
        x: Feature map `(batch, height, width, channels)`, all but the batch known.
        training: Boolean. Must not be true.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: If the input has another rank or an unknown size, or `training` is true.

    Example:

    >>> x = np.zeros((2, 8, 12, 16), "float32")
    >>> tuple(keras_smlp.layers.FoldedTokenMixing()(x).shape)
    (2, 8, 12, 16)
    """

    PARTS = ("norm1", "conv", "mix")

    def build_parts(self, input_shape):
        shape = check_map(self, input_shape, "height", "width", "channels")
        self.input_spec = keras.layers.InputSpec(shape=(None, *shape))
        self.norm1 = Affine(**self.part_arguments("norm1"))
        self.conv = DepthwiseConv(3, use_bias=True, **self.part_arguments("conv"))
        self.mix = SparseMLP(**self.part_arguments("mix"))
        for layer in (self.norm1, self.conv, self.mix):
            layer.build(input_shape)

    def call(self, x, training=None):
        check_inference(training)
        y = backend.gelu(self.run(self.norm1, x))
        y = backend.gelu(self.run(self.conv, y))
        return backend.add(x, self.run(self.mix, y))


@keras.saving.register_keras_serializable(package="keras_smlp")
class FoldedChannelMixing(Composite):
    """`ChannelMixing` at inference, the layer normalization's scale and shift merged into `dense1`.

    Args:
        expansion: Positive integer. Width of the hidden layer in multiples of the channels.
            Defaults to `3`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Call arguments:
        x: Tensor `(batch, ..., channels)` of any rank, the channels known.
        training: Boolean. Must not be true.

    Returns:
        A tensor of the shape of `x`.

    Raises:
        ValueError: If `expansion` is not a positive integer, the channels are unknown or `training`
            is true.

    Example:

    >>> x = np.zeros((2, 8, 12, 16), "float32")
    >>> tuple(keras_smlp.layers.FoldedChannelMixing(expansion=3)(x).shape)
    (2, 8, 12, 16)
    """

    PARTS = ("norm", "dense1", "dense2")

    def __init__(self, expansion: int = 3, **kwargs: Any):
        super().__init__(**kwargs)
        self.expansion = check_positive_integer("expansion", expansion)

    def build_parts(self, input_shape):
        build_mlp(self, input_shape, affine=False)

    def call(self, x, training=None):
        check_inference(training)
        y = self.run(self.norm, backend.rows(x))
        y = backend.gelu(self.run(self.dense1, y))
        return backend.add(x, backend.as_map(self.run(self.dense2, y), x))

    def get_config(self):
        return {**super().get_config(), "expansion": self.expansion}


def check_inference(training):
    """Refuses training: the batch normalization is gone."""
    if training:
        raise ValueError(
            "`training` must not be true for a folded network, which is for inference: train the "
            "network that keras_smlp.fold was given."
        )
