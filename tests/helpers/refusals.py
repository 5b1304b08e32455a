"""A tiny network, and files of it that must be refused unread."""

import time

import numpy as np
import pytest

import keras_smlp
from helpers import memory
from keras_smlp.weights import loading


def tiny(**arguments):
    return keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3, **arguments)


def refused(model, path, words):
    """Neither way of loading takes the file, reads much of it or changes the model."""
    before = model.get_weights()
    ways = [lambda: loading.load(model, path), lambda: keras_smlp.load_model(path)]
    for load in ways:
        resident, start = memory.forget_peak(), time.perf_counter()
        with pytest.raises(ValueError, match=words) as caught:
            load()
        assert time.perf_counter() - start < 20 and memory.megabytes_since(resident) < 64
        message = str(caught.value)
        assert str(path) in message and message.isprintable() and len(message) < 4000
    np.testing.assert_equal(model.get_weights(), before)
