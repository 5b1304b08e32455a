"""A small network and images for the tests of the training step, in any process."""

import numpy as np

import keras_smlp


def images(count):
    """The first images of an endless series, float32 (count, 16, 16, 3), and their labels."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (count, 16, 16, 3)).astype("float32")
    return x, (np.arange(count) % 4).astype("int32")


def network(**arguments):
    """An sMLPNet of two blocks with logits of four classes."""
    return keras_smlp.SMLPNet(
        8,
        (1, 1),
        input_shape=(16, 16, 3),
        patch_size=2,
        classes=4,
        classifier_activation=None,
        **arguments,
    )
