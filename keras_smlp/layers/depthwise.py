"""The depthwise convolution."""

from typing import Any

import keras

from keras_smlp.checks import check_boolean, check_unquantized, is_positive_integer, refusal
from keras_smlp.layers import backend
from keras_smlp.layers.initializers import TorchUniform
from keras_smlp.shapes import check_map


@keras.saving.register_keras_serializable(package="keras_smlp")
class DepthwiseConv(keras.Layer):
    """Depthwise 2-D convolution, stride 1, zero-padded to the input's size.

    One `kernel_size x kernel_size` filter per channel. The arithmetic is that of
    `keras.layers.DepthwiseConv2D`, implemented for each backend in `layers/backend`.

    Args:
        kernel_size: Odd positive integer. Side of the filter. Defaults to `3`.
        use_bias: Boolean. Whether to add one bias per channel, initially zero. Defaults to `False`,
            as in the official network.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Input shape:
        `(batch, height, width, channels)`, the channels known.

    Output shape:
        The input's.

    Raises:
        ValueError: If an argument is invalid, or the input has another rank or unknown channels.

    Reference:
        `DWConv` in the official `models/smlp.py`. Initial values are PyTorch's,
        U(-1/kernel_size, 1/kernel_size).

    Example:

    >>> x = np.zeros((2, 8, 12, 16), "float32")
    >>> tuple(keras_smlp.layers.DepthwiseConv(3)(x).shape)
    (2, 8, 12, 16)
    """

    def __init__(self, kernel_size: int = 3, use_bias: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        check_unquantized(self)
        if not is_positive_integer(kernel_size) or kernel_size % 2 == 0:
            raise refusal("kernel_size", kernel_size, "an odd positive integer")
        self.kernel_size = int(kernel_size)
        self.use_bias = check_boolean("use_bias", use_bias)

    def build(self, input_shape):
        *_, channels = check_map(self, input_shape, "channels")
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, channels, 1),
            initializer=TorchUniform(self.kernel_size**2),
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros")

    def call(self, x):
        kernel, bias = backend.tensor(self.kernel, x), backend.tensor(self.bias, x)
        return backend.depthwise(x, kernel, bias)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        return {**config, "kernel_size": self.kernel_size, "use_bias": self.use_bias}
