"""Augmentation beside RandAugment: flip and shift; what random erasing, mixup and CutMix draw.

The boxes are drawn here, and the targets mixed; the training step erases and mixes the images, see
`on_device`.
"""

import math

import tensorflow as tf

from keras_smlp.data import on_device
from keras_smlp.data.draws import integers, sides

TRIES = 10


def flip(image, draw, probability):
    """Mirrors an image left to right where `draw`, uniform in `[0, 1)`, is below `probability`."""
    return tf.cond(draw < probability, lambda: tf.reverse(image, [1]), lambda: image)


def shift(image, draws, max_shift):
    """Moves an image by up to `max_shift` of its side along both axes, mirrored at its border."""
    size = image.shape[0]
    margin = round(size * max_shift)
    wide = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]], "SYMMETRIC")
    return tf.slice(wide, [*tf.unstack(integers(draws, 2 * margin + 1)), 0], image.shape)


def draw_erasing(size, seed, probability, area=(0.02, 1 / 3), aspect=(0.3, 3.3)):
    """What random erasing does to an image, for `on_device.finished`.

    Args:
        size: Pair of integers. Height and width of the image.
        seed: int64 tensor `(2,)`.
        probability: Float in `[0, 1]`.
        area: Pair of floats. Smallest and largest part of the image's area; up to ten boxes are
            tried until one fits. Defaults to `(0.02, 1 / 3)`.
        aspect: Pair of floats. Smallest and largest height over width. Defaults to `(0.3, 3.3)`.

    Returns:
        An int32 tensor `(5,)`: top, left, height and width of the box, and the seed of the noise.
        Height and width are 0 where nothing is erased.

    Reference:
        [Random Erasing](https://arxiv.org/abs/1708.04896); timm 0.3.2 `RandomErasing("pixel")`.
    """
    draws = tf.random.stateless_uniform((TRIES, 5), seed)
    top, left, high, wide, fits = box(size, draws, area, aspect)
    is_erased = tf.cast(fits & (draws[0, 4] < probability), "int32")
    number = tf.random.stateless_uniform((), [seed[0], seed[1] + 1], None, None, "int32")
    return tf.stack([top, left, high * is_erased, wide * is_erased, number])


def box(size, draws, area, aspect):
    """The first of the drawn boxes that is smaller than the image, and whether there is one."""
    height, width = size
    h, w = sides(draws, height * width, area, aspect)
    fits = (h < height) & (w < width)
    i = tf.argmax(fits)
    top, left = tf.unstack(integers(draws[i, 2:4], tf.stack([height - h[i] + 1, width - w[i] + 1])))
    return top, left, h[i], w[i], fits[i]


# ---- a group of images --------------------------------------------------------------------------


def draw_mixing(size, targets, seed, mixup, cutmix):
    """Mixup or CutMix of a group with itself reversed; one coin and one lambda for all.

    Args:
        size: Pair of integers. Height and width of the images.
        targets: float32 tensor `(group, classes)`.
        seed: int64 tensor `(2,)`.
        mixup: Non-negative float. lambda ~ Beta(mixup, mixup); `0` for none.
        cutmix: Non-negative float, likewise. If both are positive, a fair coin decides.

    Returns:
        An int32 tensor `(5,)` for `on_device.finished`, which mixes the images: top, left, height
        and width of CutMix' box, empty for mixup, and what an image keeps outside of it, in units
        of `2**-24`. And the mixed targets.

    Reference:
        [mixup](https://arxiv.org/abs/1710.09412), [CutMix](https://arxiv.org/abs/1905.04899);
        timm 0.3.2 `Mixup` in mode "batch".
    """
    coin, *center = tf.unstack(tf.random.stateless_uniform((3,), seed))
    use_cutmix = tf.constant(cutmix > 0) & (tf.constant(mixup == 0) | (coin < 0.5))
    alpha = tf.where(use_cutmix, float(cutmix), float(mixup))
    # in float64: of a small alpha both may be 0 in float32
    alpha = tf.cast(alpha, "float64")
    gammas = tf.random.stateless_gamma((2,), [seed[0], seed[1] + 1], alpha, dtype="float64")
    lam = tf.cast(gammas[0] / (gammas[0] + gammas[1]), "float32")
    unit = 2.0**on_device.KEPT_BITS
    kept = tf.where(use_cutmix, unit, tf.round(lam * unit))
    *box, outside = cutmix_box(size, lam, center)
    box = [tf.where(use_cutmix, x, 0) for x in box]
    lam = tf.where(use_cutmix, outside, kept / unit)
    mixed = lam * targets + (1 - lam) * tf.reverse(targets, [0])
    return tf.stack([*box, tf.cast(kept, "int32")]), mixed


def cutmix_box(size, lam, center):
    """Top, left, height and width of CutMix' box, and the part of the area that is left."""
    side = tf.sqrt(1 - lam)
    starts, lengths = [], []
    for length, draw in zip(size, center, strict=True):
        half = tf.cast(side * length, "int32") // 2
        middle = integers(draw, length)
        # what stands out of the image is lost
        starts.append(tf.maximum(middle - half, 0))
        lengths.append(tf.minimum(middle + half, length) - starts[-1])
    outside = 1 - tf.cast(lengths[0] * lengths[1], "float32") / math.prod(size)
    return *starts, *lengths, outside


def smooth_targets(labels, classes, label_smoothing):
    """Targets `(n, classes)`: `smoothing / classes` off, `1 - smoothing` more on.

    Labels are integers `(n,)`, or zeros and ones `(n, classes)` of several labels an image.
    """
    off = label_smoothing / classes
    on = 1 - label_smoothing + off
    if labels.shape.rank == 2:
        return tf.where(labels > 0, tf.constant(on, "float32"), tf.constant(off, "float32"))
    return tf.one_hot(labels, classes, on_value=on, off_value=off)
