"""GELU and the normalizations on JAX; `jax_products.py` has what multiplies by kernels.

A program has the implementation for the devices that it is compiled for, whatever the default
device is (`for_device`).

The derivatives are our own, for reverse-mode differentiation only. They keep the input, in its own
dtype, and little else; and they add up the gradients of parameters in float32, over devices too.
"""

import math
from functools import partial

import jax
import keras
import numpy as np
from jax import lax
from jax import numpy as jnp
from jax.lax import optimization_barrier

from keras_smlp.layers.backend import reference


def for_device(cpu, tpu, gpu=None):
    """A function that is another one in programs for CPUs, for TPUs and for GPUs.

    Args:
        cpu: Function of arrays.
        tpu: The same function, computed in another way.
        gpu: Likewise, for GPUs and all else. Defaults to `tpu`.
    """

    by_device = {"cpu": cpu, "tpu": tpu, "default": gpu} if gpu else {"cpu": cpu, "default": tpu}

    def function(*arrays):
        return lax.platform_dependent(*arrays, **by_device)

    return function


def unchanged(x):
    return x


def sum_dtype(x):
    """An array's dtype, or float32 for 16 bits: too few for `1 + erf(x)`, and for sums."""
    return jnp.promote_types(x.dtype, "float32")


def widened(x):
    """An array in float32 at least."""
    return x.astype(sum_dtype(x))


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
    z = widened(x)  # by `erf` as in PyTorch: `jax.nn.gelu`'s `erfc` takes 2.6 times as long
    return (z * normal_cdf(z)).astype(x.dtype)


def gelu_forward(x):
    return exact_gelu(x), x


def gelu_backward(x, upstream):
    # the barrier: on a CPU XLA would otherwise keep what the forward pass computed on its way
    z = widened(for_device(optimization_barrier, unchanged)(x))
    density = jnp.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
    gradient = (upstream * (normal_cdf(z) + z * density)).astype(x.dtype)
    # on a GPU XLA would otherwise write it in 32 bits, for the gradient of a bias
    return (for_device(unchanged, unchanged, optimization_barrier)(gradient),)


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
    z = widened(x)
    mean = z.mean(-1, keepdims=True)
    variance = jnp.square(z - mean).mean(-1, keepdims=True)
    inverse = lax.rsqrt(variance + epsilon)
    y = (z - mean) * inverse * gamma + beta
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
    moving_mean, moving_variance, gamma, beta = (  # whatever the policy, as Keras does it
        tensor(v, x).astype(sum_dtype(x))
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
