"""The arithmetic of the layers, in the form that each backend runs fast.

One set of weights, one definition, and for some operations a second form: PyTorch runs every
operation by itself, so there a product takes its bias with it, the parts of a fusion are added up
in place of being concatenated, and batch normalization is one operation; XLA lowers a grouped
convolution badly. The composed forms define the arithmetic; `tests/test_forms.py` compares.
"""

import keras
from keras import ops

if keras.backend.backend() == "torch":
    import torch
    import torch.nn.functional as F


# ---- what defines the arithmetic, and runs on every backend -------------------------------------
def composed_dense(x, kernel, bias):
    """`x @ kernel + bias` for the rows of `x`; `bias` may be `None`."""
    y = ops.matmul(x, kernel)
    return y if bias is None else ops.add(y, bias)


def composed_rows(x):
    """A map's positions as the rows of a matrix `(positions, channels)`."""
    return ops.reshape(x, (-1, ops.shape(x)[-1]))


def composed_as_map(rows, x):
    """Rows as a map again, like the one that they came from."""
    return ops.reshape(rows, ops.shape(x))


def composed_axial(x, kernel, bias, axis):
    """A linear map along `"height"` or `"width"`; a bias per position, which may be `None`."""
    _, height, width, channels = ops.shape(x)
    # the columns' map is a row map of (height, width * channels): no transpose either way
    matrices = x if axis == "width" else ops.reshape(x, (-1, height, width * channels))
    y = ops.matmul(kernel, matrices)
    if bias is not None:
        # the bias first: on TensorFlow, `ops.add(y, bias)` may add it along another axis
        y = ops.add(ops.expand_dims(bias, -1), y)
    return y if axis == "width" else ops.reshape(y, (-1, height, width, channels))


def composed_fuse(parts, kernel):
    """`concat(parts) @ kernel` for maps."""
    rows = composed_rows(ops.concatenate(parts, axis=-1))
    return composed_as_map(ops.matmul(rows, kernel), parts[0])


def composed_gelu(x):
    """The exact GELU (erf); Keras' default is the tanh approximation."""
    return ops.gelu(x, approximate=False)


def composed_affine(x, scale, shift):
    """`x * scale + shift` per channel."""
    return ops.add(ops.multiply(x, scale), shift)


def composed_batch_norm(layer, x, training):
    """What Keras' layer does, the update of its statistics included."""
    return layer.call(x, training=training)


def composed_depthwise(x, kernel, bias):
    """A depthwise convolution of maps, zero-padded to their size; `bias` may be `None`."""
    y = ops.depthwise_conv(x, kernel, strides=1, padding="same", data_format="channels_last")
    return y if bias is None else ops.add(y, bias)


# ---- XLA ----------------------------------------------------------------------------------------
def shifted_depthwise(x, kernel, bias):
    """The same as a sum of shifted products, one per kernel entry.

    XLA lowers a grouped convolution to something 30 to 50 times slower on a CPU, while it fuses
    these products into one loop.
    """
    rows, columns = kernel.shape[:2]
    height, width = ops.shape(x)[1:3]
    margins = [(size // 2, size // 2) for size in (rows, columns)]
    padded = ops.pad(x, [(0, 0), *margins, (0, 0)])
    total = 0.0 if bias is None else bias
    for i in range(rows):
        for j in range(columns):
            total = total + padded[:, i : i + height, j : j + width, :] * kernel[i, j, :, 0]
    return total


# ---- PyTorch ------------------------------------------------------------------------------------
def torch_dense(x, kernel, bias):
    return torch.mm(x, kernel) if bias is None else torch.addmm(bias, x, kernel)


def torch_rows(x):
    return x.reshape(-1, x.shape[-1])


def torch_as_map(rows, x):
    return rows.reshape(x.shape)


def torch_axial(x, kernel, bias, axis):
    batch, height, width, channels = x.shape
    if axis == "width":
        matrices = x.reshape(batch * height, width, channels)
    else:
        matrices = x.reshape(batch, height, width * channels)
    kernel = kernel.expand(matrices.shape[0], -1, -1)
    if bias is None:
        return torch.bmm(kernel, matrices).reshape(x.shape)
    return torch.baddbmm(bias[:, None], kernel, matrices).reshape(x.shape)


def torch_fuse(parts, kernel):
    kernels = kernel.split([part.shape[-1] for part in parts])
    y = torch.mm(torch_rows(parts[0]), kernels[0])
    for part, kernel in zip(parts[1:], kernels[1:], strict=True):
        y = y.addmm_(torch_rows(part), kernel)
    return y.reshape(parts[0].shape)


def torch_gelu(x):
    return F.gelu(x)


def torch_affine(x, scale, shift):
    return torch.addcmul(shift, x, scale)


def torch_batch_norm(layer, x, training):
    values = x.numel() // x.shape[-1]  # per channel
    if values == 1 and training:
        return layer.call(x, training=training)  # PyTorch's has no statistics of one value
    mean, variance, gamma, beta = (
        ops.convert_to_tensor(v)
        for v in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    )
    channels_first = x.movedim(-1, 1)
    if not (training and layer.trainable):
        y = F.batch_norm(channels_first, mean, variance, gamma, beta, eps=layer.epsilon)
        return y.movedim(1, -1)
    batch_mean, batch_variance = torch.zeros_like(mean), torch.zeros_like(variance)
    y = F.batch_norm(
        channels_first, batch_mean, batch_variance, gamma, beta, True, 1.0, layer.epsilon
    )
    momentum, biased = layer.momentum, (values - 1) / values  # the variance that Keras tracks
    layer.moving_mean.assign(mean * momentum + batch_mean * (1 - momentum))
    layer.moving_variance.assign(variance * momentum + batch_variance * (biased * (1 - momentum)))
    return y.movedim(1, -1)


def torch_depthwise(x, kernel, bias):
    channels_first, kernel = x.permute(0, 3, 1, 2), kernel.permute(2, 3, 0, 1)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    margins = [size // 2 for size in kernel.shape[2:]]
    y = F.conv2d(channels_first, kernel, bias, padding=margins, groups=kernel.shape[0])
    return y.permute(0, 2, 3, 1)


# ---- who takes which ----------------------------------------------------------------------------
COMPOSED = {
    "rows": composed_rows,
    "as_map": composed_as_map,
    "dense": composed_dense,
    "axial": composed_axial,
    "fuse": composed_fuse,
    "gelu": composed_gelu,
    "affine": composed_affine,
    "batch_norm": composed_batch_norm,
    "depthwise": composed_depthwise,
}
FORMS = {
    "tensorflow": COMPOSED,
    "jax": {**COMPOSED, "depthwise": shifted_depthwise},
    "torch": {
        "rows": torch_rows,
        "as_map": torch_as_map,
        "dense": torch_dense,
        "axial": torch_axial,
        "fuse": torch_fuse,
        "gelu": torch_gelu,
        "affine": torch_affine,
        "batch_norm": torch_batch_norm,
        "depthwise": torch_depthwise,
    },
}
_own = FORMS.get(keras.backend.backend(), COMPOSED)
rows, as_map, dense, axial = _own["rows"], _own["as_map"], _own["dense"], _own["axial"]
fuse, gelu, affine = _own["fuse"], _own["gelu"], _own["affine"]
batch_norm, depthwise = _own["batch_norm"], _own["depthwise"]
