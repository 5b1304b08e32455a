"""An engine runs the training step on devices and processes: this one on one device."""

import contextlib
import hashlib

import keras
import numpy as np
from keras import ops

from keras_smlp.layers.composite import Composite


class Engine:
    """One process on one device. The engines of several override what differs.

    Attributes:
        name: String. What distributes.
        devices: Positive integer. Devices of all processes; divides the batch.
        processes: Positive integer. Number of processes; each feeds its own part of the batch.
        rank: Integer from 0. Number of this process.
    """

    name, devices, processes, rank = "one device", 1, 1, 0
    normalized = "the whole batch"

    @property
    def is_main(self):
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    @property
    def apart(self):
        """Into how many parts a batch falls whose images are mixed apart, and what has them."""
        return self.processes, "processes"

    def describe(self):
        """One sentence: what distributes, and over what BatchNorm is computed."""
        number = f"{self.devices} devices in {self.processes} processes, "
        return f"{self.name}: {number * (self.devices > 1)}BatchNorm over {self.normalized}."

    def check_batch(self, batch_size):
        """Raises `ValueError` unless the batch of all processes divides by the devices."""
        if batch_size % self.devices:
            raise ValueError(
                f"`batch_size`: {batch_size}, allowed: a multiple of {self.devices}, the "
                "number of devices"
            )

    def check_same(self, model):
        """Raises `RuntimeError` unless all processes hold the same weights and random states."""
        digest = hashlib.sha256()
        for variable in model.trainable_variables + model.non_trainable_variables:
            digest.update(ops.convert_to_numpy(variable).tobytes())
        if len(set(self.gather([digest.hexdigest()]))) > 1:
            raise RuntimeError("the processes have different weights: same seed and files needed")

    def scope(self):
        """Context manager to build and compile models in."""
        return contextlib.nullcontext()

    def forward(self, model):
        """Function from images to logits, with the model's weights of this moment.

        It takes and returns NumPy arrays: `(batch, ...)`, this process's own images, their number
        a multiple of `devices // processes`. The processes may call it a different number of times.
        """
        return model.predict_on_batch

    def gather(self, rows):
        """The rows (a list or a NumPy array) of all processes, in the order of their ranks."""
        return rows

    def sum(self, values):
        """The sum over the processes of a NumPy vector, in float64."""
        return np.sum(self.gather([np.asarray(values, "float64")]), axis=0)

    def barrier(self):
        """Waits for all processes."""
        self.gather([])

    def on_main(self, function):
        """Calls a function in the main process; what it refuses, all processes refuse."""
        refused = []
        if self.is_main:
            try:
                function()
            except (ValueError, OSError) as error:
                refused.append(str(error))
        for message in self.gather(refused):
            raise ValueError(message)

    def saving(self):
        """Context manager to save Keras files in; the main process alone may enter it."""
        return contextlib.nullcontext()

    # ---- for the training step ------------------------------------------------------------------
    def check_optimizer(self, optimizer):
        """Raises `ValueError` where the engine cannot do what the optimizer asks for."""

    def step_scope(self, model):
        """Context manager around forward and backward of a training step."""
        return contextlib.nullcontext()

    def backward(self, model, loss):
        """Computes the gradients of the model's variables: their mean over the processes."""
        raise NotImplementedError  # PyTorch in several processes alone

    def average_statistics(self, model):
        """Makes BatchNorm's moving statistics the mean over the devices, where they differ."""


def several(kind, devices):
    """Whether to distribute over the devices of this process."""
    if kind == "data_parallel" and devices == 1:
        raise ValueError("`kind`: data_parallel, allowed: auto, none with one device")
    return kind != "none" and devices > 1


def batch_norms(model):
    """The BatchNorm layers of a network, those inside the token mixing too."""
    layers = []
    for layer in model.layers:
        is_composite = isinstance(layer, Composite)
        layers += [getattr(layer, name) for name in layer.PARTS] if is_composite else [layer]
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def statistics(model):
    """The moving statistics that training moves: those of BatchNorm layers that are not frozen."""
    layers = [layer for layer in batch_norms(model) if layer.trainable]
    return [value for layer in layers for value in (layer.moving_mean, layer.moving_variance)]


def joined(parts):
    """Lists or NumPy arrays, one after another."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [row for part in parts for row in part]
