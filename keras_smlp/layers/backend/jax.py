"""What JAX computes in another way than `reference.py`, for the programs that XLA makes of it.

A program has the implementation for the devices that it is compiled for, whatever the default
device is (`for_device`). On TPUs XLA lays out feature maps with the batch along the 128 lanes, and
copies them wherever they are reshaped, so maps stay maps. On a CPU, XLA lowers a grouped
convolution to something 30 to 50 times slower than the shifted products here. It also fuses what
comes before into each of those products, and so computes it again and again
(`optimization_barrier` keeps it from that).

The derivatives are our own, for reverse-mode differentiation only. They keep the input, in its own
dtype, and little else; and they add up the gradients of parameters in float32, over devices too.
"""

import math
from functools import partial
from itertools import accumulate

import jax
import keras
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.lax import optimization_barrier

from keras_smlp.layers.backend import reference


def for_device(cpu, others):
    """A function that is `cpu` in programs for CPUs, and `others` in those for other devices."""

    def function(*arrays):
        return lax.platform_dependent(*arrays, cpu=cpu, default=others)

    return function


def is_one_cpu():
    """Whether a program for CPUs runs on a single one: on several, images must stay apart."""
    return jax.default_backend() != "cpu" or jax.device_count() == 1


def widened(x):
    """An array in float32 at least: 16 bits are too few for `1 + erf(x)`, and for sums."""
    return x.astype(jnp.promote_types(x.dtype, "float32"))


class Reader(keras.Layer):
    """Reads variables in their own dtype, within layers that autocast them to 16 bits.

    A gradient has the dtype of what it is taken by: those of float32 kernels are to be added up
    in float32, over devices too.
    """

    def __init__(self):
        super().__init__(dtype="float32", autocast=False)
        self.built = True

    def call(self, x=None, variable=None):
        return variable()


read = Reader()


def tensor(variable, x):
    if isinstance(variable, keras.Variable):
        return read(variable=lambda: variable.value)
    return reference.tensor(variable, x)


def all_but_last(x):
    """The axes over which a gradient by a parameter per channel is a sum."""
    return tuple(range(x.ndim - 1))


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
    # the barrier: on a CPU XLA would otherwise keep what the forward pass computed on its way
    wide = widened(for_device(optimization_barrier, lambda x: x)(x))
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
exact_gelu.defvjp(gelu_forward, gelu_backward)


# ---- layer normalization ------------------------------------------------------------------------
def layer_norm(layer, x, training=False):
    if layer.gamma is None:
        return reference.layer_norm(layer, x)
    gamma, beta = (widened(tensor(v, x)) for v in (layer.gamma, layer.beta))
    return normalized(x, gamma, beta, layer.epsilon).astype(layer.compute_dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized(x, gamma, beta, epsilon):
    return normalized_forward(x, gamma, beta, epsilon)[0]


def normalized_forward(x, gamma, beta, epsilon):
    wide = widened(x)
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide - mean).mean(-1, keepdims=True)
    inverse = lax.rsqrt(variance + epsilon)
    y = (wide - mean) * inverse * gamma + beta
    return y.astype(x.dtype), (x, mean, inverse, gamma)


def normalized_backward(epsilon, saved, upstream):
    x, mean, inverse, gamma = saved
    upstream = widened(upstream)
    y, scaled = (widened(x) - mean) * inverse, upstream * gamma
    through_statistics = scaled.mean(-1, keepdims=True)
    through_statistics += y * (scaled * y).mean(-1, keepdims=True)
    gradient = (inverse * (scaled - through_statistics)).astype(x.dtype)
    positions = all_but_last(x)
    return gradient, (upstream * y).sum(positions), upstream.sum(positions)


normalized.defvjp(normalized_forward, normalized_backward)


# ---- batch normalization ------------------------------------------------------------------------
# beyond so many standard deviations between a mean and the moving one, the variance loses digits
FAR = 4.0


