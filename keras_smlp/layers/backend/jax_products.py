"""The linear layers on JAX, for the programs that XLA makes of them.

On TPUs XLA lays out feature maps with the batch along the 128 lanes, and copies them wherever they
are reshaped, so maps stay maps. On a CPU, XLA lowers a grouped convolution to something 30 to 50
times slower than the shifted products here. It also fuses what comes before into each of those
products, and so computes it again and again (`optimization_barrier` keeps it from that).

The derivatives are our own, as in `jax.py`.
"""

import math
from functools import partial
from itertools import accumulate

import jax
from jax import lax
from jax import numpy as jnp
from jax.lax import optimization_barrier

from keras_smlp.layers.backend import reference
from keras_smlp.layers.backend.jax import all_but_last, for_device, sum_dtype, widened


def is_one_cpu():
    """Whether a program for CPUs runs on a single one: on several, images must stay apart."""
    return jax.default_backend() != "cpu" or jax.device_count() == 1


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

    def on_rows(x, upstream):
        x, upstream = (z.reshape(-1, z.shape[-1]) for z in (x, upstream))
        return jnp.matmul(x.T, upstream, preferred_element_type=sum_dtype(x))

    def on_maps(x, upstream):
        axes = ((all_but_last(x), all_but_last(x)), ((), ()))
        return lax.dot_general(x, upstream, axes, preferred_element_type=sum_dtype(x))

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
        kernels = split(kernel, branches)
        products = (
            jnp.matmul(x, k, preferred_element_type=sum_dtype(x))
            for x, k in zip(branches, kernels, strict=True)
        )
        return sum(products).astype(kernel.dtype)

    # JAX 0.10.2 does not compile products of 16 bits that are added up in 32 for GPUs
    function = for_device(concatenated, added_up, concatenated)
    return function(*branches, kernel.astype(branches[0].dtype))


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
            preferred_element_type=sum_dtype(x),
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
    product = partial(jnp.einsum, preferred_element_type=sum_dtype(x))

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
        preferred_element_type=sum_dtype(x),
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

    def add(total, images):
        """Adds to the gradient; `images` are padded inputs and their gradients."""
        padded, upstream = images
        positions = all_but_last(upstream)
        sums = [
            (part * upstream).sum(positions, dtype=sum_dtype(x)) for _, part in shifts(padded, size)
        ]
        return total + jnp.stack(sums), None

    total = jnp.zeros((math.prod(size), x.shape[-1]), sum_dtype(x))
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
