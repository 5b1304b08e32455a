"""The normalization of the pixels, and how large a photo is resized before its central crop."""

import keras
import numpy as np

# ImageNet statistics of RGB in [0, 1], as timm and the official code use them
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SCALE = [1 / (255 * std) for std in STD]
OFFSET = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]


def normalization(name):
    """The layer that normalizes RGB in [0, 255] (uint8 or float) to the network's input.

    `(x / 255 - MEAN) / STD`, computed in float32 whatever the model's dtype policy.

    Args:
        name: String. Name of the layer.

    Returns:
        A `keras.layers.Rescaling` over the last axis.
    """
    # of the shape (1, 1, 3): one of (3,) Keras would read by the global image_data_format
    return keras.layers.Rescaling([[SCALE]], [[OFFSET]], name=name, dtype="float32")


def fix_axes(layer):
    """Gives the normalization of a file of version 0.1.0, of the shape (3,), its (1, 1, 3)."""
    own = {"scale": SCALE, "offset": OFFSET}
    if isinstance(layer, keras.layers.Rescaling) and own.items() <= layer.get_config().items():
        layer.scale, layer.offset = [[SCALE]], [[OFFSET]]


def is_normalization(layer):
    """Whether it normalizes as the layer of `normalization` does."""
    own = normalization(None)
    return isinstance(layer, keras.layers.Rescaling) and all(
        np.shape(np.ravel(x)) == np.shape(np.ravel(y)) and np.allclose(np.ravel(x), np.ravel(y))
        for x, y in ((layer.scale, own.scale), (layer.offset, own.offset))
    )


def shorter_side(size):
    """Length of an image's shorter side before the central crop to `size`: 256 for 224."""
    return round(size * 256 / 224)