def batch_norm(layer, x, training):
    if not (training and layer.trainable) or layer.gamma is None:
        return reference.batch_norm(layer, x, training)
    wide = jnp.promote_types(x.dtype, "float32")  # whatever the policy, as Keras does it
    moving_mean, moving_variance, gamma, beta = (
        tensor(v, x).astype(wide)
        for v in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    )
    parts = getattr(layer, "parts", 1)
    if parts == 1:
        y, mean, variance = batch_normalized(x, gamma, beta, moving_mean, layer.epsilon, True)
    else:  # a part for each device, where each normalizes its own images: nothing to exchange
        maps = x.reshape(parts, -1, *x.shape[1:])
        own = partial(batch_normalized, epsilon=layer.epsilon, in_one_pass=False)
        maps, *both = jax.vmap(own, (0, None, None, None))(maps, gamma, beta, moving_mean)
        y, mean, variance = maps.reshape(x.shape), *(v.mean(0) for v in both)
    mean, variance = lax.stop_gradient((mean, variance))
    momentum = layer.momentum
    layer.moving_mean.assign(moving_mean * momentum + mean * (1 - momentum))
    layer.moving_variance.assign(moving_variance * momentum + variance * (1 - momentum))
    return y


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def batch_normalized(x, gamma, beta, near, epsilon, in_one_pass):
    """The normalized maps, the means and the variances.

    Args:
        x: Feature maps.
        gamma: Scale per channel, in float32 at least, as all that follows.
        beta: Shift per channel.
        near: A number per channel near the means, such as the moving ones.
        epsilon: Float, added to the variances.
        in_one_pass: Boolean. Whether devices that share the maps exchange both statistics at once.
    """
    return batch_normalized_forward(x, gamma, beta, near, epsilon, in_one_pass)[0]


def batch_normalized_forward(x, gamma, beta, near, epsilon, in_one_pass):
    mean, variance = moments(x, near, epsilon) if in_one_pass else exact_moments(x)
    inverse = lax.rsqrt(variance + epsilon)
    y = ((widened(x) - mean) * (inverse * gamma) + beta).astype(x.dtype)
    return (y, mean, variance), (x, mean, inverse, gamma)


def exact_moments(x):
    """The means and variances per channel."""
    mean = widened(x).mean(all_but_last(x))
    return mean, variance_about(mean, x)


def variance_about(mean, x):
    return jnp.square(widened(x) - mean).mean(all_but_last(x))


def moments(x, near, epsilon):
    """The means and variances per channel by sums of one pass.

    The sums are of differences to `near`. Where a mean is so far from it that the difference of
    the squares would lose digits, a second pass computes the variances from the means.
    """
    positions, distance = all_but_last(x), widened(x) - near
    offset = distance.mean(positions)
    variance = jnp.maximum(jnp.square(distance).mean(positions) - jnp.square(offset), 0)
    mean = near + offset
    is_far = jnp.any(jnp.square(offset) > FAR**2 * (variance + epsilon))
    return mean, lax.cond(is_far, variance_about, lambda mean, x: variance, mean, x)


def batch_normalized_backward(epsilon, in_one_pass, saved, upstream):
    x, mean, inverse, gamma = saved
    upstream, positions = widened(upstream[0]), all_but_last(x)
    y = (widened(x) - mean) * inverse
    # both sums in one pass, so that devices exchange them at once
    by_gamma, by_beta = (upstream * y).sum(positions), upstream.sum(positions)
    values = x.size // x.shape[-1]  # per channel
    through_statistics = (by_beta + y * by_gamma) / values
    gradient = (gamma * inverse * (upstream - through_statistics)).astype(x.dtype)
    return gradient, by_gamma, by_beta, jnp.zeros_like(gamma)


batch_normalized.defvjp(batch_normalized_forward, batch_normalized_backward)


# ---- products -----------------------------------------------------------------------------------
def rows(x):
    """Feature maps as they are: only TensorFlow and PyTorch gain by a matrix of rows."""
    return x


def as_map(rows, x):
    return rows


@jax.custom_vjp
def biased(x, bias):
    """`x + bias`, the bias broadcast."""
    return x + bias.astype(x.dtype)


def biased_backward(bias, upstream):
    sides = (1,) * (upstream.ndim - bias.ndim) + bias.shape
    axes = tuple(i for i, side in enumerate(sides) if side == 1)
    return upstream, widened(upstream).sum(axes).reshape(bias.shape).astype(bias.dtype)


biased.defvjp(lambda x, bias: (biased(x, bias), bias), biased_backward)


def dense(x, kernel, bias):
    y = multiplied(x, kernel)
    return y if bias is None else biased(y, bias)


@jax.custom_vjp
def multiplied(x, kernel):
    """`x @ kernel` for arrays `(..., channels)`."""
    return for_device(product_of_rows, jnp.matmul)(x, kernel.astype(x.dtype))


