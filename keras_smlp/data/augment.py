"""RandAugment on uint8 images as timm 0.3.2 does it with PIL, in TensorFlow operations.

All but the rotation, which is PIL's own, is arithmetic in float32. That is far faster here than
look-ups, `tf.where`, uint8 and broadcasting over the channels; the colors equal PIL's bit by bit.
"""

import functools

import numpy as np
import tensorflow as tf
from PIL import Image

# ImageNet's mean color, shown where a moved image leaves its place empty; by number of channels
FILL = {3: (124, 116, 104), 1: (117,)}

# PIL's weights of red, green and blue in gray: float32 holds their sums exactly
GRAY = [19595 / 65536, 38470 / 65536, 7471 / 65536]

# Results are truncated: weights whose sum is a hair under 1 must not darken a flat area
TRUNCATION_EPSILON = 1e-3


@tf.autograph.experimental.do_not_convert  # there is nothing to convert, which takes seconds
def rand_augment(image, seed, magnitude=9.0, magnitude_std=0.5, operations=2, probability=0.5):
    """Changes an image by randomly drawn operations, one after the other.

    The defaults are those of timm's `rand-m9-mstd0.5-inc1`.

    Args:
        image: uint8 tensor `(height, width, 3)`, RGB, or `(height, width, 1)`, gray, both sizes
            known and at least 3. Of gray images, what is changed is what is of their RGB copies.
        seed: Integer tensor `(2,)`, not negative. The result depends on `image` and `seed` alone.
        magnitude: Float in `[0, 10]`. Mean of the magnitudes: the larger, the stronger the change.
            Defaults to `9.0`.
        magnitude_std: Float, not negative. Standard deviation of the magnitudes, which are clipped
            to `[0, 10]`. Defaults to `0.5`.
        operations: Positive integer. How many of `OPERATIONS` are drawn, with replacement.
            Defaults to `2`.
        probability: Float in `[0, 1]`. The probability with which each of them is applied.
            Defaults to `0.5`.

    Returns:
        A uint8 tensor of the image's shape.

    Reference:
        [RandAugment](https://arxiv.org/abs/1909.13719), `timm/data/auto_augment.py` of timm 0.3.2.
    """
    indices, applied, magnitudes, signs = draw(
        seed, magnitude, magnitude_std, operations, probability
    )
    for i in range(operations):
        branches = [
            functools.partial(call, image, magnitudes[i], signs[i])
            for call in map(as_call, OPERATIONS.values())
        ]
        index = tf.where(applied[i], indices[i], len(branches))
        image = tf.switch_case(index, [*branches, functools.partial(tf.identity, image)])
    return image


@functools.cache
def as_call(operation):
    """The operation as one node of the graph: one that is not drawn costs next to nothing then."""
    return tf.function(operation, autograph=False, experimental_attributes={"_noinline": True})


def draw(seed, magnitude, magnitude_std, operations, probability):
    """Indices into `OPERATIONS`, whether each is applied, magnitudes and signs."""
    which, whether, side = tf.unstack(tf.random.stateless_uniform((3, operations), seed))
    # by another seed: with the same one, the magnitude would follow from the operation
    noise = tf.random.stateless_normal((operations,), -1 - tf.convert_to_tensor(seed))
    indices = tf.cast(which * len(OPERATIONS), "int32")
    magnitudes = tf.clip_by_value(magnitude + magnitude_std * noise, 0.0, 10.0)
    return indices, whether < probability, magnitudes, tf.where(side < 0.5, -1.0, 1.0)


def scaled(magnitude, most, sign=1):
    """How much an operation does at a magnitude, `most` at 10; in float64, to truncate as timm."""
    # Neither `/` nor the sign as a factor: graphs reorder those, and a last bit can shift an edge
    amount = tf.math.divide_no_nan(tf.cast(magnitude, "float64"), 10) * most
    return tf.where(sign < 0, -amount, amount)


