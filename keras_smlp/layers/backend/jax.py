"""What JAX computes in another way than `reference.py`, for the programs that XLA makes of it.

XLA lowers a grouped convolution to something 30 to 50 times slower on a CPU than the shifted
products here. It also fuses what comes before into each of those products, and so computes it again
and again (`optimization_barrier` keeps it from that). And the derivatives that JAX makes of GELU
and layer normalization keep many intermediate results where the input is enough; those here save
memory, but serve reverse-mode differentiation only.
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
    """Whether the only device is a CPU: what makes use of its cache would not serve others."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


# ---- GELU ---------------------------------------------------------------------------------------
def gelu(x, training=False):
    return exact_gelu(x)


@jax.custom_vjp
def exact_gelu(x):
    wide = widened(x)  # by `erf` as in PyTorch: `jax.nn.gelu`'s `erfc` takes 2.6 times as long
    return (wide * normal_cdf(wide)).astype(x.dtype)


def gelu_forward(x):
    return exact_gelu(x), x


def gelu_backward(x, upstream):
    # the barrier: XLA would otherwise keep what the forward pass computed on its way
    wide = widened(optimization_barrier(x))
    density = jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return ((upstream * (normal_cdf(wide) + wide * density)).astype(x.dtype),)


def normal_cdf(x):
    """The cumulative distribution function of the standard normal distribution."""
    return 0.5 * (1 + erf(x * math.sqrt(0.5)))


def erf(x):
    """The error function as XLA computes it in float32, by a quotient of polynomials.

    Written out: TensorFlow 2.21 cannot read what `jax.lax.erf` leaves in a SavedModel.
    """
    x = jnp.clip(x, -3.832506856900711, 3.832506856900711)  # beyond it is 1 to the last digit
    numerator, denominator = (np.array(c, "float32") for c in (ERF_NUMERATOR, ERF_DENOMINATOR))
    return x * jnp.polyval(numerator, x * x) / jnp.polyval(denominator, x * x)


ERF_NUMERATOR = (
    2.2905065861350646e-4,
    3.4082910107109506e-3,
    5.0955695062380861e-2,
    1.8520832239976145e-1,
    1.128379143519084,
)
ERF_DENOMINATOR = (
    -1.1791602954361697e-7,
    2.3547966471313185e-5,
    1.0179625278914885e-3,
    1.4070470171167667e-2,
    1.1098505178285362e-1,
    4.9746925110067538e-1,
    1.0,
)


def widened(x):
    """An array in float32 at least: 16 bits are too few for `1 + erf(x)`, and for sums."""
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
    positions = tuple(range(x.ndim - 1))
    y, scaled = (x - mean) * inverse, upstream * gamma
    through_statistics = scaled.mean(-1, keepdims=True)
    through_statistics += y * (scaled * y).mean(-1, keepdims=True)
    gradient = inverse * (scaled - through_statistics)
    return gradient, (upstream * y).sum(positions), upstream.sum(positions)


normalized.defvjp(normalized_forward, normalized_backward)


# ---- products ------------------------------------------------------------------------------------
def fuse(branches, kernel):
    return fused(tuple(branches), kernel)


@jax.custom_vjp
def fused(branches, kernel):
    return reference.fuse(branches, kernel)


def fused_forward(branches, kernel):
    return fused(branches, kernel), (branches, kernel)


def fused_backward(saved, upstream):
    branches, kernel = saved
    upstream = rows(upstream)
    ends = list(accumulate(x.shape[-1] for x in branches))
    # branch by branch: their concatenation would be made anew, and its derivative copied
    gradient = jnp.concatenate([rows(x).T @ upstream for x in branches])
    kernels = jnp.split(kernel, ends[:-1])
    gradients = [as_map(upstream @ k.T, x) for x, k in zip(branches, kernels, strict=True)]
    return tuple(gradients), gradient


fused.defvjp(fused_forward, fused_backward)


# on a CPU XLA's convolution takes up to ten times as long, its derivatives twice
patches = reference.patches_by_product


def axial(x, kernel, bias, axis):
    _, height, width, channels = x.shape
    # no transpose either way, see the reference
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
    wide = jnp.promote_types(kernel.dtype, "float32")
    # on a CPU a product for each matrix, summed up below: XLA would transpose all for a single one
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
    x, kernel = saved
    x, upstream = optimization_barrier((x, upstream))
    padded = optimization_barrier(pad(x, kernel))
    wide = jnp.promote_types(kernel.dtype, "float32")

    def add(total, images):
        """Adds to the gradient of the kernel; `images` are padded inputs and their gradients."""
        padded, upstream = images
        positions = tuple(range(upstream.ndim - 1))
        shifts = shifted(padded, kernel, x.shape[1:3])
        sums = [(part * upstream).sum(positions, dtype=wide) for _, part in shifts]
        return total + jnp.stack(sums), None

    total = jnp.zeros((kernel[..., 0, 0].size, kernel.shape[2]), wide)
    if is_one_cpu():
        # an image at a time: the products stay in the cache (on several devices the images, which
        # are divided among them, would have to be brought together)
        total, _ = jax.lax.scan(add, total, (padded, upstream))
    else:
        total, _ = add(total, (padded, upstream))
    gradient = convolved(upstream, kernel[::-1, ::-1])
    return optimization_barrier(gradient), total.reshape(kernel.shape).astype(kernel.dtype)


convolved.defvjp(convolved_forward, convolved_backward)


def pad(x, kernel):
    """Feature maps with the zeros around them by which a convolution keeps their size."""
    margins = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jnp.pad(x, [(0, 0), *margins, (0, 0)])


def shifted(padded, kernel, size):
    """For every entry `(i, j)` of the kernel, its index and the part of the maps it multiplies."""
    height, width = size
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            yield (i, j), padded[..., i : i + height, j : j + width, :]