def product_of_rows(x, kernel):
    """A product of two matrices, which XLA computes faster on a CPU."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def multiplied_forward(x, kernel):
    return multiplied(x, kernel), (x, kernel)


def multiplied_backward(saved, upstream):
    x, kernel = saved
    gradient = for_device(product_of_rows, jnp.matmul)(upstream, kernel.T.astype(x.dtype))
    return gradient, kernel_gradient(x, upstream).astype(kernel.dtype)


def kernel_gradient(x, upstream):
    """The sum over all positions of the outer products, in float32 at least."""
    wide = jnp.promote_types(x.dtype, "float32")

    def on_rows(x, upstream):
        x, upstream = (z.reshape(-1, z.shape[-1]) for z in (x, upstream))
        return jnp.matmul(x.T, upstream, preferred_element_type=wide)

    def on_maps(x, upstream):
        axes = ((all_but_last(x), all_but_last(x)), ((), ()))
        return lax.dot_general(x, upstream, axes, preferred_element_type=wide)

    return for_device(on_rows, on_maps)(x, upstream)


multiplied.defvjp(multiplied_forward, multiplied_backward)


def fuse(branches, kernel):
    return fused(tuple(branches), kernel)


@jax.custom_vjp
def fused(branches, kernel):
    def concatenated(*arrays):
        *branches, kernel = arrays
        return product_of_rows(jnp.concatenate(branches, axis=-1), kernel)

    def added_up(*arrays):
        *branches, kernel = arrays
        wide = jnp.promote_types(kernel.dtype, "float32")
        kernels = split(kernel, branches)
        products = (
            jnp.matmul(x, k, preferred_element_type=wide)
            for x, k in zip(branches, kernels, strict=True)
        )
        return sum(products).astype(kernel.dtype)

    return for_device(concatenated, added_up)(*branches, kernel.astype(branches[0].dtype))


def split(kernel, branches):
    """The rows of a kernel that belong to each of the branches."""
    ends = list(accumulate(x.shape[-1] for x in branches))
    return jnp.split(kernel, ends[:-1])


def fused_forward(branches, kernel):
    return fused(branches, kernel), (branches, kernel)


def fused_backward(saved, upstream):
    branches, kernel = saved
    # branch by branch: their concatenation would be made anew, and its derivative copied
    gradient = jnp.concatenate([kernel_gradient(x, upstream) for x in branches])
    kernels = split(kernel.astype(upstream.dtype), branches)
    product = for_device(product_of_rows, jnp.matmul)
    gradients = tuple(product(upstream, k.T) for k in kernels)
    return gradients, gradient.astype(kernel.dtype)


fused.defvjp(fused_forward, fused_backward)


@jax.custom_vjp
def patches(x, kernel):
    # on a CPU XLA's convolution takes up to ten times as long, its derivatives twice
    kernel = kernel.astype(x.dtype)
    return for_device(reference.patches_by_product, convolved_by_patches)(x, kernel)


def patches_forward(x, kernel):
    return patches(x, kernel), (x, kernel)


def patches_backward(saved, upstream):
    x, kernel = saved
    product = partial(reference.patches_by_product, product=multiplied)

    def by_product(x, kernel, upstream):
        return jax.vjp(product, x, kernel)[1](upstream)

    def by_convolutions(x, kernel, upstream):
        narrow = kernel.astype(x.dtype)
        [gradient] = jax.linear_transpose(lambda x: convolved_by_patches(x, narrow), x)(upstream)
        high, wide = kernel.shape[:2]
        whole = x[:, : upstream.shape[1] * high, : upstream.shape[2] * wide]
        sums = lax.conv_general_dilated(
            whole,
            upstream,
            (1, 1),
            "VALID",
            rhs_dilation=(high, wide),
            dimension_numbers=("CHWN", "IHWO", "HWNC"),
            preferred_element_type=jnp.promote_types(x.dtype, "float32"),
        )
        return gradient, sums.astype(kernel.dtype)

    return for_device(by_product, by_convolutions)(x, kernel, upstream)


patches.defvjp(patches_forward, patches_backward)


def convolved_by_patches(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, kernel.shape[:2], "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def axial(x, kernel, bias, axis):
    y = mixed(x, kernel, axis)
    if bias is None:
        return y
    return biased(y, bias[:, None] if axis == "width" else bias[:, None, None])


def matrices(x, axis):
    """Maps as matrices with a row for each position of an axis: no transpose, see the reference."""
    _, height, width, channels = x.shape
    return x.reshape((-1, width, channels) if axis == "width" else (-1, height, width * channels))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def mixed(x, kernel, axis):
    def by_matrices(x, kernel):
        return (kernel @ matrices(x, axis)).reshape(x.shape)

    def on_maps(x, kernel):
        return jnp.einsum("vw,bhwc->bhvc" if axis == "width" else "vh,bhwc->bvwc", kernel, x)

    return for_device(by_matrices, on_maps)(x, kernel.astype(x.dtype))


def mixed_forward(x, kernel, axis):
    return mixed(x, kernel, axis), (x, kernel)


def mixed_backward(axis, saved, upstream):
    x, kernel = saved
    wide = jnp.promote_types(kernel.dtype, "float32")
    product = partial(jnp.einsum, preferred_element_type=wide)

    def by_matrices(x, upstream):
        x, upstream = matrices(x, axis), matrices(upstream, axis)
        # a product for each matrix, summed up below: XLA would transpose all for a single one
        sums = "nvx,nwx->nvw" if is_one_cpu() else "nvx,nwx->vw"
        return product(sums, upstream, x).reshape(-1, *kernel.shape).sum(0)

    def on_maps(x, upstream):
        return product("bhvc,bhwc->vw" if axis == "width" else "bvwc,bhwc->vh", upstream, x)

    gradient = for_device(by_matrices, on_maps)(x, upstream)
    return mixed(upstream, kernel.T, axis), gradient.astype(kernel.dtype)


mixed.defvjp(mixed_forward, mixed_backward)


# ---- depthwise convolution ----------------------------------------------------------------------
def depthwise(x, kernel, bias):
    y = convolved(x, kernel)
    return y if bias is None else biased(y, bias)


@jax.custom_vjp
def convolved(x, kernel):
    return for_device(convolved_by_shifts, convolved_by_groups)(x, kernel.astype(x.dtype))


def convolved_forward(x, kernel):
    return convolved(x, kernel), (x, kernel)


def convolved_backward(saved, upstream):
    x, kernel = saved
    gradient = convolved(upstream, kernel[::-1, ::-1])
    sums = for_device(
        partial(filter_gradient_by_shifts, size=kernel.shape[:2]),
        partial(filter_gradient_by_groups, size=kernel.shape[:2]),
    )
    return gradient, sums(x, upstream).astype(kernel.dtype)


convolved.defvjp(convolved_forward, convolved_backward)


def convolved_by_groups(x, kernel):
    kernel = kernel.transpose(0, 1, 3, 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        margins(kernel.shape[:2]),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def filter_gradient_by_groups(x, upstream, size):
    """The gradient by the kernel, in float32 at least: a convolution of the batch's maps."""
    gradient = lax.conv_general_dilated(
        x,
        upstream,
        (1, 1),
        margins(size),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        batch_group_count=x.shape[-1],
        preferred_element_type=jnp.promote_types(x.dtype, "float32"),
    )
    return gradient.transpose(0, 1, 3, 2)


