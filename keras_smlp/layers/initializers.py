"""PyTorch's initial values, from which the official training starts."""

import math
import random

import keras
import numpy as np
from keras import ops

from keras_smlp.checks import MOST, check_integer, check_positive_integer


@keras.saving.register_keras_serializable(package="keras_smlp")
class TorchUniform(keras.initializers.Initializer):
    """The initial values of PyTorch's linear and convolution layers, weights and biases alike.

    U(-1/sqrt(fan_in), 1/sqrt(fan_in)), where `fan_in` counts as PyTorch does: for a depthwise
    kernel it is the window alone (Keras' `VarianceScaling` would count the channels too). The
    values are drawn by NumPy: the same on every backend after `keras.utils.set_random_seed`, and
    without compiling one program per shape, which costs JAX ten seconds a network.

    Args:
        fan_in: Positive integer. Inputs that one output sums over.
        seed: Integer or `None`. Seed of the draws; `None` takes one from the generator that
            `keras.utils.set_random_seed` seeds. One instance gives the same values at each call.
    """

    def __init__(self, fan_in: int, seed: int | None = None):
        self.fan_in = check_positive_integer("fan_in", fan_in)
        self.seed = check_integer("seed", seed, 0, MOST, none=True)
        self.drawn_seed = random.randint(0, MOST) if self.seed is None else self.seed

    def __call__(self, shape, dtype=None):
        bound = 1 / math.sqrt(self.fan_in)
        values = np.random.default_rng(self.drawn_seed).uniform(-bound, bound, shape)
        return ops.convert_to_tensor(values.astype("float32"), dtype=dtype)

    def get_config(self):
        return {"fan_in": self.fan_in, "seed": self.seed}
