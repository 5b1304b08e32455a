"""Random erasing, mixup and CutMix within the training step, on the device that trains.

What is drawn comes with each batch, a few integers per image, from `pipeline`; the arithmetic is
here, by Keras' operations for every backend. So the host makes uint8 images and no float ones. The
draws, and the noise too, depend on the seed, the epoch and the place of an image alone: pictures
are the same whatever the number of devices.

Pixels stay in [0, 255]: normalization is linear in each channel, so noise drawn and images mixed in
normalized space are the same here, rescaled.
"""

import math

from keras import ops

from keras_smlp.preprocessing import MEAN, STD, of_channels

IMAGES, ERASE, MIX = "images", "erase", "mix"  # the keys of a batch
KEPT_BITS = 24  # of the part that mixup keeps: float32 holds it exactly
WORD = 16  # bits of each of the two uniform numbers that give a normal one


def finished(batch, group_size):
    """Images as the network trains on them.

    Args:
        batch: A tensor of images, which is returned as it is, or a dict of tensors: uint8 `images`
            `(batch, height, width, channels)` in [0, 255]; int32 `erase` `(batch, 5)`, if images
            are erased, the top, left, height and width of the box, and a seed; int32 `mix`
            `(batch, 5)`, if they are mixed, the top, left, height and width of CutMix' box, and
            the part that the image keeps outside of it in units of `2**-24`. An empty box is none.
        group_size: Positive integer. Images in a row that are mixed with one another in reversed
            order; divides the batch.

    Returns:
        A tensor `(batch, height, width, channels)`, float32 if `batch` is a dict.

    Reference:
        [Random Erasing](https://arxiv.org/abs/1708.04896), [mixup](https://arxiv.org/abs/1710.09412),
        [CutMix](https://arxiv.org/abs/1905.04899); timm 0.3.2 `RandomErasing("pixel")` and `Mixup`
        in mode "batch".
    """
    if not isinstance(batch, dict):
        return batch
    # int32 already, but where Keras builds a model on several devices of TensorFlow by their mean
    rows = {key: ops.cast(batch[key], "int32") for key in (ERASE, MIX) if key in batch}
    images = ops.cast(batch[IMAGES], "float32")
    if ERASE in rows:
        box, seeds = rows[ERASE][:, :4], rows[ERASE][:, 4]
        images = ops.where(inside(box, images), noise(seeds, images), images)
    if MIX in rows:
        box, kept = rows[MIX][:, :4], ops.cast(rows[MIX][:, 4], "float32") * 2.0**-KEPT_BITS
        kept = ops.where(inside(box, images), 0.0, kept[:, None, None, None])
        images = images * kept + partners(images, group_size) * (1 - kept)
    return images


def inside(box, images):
    """Which pixels are in the box of their image: booleans `(batch, height, width, 1)`."""
    _, height, width, _ = images.shape
    top, left, high, wide = (box[:, i, None] for i in range(4))
    row, column = ops.arange(height, dtype="int32"), ops.arange(width, dtype="int32")
    rows, columns = (row >= top) & (row < top + high), (column >= left) & (column < left + wide)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def partners(images, group_size):
    """For each image the one that it is mixed with: each group in reversed order."""
    groups = ops.reshape(images, (-1, group_size, *images.shape[1:]))
    return ops.reshape(ops.flip(groups, axis=1), ops.shape(images))


def noise(seeds, images):
    """Standard normal noise in normalized space, in [0, 255]'s units: independent for each value.

    Keras' generators take one seed for a whole tensor; here each image has its own. A value is
    hashed from the seed and its place: two halves of the hash are two uniform numbers, and these
    give a normal one (Box-Muller). It is computed for all pixels: compiled programs need fixed
    shapes.
    """
    count = math.prod(images.shape[1:])
    places = ops.reshape(ops.arange(1, count + 1, dtype="int32"), images.shape[1:])
    places = hashed(places)  # from 1 on: of 0 the hash is 0
    bits = hashed(ops.bitwise_xor(places, seeds[:, None, None, None]))
    first, second = shifted(bits, WORD), ops.bitwise_and(bits, 2**WORD - 1)
    radius = ops.sqrt(-2 * ops.log((ops.cast(first, "float32") + 1) * 2.0**-WORD))
    normal = radius * ops.cos(ops.cast(second, "float32") * (2 * math.pi * 2.0**-WORD))
    std, mean = (statistics(v, images.shape[-1]) for v in (STD, MEAN))
    return normal * std + mean


def statistics(rgb, channels):
    """Of each channel in [0, 255]: those of RGB in turn, their mean for gray."""
    values = [sum(rgb) / len(rgb)] if channels == 1 else of_channels(rgb, channels)
    return ops.convert_to_tensor([255 * x for x in values], "float32")


def hashed(x):
    """Scrambles 32 bits, in signed integers: "lowbias32" of nullprogram.com/blog/2018/07/31."""
    x = ops.multiply(ops.bitwise_xor(x, shifted(x, 16)), 0x7FEB352D)
    x = ops.multiply(ops.bitwise_xor(x, shifted(x, 15)), 0x846CA68B - 2**32)
    return ops.bitwise_xor(x, shifted(x, 16))


def shifted(x, bits):
    """A shift to the right that fills up with zeros, which that of signed integers does not."""
    return ops.bitwise_and(ops.right_shift(x, bits), 2 ** (32 - bits) - 1)
