"""The definition of the layers' arithmetic by Keras' operations, for every backend."""

import contextlib

import keras
from keras import ops


def casting(variables, dtype):
    """A context in which `tensor` finds these variables cast to `dtype`, all at once."""
    return contextlib.nullcontext()


def tensor(variable, x):
    """A variable as a tensor in the compute dtype, for a product with `x`; `None` stays `None`."""
    return None if variable is None else ops.convert_to_tensor(variable)


def biased(x, bias):
    """`x + bias` per channel."""
    return ops.add(x, bias)


def dense(x, kernel, bias):
    """`x @ kernel + bias` for the rows of `x`; `bias` may be `None`."""
    y = ops.matmul(x, kernel)
    return y if bias is None else ops.add(y, bias)


def rows(x):
    """A feature map as the matrix `(batch * height * width, channels)`."""
    return ops.reshape(x, (-1, ops.shape(x)[-1]))


def as_map(rows, x):
    """A matrix that `rows` has made, as a feature map of the shape of `x`."""
    return ops.reshape(rows, ops.shape(x))


def axial(x, kernel, bias, axis):
    """A linear layer along `"height"` or `"width"`; a bias per position, which may be `None`."""
    _, height, width, channels = ops.shape(x)
    # along the height, a row of positions is one vector (width * channels): no transpose either way
    matrices = x if axis == "width" else ops.reshape(x, (-1, height, width * channels))
    y = ops.matmul(kernel, matrices)
    if bias is not None:
        # the bias first: on TensorFlow, `ops.add(y, bias)` may add it along another axis
        y = ops.add(ops.expand_dims(bias, -1), y)
    return y if axis == "width" else ops.reshape(y, (-1, height, width, channels))


def fuse(branches, kernel):
    """`concat(branches) @ kernel` for feature maps, concatenated along the channels."""
    y = ops.matmul(rows(ops.concatenate(branches, axis=-1)), kernel)
    return as_map(y, branches[0])


def copy_if_inplace(x):
    """`x`, or a copy of it where the backend's operations overwrite their operand."""
    return x


def gelu(x, training=False):
    """The exact GELU (erf; Keras' default is the tanh approximation). It may overwrite `x`."""
    return ops.gelu(x, approximate=False)


def add(x, y):
    """`x + y`. It may overwrite `y`."""
    return x + y


def affine(x, scale, shift):
    """`x * scale + shift` per channel."""
    return ops.add(ops.multiply(x, scale), shift)


def layer_norm(layer, x, training=False):
    """Layer normalization with the weights and the epsilon of a Keras layer."""
    return keras.layers.LayerNormalization.call(layer, x)


def batch_norm(layer, x, training):
    """Batch normalization with a Keras layer's weights; training updates its statistics."""
    return keras.layers.BatchNormalization.call(layer, x, training=training)


def updating_statistics(layers):
    """A context for a training step, after which the statistics of `BatchNorm` are updated."""
    return contextlib.nullcontext()


def depthwise(x, kernel, bias):
    """A depthwise convolution, zero-padded to the size of `x`; `bias` may be `None`."""
    y = ops.depthwise_conv(x, kernel, strides=1, padding="same", data_format="channels_last")
    return y if bias is None else ops.add(y, bias)


def patches(x, kernel):
    """A convolution of non-overlapping patches."""
    return ops.conv(
        x, kernel, strides=kernel.shape[:2], padding="valid", data_format="channels_last"
    )


def patches_by_product(x, kernel, product=ops.matmul):
    """The same as a `product` of two matrices, the first with a row per patch."""
    high, wide, channels, filters = kernel.shape
    _, height, width, _ = ops.shape(x)
    height, width = height // high, width // wide
    windows = x[:, : height * high, : width * wide]
    windows = ops.reshape(windows, (-1, height, high, width, wide, channels))
    windows = ops.reshape(ops.transpose(windows, (0, 1, 3, 2, 4, 5)), (-1, high * wide * channels))
    y = product(windows, ops.reshape(kernel, (-1, filters)))
    return ops.reshape(y, (-1, height, width, filters))
