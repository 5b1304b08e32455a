"""What happens to the pixels before the network sees them. MEAN and STD stand here only."""

import keras

# ImageNet statistics of RGB in [0, 1], as timm and the official code use them
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalization(name="preprocessing"):
    """The layer that normalises RGB in [0, 255] (uint8 or float) to the network's input.

    `(x / 255 - MEAN) / STD`, computed in float32 whatever the model's dtype policy.

    Args:
        name: String. Name of the layer.

    Returns:
        A `keras.layers.Rescaling` over the last axis.
    """
    scale = [1 / (255 * std) for std in STD]
    offset = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
    return keras.layers.Rescaling(scale, offset, name=name, dtype="float32")


def takes_pixels(model):
    """Whether a model takes RGB in [0, 255], not normalised values.

    True for one that begins with the normalisation, or holds it folded into the stem, which has a
    bias then; and for any that has no stem, of which nothing is known.
    """
    stems = [layer for layer in model.layers if layer.name == "stem"]
    begins = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    return begins or all(stem.use_bias for stem in stems)
