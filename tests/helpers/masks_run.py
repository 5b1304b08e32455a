"""One process of test_engines.py: which images stochastic depth keeps, under an engine.

`python -m helpers.masks_run FOLDER KIND [COORDINATOR PROCESSES RANK]` goes on from the weights in
FOLDER, and leaves the masks and the new weights there. `DEVICES` says how many TensorFlow has.
"""

import os
import random
import sys
from pathlib import Path

import keras
import numpy as np

from keras_smlp.layers import DropPath
from keras_smlp.training import engines
from keras_smlp.training.step import TrainingModel

BACKEND = keras.backend.backend()
BATCH, STEPS, WEIGHTS = 8, 4, "masks.weights.h5"


def negative(_, outputs):
    return -outputs


def masked_model(engine):
    """A model whose weight `i` counts how often image `i` of a batch was kept."""
    random.seed(1)  # Keras' function would import TensorFlow on every backend
    with engine.scope():
        inputs = keras.Input((BATCH,))
        counts = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        model = TrainingModel(inputs, counts(DropPath(0.5)(inputs)), engine=engine)
        # a kept image is doubled, and the loss is a mean
        model.compile(keras.optimizers.SGD(BATCH / 2), negative)
    return model


def masks(model, steps=STEPS):
    """Trains; which images each step kept, 0 or 1, `(steps, BATCH)`."""
    counts = [counted(model)]
    part = BATCH // model.engine.processes
    own = slice(model.engine.rank * part, (model.engine.rank + 1) * part)
    x = np.tile(np.eye(BATCH, dtype="float32")[own], (steps, 1))

    def note(batch, logs):
        if BACKEND == "jax":
            model.jax_state_sync()
        counts.append(counted(model))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    y = x[:, :1]  # not used
    model.fit(x, y, batch_size=part, shuffle=False, verbose=0, callbacks=[callback])
    return np.diff(counts, axis=0)


def copies(variable):
    """The values of a variable on all devices of this process."""
    if BACKEND == "jax":
        devices = variable.value.sharding.addressable_devices
        return [np.asarray(variable.value.addressable_data(i)) for i in range(len(devices))]
    if BACKEND == "tensorflow":
        return [value.numpy() for value in getattr(variable.value, "values", [variable.value])]
    return [keras.ops.convert_to_numpy(variable)]


def counted(model):
    first, *others = copies(model.trainable_variables[0])
    assert all(np.array_equal(first, other) for other in others)
    return np.copy(first).ravel()


def main(folder, kind, coordinator=None, processes=None, rank=None):
    number = {"processes": processes and int(processes), "rank": rank and int(rank)}
    engine = engines.start(kind, coordinator, **number)
    model = masked_model(engine)
    model.load_weights(folder / WEIGHTS)
    engine.barrier()
    found = masks(model)
    if engine.is_main:
        with engine.saving():
            model.save_weights(folder / WEIGHTS)
        np.savez(folder / "masks.npz", masks=found, devices=engine.devices)
    engine.barrier()


if __name__ == "__main__":
    if BACKEND == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        devices = [tf.config.LogicalDeviceConfiguration()] * int(os.environ["DEVICES"])
        tf.config.set_logical_device_configuration(cpu, devices)
    main(Path(sys.argv[1]), *sys.argv[2:])
