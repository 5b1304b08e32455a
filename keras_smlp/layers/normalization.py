"""Batch and layer normalization with PyTorch's constants, computed as in `layers/backend`."""

import keras

from keras_smlp.checks import check_unquantized
from keras_smlp.layers import backend

# PyTorch's defaults; its momentum of 0.1 is 0.9 in Keras' terms
EPSILON = 1e-5
MOMENTUM = 0.9


class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the official network's constants."""

    def __init__(self, **kwargs):
        super().__init__(momentum=MOMENTUM, epsilon=EPSILON, **kwargs)
        check_unquantized(self)

    def call(self, x, training=None):
        return backend.batch_norm(self, x, training)


class LayerNorm(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` with the official network's epsilon."""

    def __init__(self, **kwargs):
        super().__init__(epsilon=EPSILON, **kwargs)
        check_unquantized(self)

    def call(self, x, training=None):
        return backend.layer_norm(self, x, training)