def convolved_by_shifts(x, kernel):
    x = optimization_barrier(x)
    total = 0.0
    for (i, j), part in shifts(pad(x, kernel.shape[:2]), kernel.shape[:2]):
        total = total + part * kernel[i, j, :, 0]
    return optimization_barrier(total)


def filter_gradient_by_shifts(x, upstream, size):
    """The gradient by the kernel, in float32 at least."""
    padded = optimization_barrier(pad(optimization_barrier(x), size))
    upstream = optimization_barrier(upstream)
    wide = jnp.promote_types(x.dtype, "float32")

    def add(total, images):
        """Adds to the gradient; `images` are padded inputs and their gradients."""
        padded, upstream = images
        positions = all_but_last(upstream)
        sums = [(part * upstream).sum(positions, dtype=wide) for _, part in shifts(padded, size)]
        return total + jnp.stack(sums), None

    total = jnp.zeros((math.prod(size), x.shape[-1]), wide)
    if is_one_cpu():
        # an image at a time: the products stay in the cache (on several devices the images, which
        # are divided among them, would have to be brought together)
        total, _ = lax.scan(add, total, (padded, upstream))
    else:
        total, _ = add(total, (padded, upstream))
    return total.reshape(*size, -1, 1)


def margins(size):
    """The zeros around feature maps by which a convolution keeps their size."""
    return [(side // 2, side // 2) for side in size]


def pad(x, size):
    """Feature maps with these zeros around them."""
    return jnp.pad(x, [(0, 0), *margins(size), (0, 0)])


def shifts(padded, size):
    """For every entry `(i, j)` of a kernel, its index and the part of the maps it multiplies."""
    high, wide = size
    height, width = padded.shape[-3] - high + 1, padded.shape[-2] - wide + 1
    for i in range(high):
        for j in range(wide):
            yield (i, j), padded[..., i : i + height, j : j + width, :]
