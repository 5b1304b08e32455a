"""XLA's forms: what its fusions would compute again and again, and derivatives that save memory.

XLA lowers a grouped convolution to something 30 to 50 times slower on a CPU than the shifted
products here. It also fuses what comes before into each of those products (`optimization_barrier`
keeps it from that), and its derivatives of GELU and layer normalization keep many intermediate maps
where the input is enough. They have reverse-mode derivatives only.
"""

import math
from functools import partial
from itertools import accumulate

import jax
import numpy as np
from jax import numpy as jnp
from jax.lax import optimization_barrier
from keras import ops

from keras_smlp.layers.backend import reference
from keras_smlp.layers.backend.reference import as_map, rows


def is_one_cpu():
    """Whether one processor runs all: what is only for its cache is not for other devices."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


# ---- GELU ---------------------------------------------------------------------------------------
def gelu(x, training=False):
    return exact_gelu(x)


@jax.custom_vjp
def exact_gelu(x):
    wide = widened(x)  # by `erf` as PyTorch has it: XLA's `erfc` takes 2.6 times as long
    return (wide * distribution(wide)).astype(x.dtype)


def gelu_forward(x):
    return exact_gelu(x), x


def gelu_backward(x, upstream):
    # as if it were another map: XLA would keep what the forward pass computed of this one
    wide = widened(optimization_barrier(x))
    density = jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return ((upstream * (distribution(wide) + wide * density)).astype(x.dtype),)


def distribution(x):
    """The normal distribution function."""
    return 0.5 * (1 + erf(x * math.sqrt(0.5)))


def erf(x):
    """The error function as XLA computes it in float32, by a quotient of polynomials.

    Written out: TensorFlow 2.21 cannot read what `jax.lax.erf` leaves in a SavedModel.
    """
    x = jnp.clip(x, -3.832506856900711, 3.832506856900711)  # one to the last digit beyond
    return x * jnp.polyval(ERF_NUMERATOR, x * x) / jnp.polyval(ERF_DENOMINATOR, x * x)


ERF_NUMERATOR = np.array(
    [
        2.2905065861350646e-4,
        3.4082910107109506e-3,
        5.0955695062380861e-2,
        1.8520832239976145e-1,
        1.128379143519084,
    ],
    "float32",
)
ERF_DENOMINATOR = np.array(
    [
        -1.1791602954361697e-7,
        2.3547966471313185e-5,
        1.0179625278914885e-3,
        1.4070470171167667e-2,
        1.1098505178285362e-1,
        4.9746925110067538e-1,
        1.0,
    ],
    "float32",
)


def widened(x):
    """In float32 at least: 16 bits lose what `erf` adds to one, and the sums of a mean."""
    return x.astype(jnp.promote_types(x.dtype, "float32"))


exact_gelu.defvjp(gelu_forward, gelu_backward)


# ---- layer normalization ------------------------------------------------------------------------
def layer_norm(layer, x, training=False):
    if layer.gamma is None:
        return reference.layer_norm(layer, x)
    tensors = x, ops.convert_to_tensor(layer.gamma), ops.convert_to_tensor(layer.beta)
    y = normalized(*map(widened, tensors), layer.epsilon)
    return y.astype(layer.compute_dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized(x, gamma, beta, epsilon):
    return normalized_forward(x, gamma, beta, epsilon)[0]


def normalized_forward(x, gamma, beta, epsilon):
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return (x - mean) * inverse * gamma + beta, (x, mean, inverse, gamma)


def normalized_backward(epsilon, saved, upstream):
    x, mean, inverse, gamma = saved
    others = tuple(range(x.ndim - 1))
    y, scaled = (x - mean) * inverse, upstream * gamma
    along = scaled.mean(-1, keepdims=True) + y * (scaled * y).mean(-1, keepdims=True)
    return inverse * (scaled - along), (upstream * y).sum(others), upstream.sum(others)


normalized.defvjp(normalized_forward, normalized_backward)


# ---- products ------------------------------------------------------------------------------------
def fuse(parts, kernel):
    return fused(tuple(parts), kernel)


@jax.custom_vjp
def fused(parts, kernel):
    return reference.fuse(parts, kernel)


def fused_forward(parts, kernel):
    return fused(parts, kernel), (parts, kernel)


def fused_backward(saved, upstream):
    parts, kernel = saved
    upstream = rows(upstream)
    ends = list(accumulate(part.shape[-1] for part in parts))
    # by parts: their concatenation would be made anew, and its derivative copied
    gradient = jnp.concatenate([rows(part).T @ upstream for part in parts])
    kernels = jnp.split(kernel, ends[:-1])
    gradients = [as_map(upstream @ k.T, part) for part, k in zip(parts, kernels, strict=True)]
    return tuple(gradients), gradient


fused.defvjp(fused_forward, fused_backward)


# on a CPU XLA's convolution takes up to ten times as long, its derivatives twice
patches = reference.patches_by_product


def axial(x, kernel, bias, axis):
    _, height, width, channels = x.shape
    # the columns' map is a row map of (height, width * channels): no transpose either way
    shape = (-1, width, channels) if axis == "width" else (-1, height, width * channels)
    y = mixed(kernel, x.reshape(shape))
    return (y if bias is None else y + bias[:, None]).reshape(x.shape)


@jax.custom_vjp
def mixed(kernel, matrices):
    return kernel @ matrices


def mixed_forward(kernel, matrices):
    return kernel @ matrices, (kernel, matrices)


def mixed_backward(saved, upstream):
    kernel, matrices = saved
    # on a CPU a product for each matrix, and their sum: one contraction would be transposed first
    wide = jnp.promote_types(kernel.dtype, "float32")
    sums = "nvx,nwx->nvw" if is_one_cpu() else "nvx,nwx->vw"
    products = jnp.einsum(sums, upstream, matrices, preferred_element_type=wide)
    gradient = products.reshape(-1, *kernel.shape).sum(0)
    return gradient.astype(kernel.dtype), kernel.T @ upstream


mixed.defvjp(mixed_forward, mixed_backward)


# ---- depthwise convolution ----------------------------------------------------------------------
def depthwise(x, kernel, bias):
    y = convolved(x, kernel)
    return y if bias is None else y + bias


@jax.custom_vjp
def convolved(x, kernel):
    x = optimization_barrier(x)
    total = 0.0
    for (i, j), part in shifted(pad(x, kernel), kernel, x.shape[1:3]):
        total = total + part * kernel[i, j, :, 0]
    return total


def convolved_forward(x, kernel):
    x = optimization_barrier(x)
    return optimization_barrier(convolved(x, kernel)), (x, kernel)


def convolved_backward(saved, upstream):
    (x, upstream), kernel = optimization_barrier((saved[0], upstream)), saved[1]
    padded = optimization_barrier(pad(x, kernel))

    def add(total, image):
        parts = shifted(image[0], kernel, x.shape[1:3])
        positions = tuple(range(image[1].ndim - 1))
        sums = [(part * image[1]).sum(positions, dtype=dtype) for _, part in parts]
        return total + jnp.stack(sums), None

    dtype = jnp.promote_types(kernel.dtype, "float32")
    total = jnp.zeros((kernel[..., 0, 0].size, kernel.shape[2]), dtype)
    if is_one_cpu():
        # an image at a time: the products stay in the cache (and no device needs others' images)
        total, _ = jax.lax.scan(add, total, (padded, upstream))
    else:
        total, _ = add(total, (padded, upstream))
    gradient = convolved(upstream, kernel[::-1, ::-1])
    return optimization_barrier(gradient), total.reshape(kernel.shape).astype(kernel.dtype)


convolved.defvjp(convolved_forward, convolved_backward)


def pad(x, kernel):
    """Maps with the zeros around them that keep their size."""
    margins = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jnp.pad(x, [(0, 0), *margins, (0, 0)])


def shifted(padded, kernel, size):
    """For every entry of the kernel, its place and what it multiplies."""
    height, width = size
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            yield (i, j), padded[..., i : i + height, j : j + width, :]
