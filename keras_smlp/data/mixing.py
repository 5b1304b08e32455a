"""Augmentation beside RandAugment: flip, shift, random erasing; mixup and CutMix of a group.

Pixels stay in [0, 255]: normalization is linear in each channel, so noise drawn and images mixed in
normalized space are the same here, rescaled.
"""

import tensorflow as tf

from keras_smlp.data.draws import integers, sides
from keras_smlp.preprocessing import MEAN, STD

TRIES = 10


def flip(image, draw, probability):
    """Mirrors an image left to right where `draw`, uniform in `[0, 1)`, is below `probability`."""
    return tf.cond(draw < probability, lambda: tf.reverse(image, [1]), lambda: image)


def shift(image, draws, max_shift):
    """Moves an image by up to `max_shift` of its side along both axes, mirrored at its border."""
    size = image.shape[0]
    margin = round(size * max_shift)
    wide = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]], "SYMMETRIC")
    return tf.slice(wide, [*tf.unstack(integers(draws, 2 * margin + 1)), 0], (size, size, 3))


def erase(image, seed, probability, area=(0.02, 1 / 3), aspect=(0.3, 3.3)):
    """Random erasing: a box of an image becomes noise, N(0, 1) per value in normalized space.

    Args:
        image: float32 tensor `(height, width, 3)`, RGB in [0, 255].
        seed: int64 tensor `(2,)`.
        probability: Float in `[0, 1]`.
        area: Pair of floats. Smallest and largest part of the image's area; up to ten boxes are
            tried until one fits. Defaults to `(0.02, 1 / 3)`.
        aspect: Pair of floats. Smallest and largest height over width. Defaults to `(0.3, 3.3)`.

    Returns:
        The image, values of the box outside of [0, 255] included.

    Reference:
        [Random Erasing](https://arxiv.org/abs/1708.04896); timm 0.3.2 `RandomErasing("pixel")`.
    """
    height, width = image.shape[:2]
    draws = tf.random.stateless_uniform((TRIES, 5), seed)
    top, left, h, w, fits = box(height, width, draws, area, aspect)

    def erased():
        normal = tf.random.stateless_normal((h, w, 3), [seed[0], seed[1] + 1])
        noise = 255 * (tf.constant(MEAN) + tf.constant(STD) * normal)
        # pieces put together: copies, where `tf.pad` and `tf.where` take several times as long
        rows = image[top : top + h]
        rows = tf.concat([rows[:, :left], noise, rows[:, left + w :]], axis=1)
        return tf.concat([image[:top], rows, image[top + h :]], axis=0)

    return tf.cond(fits & (draws[0, 4] < probability), erased, lambda: image)


def box(height, width, draws, area, aspect):
    """The first of the drawn boxes that is smaller than the image, and whether there is one."""
    h, w = sides(draws, height * width, area, aspect)
    fits = (h < height) & (w < width)
    i = tf.argmax(fits)
    top, left = tf.unstack(integers(draws[i, 2:4], tf.stack([height - h[i] + 1, width - w[i] + 1])))
    return top, left, h[i], w[i], fits[i]


# ---- a group of images --------------------------------------------------------------------------


def mix(images, targets, seed, mixup, cutmix):
    """Mixup or CutMix of a group with itself reversed; one coin and one lambda for all.

    Args:
        images: Tensor `(group, height, width, 3)`; float32 if `mixup` is positive.
        targets: float32 tensor `(group, classes)`.
        seed: int64 tensor `(2,)`.
        mixup: Non-negative float. lambda ~ Beta(mixup, mixup); `0` for none.
        cutmix: Non-negative float, likewise. If both are positive, a fair coin decides.

    Returns:
        The mixed images and targets.

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
    _, height, width, _ = images.shape
    inside, outside = cutmix_box(height, width, lam, center)
    # how much each pixel keeps of itself: far faster as a factor than as a choice
    kept = tf.where(use_cutmix, tf.cast(~inside, "float32"), lam)
    kept = tf.cast(tf.tile(kept[..., None], (1, 1, 3)), images.dtype)
    images = images * kept + tf.reverse(images, [0]) * (1 - kept)
    lam = tf.where(use_cutmix, outside, lam)
    return images, lam * targets + (1 - lam) * tf.reverse(targets, [0])


def cutmix_box(height, width, lam, center):
    """CutMix' box as a boolean mask `(height, width)`, and the part of the area that is left."""
    side = tf.sqrt(1 - lam)
    inside = []
    for length, draw in ((height, center[0]), (width, center[1])):
        half = tf.cast(side * length, "int32") // 2
        middle = integers(draw, length)
        along = tf.range(length)
        # what stands out of the image is lost
        inside.append((along >= middle - half) & (along < middle + half))
    mask = inside[0][:, None] & inside[1]
    return mask, 1 - tf.reduce_mean(tf.cast(mask, "float32"))


def smooth_targets(labels, classes, label_smoothing):
    """One-hot targets `(n, classes)`: `smoothing / classes` off, `1 - smoothing` more on."""
    off = label_smoothing / classes
    return tf.one_hot(labels, classes, on_value=1 - label_smoothing + off, off_value=off)
