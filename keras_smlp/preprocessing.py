"""The normalization of the pixels, and how large a photo is resized before its central crop."""

import keras
import numpy as np

# ImageNet statistics of RGB in [0, 1], as timm and the official code use them
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SCALE = [1 / (255 * std) for std in STD]
OFFSET = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]


def of_channels(rgb, channels):
    """A value of each channel, from those of red, green and blue, which are repeated in turn."""
    return [rgb[i % len(rgb)] for i in range(channels)]


def normalization(name, channels=3):
    """The layer that normalizes pixels in [0, 255] (uint8 or float) to the network's input.

    `(x / 255 - MEAN) / STD`, computed in float32 whatever the model's dtype policy. The mean and
    the deviation of a fourth channel are those of red, of a fifth those of green, and so on.

    Args:
        name: String. Name of the layer.
        channels: Integer, at least 2. Defaults to `3`, RGB.

    Returns:
        A `keras.layers.Rescaling` over the last axis.
    """
    scale, offset = of_channels(SCALE, channels), of_channels(OFFSET, channels)
    # of the shape (1, 1, 3): one of (3,) Keras would read by the global image_data_format
    return keras.layers.Rescaling([[scale]], [[offset]], name=name, dtype="float32")


def gray_to_rgb(images, name):
    """Gray images `(batch, height, width, 1)` as RGB: three times the same, by a layer of Keras'.

    Red, green and blue are normalized differently, so that one channel could not stand for all.
    """
    return keras.layers.Concatenate(name=name, dtype="float32")([images] * 3)


def fix_axes(layer):
    """Gives the normalization of a file of version 0.1.0, of the shape (3,), its (1, 1, 3)."""
    own = {"scale": SCALE, "offset": OFFSET}
    if isinstance(layer, keras.layers.Rescaling) and own.items() <= layer.get_config().items():
        layer.scale, layer.offset = [[SCALE]], [[OFFSET]]


def is_normalization(layer):
    """Whether it normalizes as the layer of `normalization` does."""
    if not isinstance(layer, keras.layers.Rescaling) or np.size(layer.scale) < 2:
        return False
    own = normalization(None, np.size(layer.scale))
    return all(
        np.shape(np.ravel(x)) == np.shape(np.ravel(y)) and np.allclose(np.ravel(x), np.ravel(y))
        for x, y in ((layer.scale, own.scale), (layer.offset, own.offset))
    )


def shorter_side(size):
    """Length of an image's shorter side before the central crop to `size`: 256 for 224."""
    return round(size * 256 / 224)
