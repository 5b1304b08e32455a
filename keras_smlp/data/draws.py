"""From uniform draws in `[0, 1)` to integers and to the sides of random boxes."""

import math

import tensorflow as tf


def integers(draws, limit):
    """Uniform integers below `limit`."""
    return tf.cast(draws * tf.cast(limit, "float32"), "int32")


def sides(draws, whole, area, aspect):
    """Sides of boxes of uniform area and log-uniform aspect, rounded.

    Args:
        draws: float32 tensor `(n, 2)` or wider: for the area, for the aspect.
        whole: Number. The area that `area` is a part of.
        area: Pair of floats. Smallest and largest part.
        aspect: Pair of positive floats. Smallest and largest first side over second.

    Returns:
        Two int32 tensors `(n,)`, the first sides and the second.
    """
    part = whole * (area[0] + (area[1] - area[0]) * draws[:, 0])
    low, high = map(math.log, aspect)
    quotient = tf.exp(low + (high - low) * draws[:, 1])
    first, second = tf.round(tf.sqrt(part * quotient)), tf.round(tf.sqrt(part / quotient))
    return tf.cast(first, "int32"), tf.cast(second, "int32")
