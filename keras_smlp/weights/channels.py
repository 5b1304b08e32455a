"""The stem of RGB weights for another number of channels."""

import re

import numpy as np

from keras_smlp import naming
from keras_smlp.preprocessing import of_channels
from keras_smlp.weights.stored import Stored

KERNEL = re.compile(rf"(.*/)?{naming.STEM}/kernel")
RGB = 3


def fitted(model, expected, tensors):
    """A file's tensors, the kernel of the stem made for a model's number of channels.

    Of RGB weights, a stem of one channel has the sum of the three kernels: on a gray image it
    computes what the three do on its RGB copy. One of `n` other channels has those of red, green
    and blue in turn, times `3 / n`. A model that makes RGB of gray images has the kernels of RGB;
    of weights for one channel each of them is a third.

    Args:
        model: The model.
        expected: As `strict.assign` takes it.
        tensors: Dict of `stored.Stored` by name.

    Returns:
        A dict of `stored.Stored` by name; what fits, and what cannot be made to, as it was.

    Reference:
        timm, `adapt_input_conv`.
    """
    makes_rgb = any(map(naming.is_gray_to_rgb, model.layers))
    fitting = dict(tensors)
    for name, (variable, axes) in expected.items():
        tensor = tensors.get(name)
        if tensor is None or not KERNEL.fullmatch(variable.path) or len(tensor.shape) != 4:
            continue
        axis = 2 if axes is None else axes[2]  # of the channels in the file
        old, new = tensor.shape[axis], variable.shape[2]
        if old == RGB != new or (old == 1 and new == RGB and makes_rgb):
            fitting[name] = fitting_one(tensor, axis, new)
    return fitting


def fitting_one(tensor, axis, channels):
    """A `Stored` kernel that is made for so many channels once it is read."""
    shape = (*tensor.shape[:axis], channels, *tensor.shape[axis + 1 :])
    return Stored(shape, tensor.dtype, lambda: adapted(tensor.read(), axis, channels))


def adapted(kernel, axis, channels):
    """A kernel for so many channels, of one for RGB or for gray images."""
    kernel = kernel.astype("float64")
    if channels == 1:
        return kernel.sum(axis, keepdims=True)
    old = kernel.shape[axis]
    chosen = of_channels(range(old), channels)
    return np.take(kernel, chosen, axis) * (old / channels)
