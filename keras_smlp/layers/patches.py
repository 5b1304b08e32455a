"""The convolution of non-overlapping patches: the stem, and the downsampling between stages."""

from typing import Any

import keras

from keras_smlp.checks import check_pair, check_positive_integer, check_unquantized
from keras_smlp.layers import backend

# the arguments of Conv2D that follow from the kernel's size or have one value here
FIXED = ("strides", "padding", "data_format", "dilation_rate", "groups")


@keras.saving.register_keras_serializable(package="keras_smlp")
class PatchConv(keras.layers.Conv2D):
    """A convolution of non-overlapping patches: a linear layer on each of them.

    A `keras.layers.Conv2D` without padding whose strides are its kernel's size, implemented
    for each backend in `layers/backend`. Positions that fill no whole patch are left out.

    Args:
        filters: Positive integer. Channels of the output.
        kernel_size: Positive integer, or a pair `(height, width)` of them. Size of a patch, in
            positions.
        **kwargs: Keyword arguments of `keras.layers.Conv2D` but for `strides`, `padding`,
            `data_format`, `dilation_rate` and `groups`.

    Input shape:
        `(batch, height, width, channels)`, the channels known.

    Output shape:
        `(batch, height // kernel_size, width // kernel_size, filters)`, of a pair its two.

    Raises:
        ValueError: If one of those five is given, or an argument is invalid.

    Reference:
        The stem and `downsample` in the official `models/smlp.py`.

    Example:

    >>> x = np.zeros((2, 8, 12, 16), "float32")
    >>> tuple(keras_smlp.layers.PatchConv(32, 4)(x).shape)
    (2, 2, 3, 32)
    """

    def __init__(self, filters: int, kernel_size: int | tuple[int, int], **kwargs: Any):
        if fixed := [key for key in FIXED if key in kwargs]:
            raise ValueError(f"`PatchConv` has fixed {FIXED}. Received: {fixed}")
        filters = check_positive_integer("filters", filters)
        size = check_pair("kernel_size", kernel_size)
        super().__init__(filters, size, strides=size, data_format="channels_last", **kwargs)
        check_unquantized(self)

    def convolution_op(self, inputs, kernel):
        return backend.patches(inputs, backend.tensor(kernel, inputs))

    def get_config(self):
        return {key: x for key, x in super().get_config().items() if key not in FIXED}
