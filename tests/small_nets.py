"""A small network and its images; the same network in the states that folding and others refuse."""

import keras
import numpy as np
from conftest import trained_like

import keras_smlp

SMALL = {"dim": 8, "depths": (1, 1), "input_shape": (16, 32, 3), "classes": 5}


def net(**arguments):
    """A small network whose logits are not squeezed by a softmax."""
    return trained_like(keras_smlp.SMLPNet(**{**SMALL, "classifier_activation": None, **arguments}))


def photos(batch=3, dtype="uint8"):
    return np.random.default_rng(0).integers(0, 256, (batch, 16, 32, 3)).astype(dtype)


def compiled():
    model = net()
    model.compile("sgd", "mse")
    return model


def adapted():
    model = net()
    keras_smlp.enable_lora(model, 2)
    return model


def quantized():
    model = net()
    keras_smlp.quantize(model)
    return model


def folded():
    return keras_smlp.fold(net())


def other():
    """A model that is no sMLPNet."""
    return keras.Sequential([keras.layers.Dense(1)])
