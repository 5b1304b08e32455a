"""The learning rate: a pure function of the epoch, and the same as a Keras schedule."""

import math

import keras
import numpy as np


def learning_rate(epoch, peak, epochs, warmup_epochs=20, warmup_lr=1e-6, min_lr=1e-5, late=True):
    """The official schedule: linear warm-up, then a cosine counted from epoch 0.

    Args:
        epoch: Number or array of numbers in `[0, epochs)`; fractions are allowed.
        peak: Positive float. Learning rate that the warm-up leads to.
        epochs: Positive integer. Length of the cosine.
        warmup_epochs: Non-negative integer. Defaults to `20`.
        warmup_lr: Positive float. Learning rate at the start of the warm-up. Defaults to `1e-6`.
        min_lr: Positive float. Learning rate at the end of the cosine. Defaults to `1e-5`.
        late: Boolean. Whether epoch `e` has the value of epoch `e - 1`, as the official code sets
            it after each epoch. Defaults to `True`.

    Returns:
        A NumPy float64 number or array.

    Reference:
        timm 0.3.2 `CosineLRScheduler` as the official `main.py` steps it.

    Example:

    >>> float(learning_rate(21, peak=1e-3, epochs=300).round(7))
    0.0009892
    """
    t = np.maximum(np.asarray(epoch, "float64") - late, 0)
    cosine = min_lr + (peak - min_lr) * (1 + np.cos(math.pi * t / epochs)) / 2
    if not warmup_epochs:
        return cosine
    warmup = warmup_lr + (peak - warmup_lr) * t / warmup_epochs
    return np.where(t < warmup_epochs, warmup, cosine)


class Tabulated(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for each step, from a table: the same float32 on every backend.

    Args:
        values: Sequence of floats. Learning rates, in order; the last one stays.
        steps: Positive integer. Steps for which one value holds. Defaults to `1`.
    """

    def __init__(self, values, steps=1):
        self.values = np.asarray(values, "float32")
        self.steps = steps

    def __call__(self, step):
        index = keras.ops.cast(step, "int32") // self.steps
        index = keras.ops.minimum(index, len(self.values) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self.values), index)

    def get_config(self):
        return {"values": self.values.tolist(), "steps": self.steps}