def luminance(image):
    """PIL's gray of uint8 RGB or gray, float32 `(height, width, 1)` of whole numbers."""
    x = tf.cast(image, "float32")
    if image.shape[-1] == 1:
        return x
    gray = tf.matmul(tf.reshape(x, (-1, 3)), [[weight] for weight in GRAY])
    shape = (tf.shape(image)[0], tf.shape(image)[1], 1)
    return tf.reshape(tf.cast(tf.cast(gray + 0.5, "int32"), "float32"), shape)


def to_uint8(x):
    return tf.cast(tf.clip_by_value(x, 0, 255), "uint8")


# ---- colors ------------------------------------------------------------------------------------


def auto_contrast(image, magnitude, sign):
    rows = tf.cast(tf.reshape(image, (image.shape[0], -1)), "float32")
    channels = image.shape[-1]
    low = tf.reduce_min(tf.reshape(tf.reduce_min(rows, axis=0), (-1, channels)), axis=0)
    high = tf.reduce_max(tf.reshape(tf.reduce_max(rows, axis=0), (-1, channels)), axis=0)
    span = tf.cast(high - low, "float64")
    scale = tf.where(span > 0, 255 / tf.maximum(span, 1), 1)
    offset = tf.where(span > 0, -tf.cast(low, "float64") * scale, 0)
    # in float64 like PIL: where the result should be whole, the rounding decides
    stretched = tf.cast(rows, "float64") * tf.tile(scale, [image.shape[1]])
    stretched += tf.tile(offset, [image.shape[1]])
    return tf.reshape(tf.cast(stretched, "uint8"), image.shape)


def equalize(image, magnitude, sign):
    rows = tf.cast(tf.reshape(image, (image.shape[0], -1)), "int32")
    size = 256 * image.shape[-1]
    indices = rows + tf.tile(tf.range(0, size, 256), [image.shape[1]])
    counts = tf.raw_ops.Bincount(arr=indices, size=size, weights=tf.constant([], "int32"))
    counts = tf.reshape(counts, (image.shape[-1], 256))
    below = tf.cumsum(counts, axis=1, exclusive=True)
    # the brightest value's pixels do not count
    step = tf.reduce_max(tf.where(counts > 0, below, 0), axis=1, keepdims=True) // 255
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    table = tf.cast(tf.where(step > 0, table, tf.range(256)), "uint8")
    return tf.gather_nd(tf.reshape(table, [-1]), tf.reshape(indices, (*image.shape, 1)))


def invert(image, magnitude, sign):
    return tf.bitwise.invert(image)


def posterize(image, magnitude, sign):
    bits = 4 - tf.cast(scaled(magnitude, 4), "int32")
    mask = 256 - tf.bitwise.left_shift(1, 8 - bits)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, "uint8"))


def solarize(image, magnitude, sign):
    threshold = tf.cast(256 - tf.floor(scaled(magnitude, 256)), "float32")
    x = tf.cast(image, "float32")
    above = tf.clip_by_value(x - (threshold - 1), 0, 1)
    return tf.cast(tf.abs(x - 255 * above), "uint8")


def solarize_add(image, magnitude, sign):
    added = tf.cast(tf.floor(scaled(magnitude, 110)), "float32")
    x = tf.cast(image, "float32")
    below = tf.clip_by_value(128 - x, 0, 1)
    return tf.cast(x + added * below, "uint8")


def blend(other, x, magnitude, sign):
    """PIL's enhancement: from `other` to `x` and beyond."""
    factor = tf.cast(1 + scaled(magnitude, 0.9, sign), "float32")
    return to_uint8(other + factor * (x - other))


def color(image, magnitude, sign):
    x = tf.cast(image, "float32")
    if image.shape[-1] == 1:  # it has no color
        return image
    gray = tf.matmul(tf.reshape(x, (-1, 3)), [[weight] * 3 for weight in GRAY])
    gray = tf.cast(tf.cast(gray + 0.5, "int32"), "float32")
    return blend(tf.reshape(gray, image.shape), x, magnitude, sign)


def contrast(image, magnitude, sign):
    x = tf.cast(image, "float32")
    total = tf.reduce_sum(tf.cast(luminance(image), "int32"))
    mean = tf.floor(total / (image.shape[0] * image.shape[1]) + 0.5)
    return blend(tf.cast(mean, "float32"), x, magnitude, sign)


