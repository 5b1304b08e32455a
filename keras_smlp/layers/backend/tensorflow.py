"""What TensorFlow computes in another way than `reference.py`.

TensorFlow runs each elementwise operation as a pass of its own through memory. In training XLA
makes one pass of a GELU or a layer normalization, and one of its derivative; the rest stays with
TensorFlow's own kernels, which are faster at products. Not at inference: nothing is gained there,
and exporters cannot look into what XLA compiles.
"""

import contextlib
import contextvars
import math

import tensorflow as tf

from keras_smlp.layers.backend import reference

# whether `axial` is traced as a product for which LiteRT has GPU code
FOR_LITERT = contextvars.ContextVar("FOR_LITERT", default=False)


def compiled(function):
    """Decorator: XLA compiles the function, within whatever graph calls it."""
    return tf.function(function, jit_compile=True, autograph=False)


# ---- GELU ---------------------------------------------------------------------------------------
def gelu(x, training=False):
    return compiled_gelu(x) if training else reference.gelu(x)


@tf.custom_gradient
def compiled_gelu(x):
    return gelu_value(x), lambda upstream: gelu_gradient(x, upstream)


@compiled
def gelu_value(x):
    wide = widened(x)
    return tf.cast(wide * normal_cdf(wide), x.dtype)


@compiled
def gelu_gradient(x, upstream):
    wide = widened(x)
    density = tf.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    return tf.cast(widened(upstream) * (normal_cdf(wide) + wide * density), x.dtype)


def normal_cdf(x):
    """The cumulative distribution function of the standard normal distribution."""
    return 0.5 * (1 + tf.math.erf(x * math.sqrt(0.5)))


def widened(x):
    """A tensor in float32 at least, in which PyTorch too computes for 16 bits."""
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


# ---- normalization ------------------------------------------------------------------------------
def layer_norm(layer, x, training=False):
    if not training or layer.gamma is None:
        return reference.layer_norm(layer, x)
    gamma, beta = (widened(tf.convert_to_tensor(v)) for v in (layer.gamma, layer.beta))
    y = normalized(widened(x), gamma, beta, tf.constant(layer.epsilon, gamma.dtype))
    return tf.cast(y, layer.compute_dtype)


@tf.custom_gradient
def normalized(x, gamma, beta, epsilon):
    y, mean, inverse = normalized_value(x, gamma, beta, epsilon)
    return y, lambda upstream: (*normalized_gradient(x, mean, inverse, gamma, upstream), None)


@compiled
def normalized_value(x, gamma, beta, epsilon):
    mean = tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
    inverse = tf.math.rsqrt(variance + epsilon)
    return (x - mean) * inverse * gamma + beta, mean, inverse


@compiled
def normalized_gradient(x, mean, inverse, gamma, upstream):
    y, scaled = (x - mean) * inverse, upstream * gamma
    through_statistics = tf.reduce_mean(scaled, -1, keepdims=True)
    through_statistics += y * tf.reduce_mean(scaled * y, -1, keepdims=True)
    positions = tuple(range(x.shape.rank - 1))
    sums = (tf.reduce_sum(z, positions) for z in (upstream * y, upstream))
    return inverse * (scaled - through_statistics), *sums


def batch_norm(layer, x, training):
    if not (training and layer.trainable) or layer.synchronized or x.dtype == tf.float64:
        # the kernel below takes its statistics on one device, and knows no float64
        return reference.batch_norm(layer, x, training)
    # the statistics and parameters in float32 whatever the policy, as Keras does it
    mean, variance, gamma, beta = (
        tf.cast(tf.convert_to_tensor(v), tf.float32)
        for v in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    )
    none = tf.zeros([0])
    y, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=none, variance=none, epsilon=layer.epsilon
    )
    values = tf.cast(tf.size(x) // tf.size(gamma), tf.float32)  # per channel
    biased = (values - 1) / values  # this variance is unbiased, Keras tracks the biased one
    rate = 1 - layer.momentum
    layer.moving_mean.assign(mean * layer.momentum + batch_mean * rate)
    layer.moving_variance.assign(variance * layer.momentum + batch_variance * (biased * rate))
    return y


# ---- convolution --------------------------------------------------------------------------------
def patches(x, kernel):
    # a convolution's derivatives add up in 16 bits on processors without AVX-512
    in_16_bits = x.dtype in (tf.float16, tf.bfloat16)
    return (reference.patches_by_product if in_16_bits else reference.patches)(x, kernel)


# ---- the axial product --------------------------------------------------------------------------
@contextlib.contextmanager
def for_litert():
    """A context in which a network is traced for LiteRT, in operations that have GPU code there."""
    before = FOR_LITERT.set(True)
    try:
        yield
    finally:
        FOR_LITERT.reset(before)


def axial(x, kernel, bias, axis):
    return (axial_of_last if FOR_LITERT.get() else reference.axial)(x, kernel, bias, axis)


def axial_of_last(x, kernel, bias, axis):
    """The same as a dense layer of the last axis, with a transposition before and after it.

    LiteRT has no GPU kernel for a product whose first factor is a constant.
    """
    there, back = {
        "width": ((0, 1, 3, 2), (0, 1, 3, 2)),
        "height": ((0, 2, 3, 1), (0, 3, 1, 2)),
    }[axis]
    y = tf.matmul(tf.transpose(x, there), tf.transpose(kernel))
    return tf.transpose(y if bias is None else y + bias, back)