def brightness(image, magnitude, sign):
    return blend(0.0, tf.cast(image, "float32"), magnitude, sign)


def sharpness(image, magnitude, sign):
    x = tf.cast(image, "float32")
    rows = x[:-2] + x[1:-1] + x[2:]
    center = x[1:-1, 1:-1]
    smooth = tf.round((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * center) / 13)
    # PIL does not smooth the border
    return blend(x - tf.pad(center - smooth, [[1, 1], [1, 1], [0, 0]]), x, magnitude, sign)


# ---- geometry -----------------------------------------------------------------------------------


def cubic(d):
    """The weights of four pixels for a point at `d` in [0, 1) between the middle two.

    PIL's cubic for transforms has a = -1, unlike its cubic for resizing.
    """
    e = 1 - d
    before, after = d * tf.square(e), tf.square(d) * e
    return -before, e + before, d + after, -after


def rotate(image, magnitude, sign):
    """By PIL itself: 1.7 times as fast as look-ups of 16 pixels for each pixel."""

    channels = image.shape[-1]

    def turned(pixels, degrees):
        picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
        fill = FILL[channels] if channels == 3 else FILL[channels][0]
        turned = np.asarray(picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=fill))
        return turned.reshape(pixels.shape)

    degrees = scaled(magnitude, 30.0, sign)
    pixels = tf.numpy_function(turned, [image, degrees], "uint8", stateful=False)
    return tf.ensure_shape(pixels, image.shape)


def spread(values, axis, channels):
    """A vector along one axis of an image."""
    return values[:, None, None] if axis == 0 else tf.tile(values[None, :, None], [1, 1, channels])


def slide(image, offsets, axis):
    """Moves each line of pixels along `axis` by its own offset, interpolating as PIL does."""
    height, width, channels = image.shape
    size = image.shape[axis]
    offsets = tf.broadcast_to(tf.cast(offsets, "float64"), [image.shape[1 - axis]])
    first = tf.floor(offsets)
    near = tf.range(-1, size + 2)
    if axis == 0:
        source = tf.clip_by_value(near[:, None] + tf.cast(first, "int32"), 0, size - 1)
        index = source * width + tf.range(width)
    else:
        source = tf.clip_by_value(near + tf.cast(first, "int32")[:, None], 0, size - 1)
        index = source + tf.range(0, height * width, width)[:, None]
    lines = tf.cast(tf.gather_nd(tf.reshape(image, (-1, channels)), index[..., None]), "float32")
    taps = [lines[i : i + size] if axis == 0 else lines[:, i : i + size] for i in range(4)]
    weights = [spread(w, 1 - axis, channels) for w in cubic(tf.cast(offsets - first, "float32"))]
    total = tf.add_n([tap * weight for tap, weight in zip(taps, weights, strict=True)])
    # 1 for a pixel that comes from inside, else 0
    moved = tf.cast(tf.floor(offsets + 0.5), "float32")
    place = spread(tf.range(size, dtype="float32") - (size - 1) / 2, axis, channels)
    place += spread(moved, 1 - axis, channels)
    inside = tf.clip_by_value((size + 1) / 2 - tf.abs(place), 0, 1)
    fill = tf.constant([[FILL[channels]] * width], "float32")
    return to_uint8((total - fill) * inside + (fill + TRUNCATION_EPSILON))


def shear_x(image, magnitude, sign):
    return slide(image, shear(image.shape[0], magnitude, sign), 1)


def shear_y(image, magnitude, sign):
    return slide(image, shear(image.shape[1], magnitude, sign), 0)


def shear(size, magnitude, sign):
    return scaled(magnitude, 0.3, sign) * (tf.range(size, dtype="float64") + 0.5)


def translate_x(image, magnitude, sign):
    return slide(image, scaled(magnitude, 0.45, sign) * image.shape[1], 1)


def translate_y(image, magnitude, sign):
    return slide(image, scaled(magnitude, 0.45, sign) * image.shape[0], 0)


# Name -> function(image, magnitude in [0, 10], sign of -1.0 or 1.0) -> image
OPERATIONS = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "Color": color,
    "Contrast": contrast,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
}
