"""One process of test_engines.py: a short training under an engine.

`python -m helpers.distributed_run FOLDER BATCH_NORM KIND [COORDINATOR PROCESSES RANK]`. The main
process leaves in FOLDER what the training and the evaluation gave.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from helpers import nets
from helpers.masks_run import copies
from keras_smlp.data import on_device
from keras_smlp.training import engines
from keras_smlp.training.engines import base
from keras_smlp.training.step import TrainingModel

STEPS, BATCH, VALIDATION, GROUP = 10, 8, 10, 2
BACKEND = keras.backend.backend()


def training_model(engine, local):
    keras.utils.set_random_seed(1)
    with engine.scope():
        network = nets.to_train(drop_path_rate=0.2)
        if BACKEND == "torch" and not local:
            # the reference would compute them over the whole batch
            for layer in base.batch_norms(network):
                layer.trainable = False
        model = TrainingModel(
            network.input, network.output, ema_decay=0.9, engine=engine, group_size=GROUP
        )
        model.compile(
            keras.optimizers.AdamW(1e-3, weight_decay=0.05),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    return network, model


def own_batches(engine):
    """This process's part of each batch; boxes are erased, and pairs of images mixed or cut."""
    part = BATCH // engine.processes
    own = slice(engine.rank * part, (engine.rank + 1) * part)
    images, labels = nets.to_train_on(STEPS * BATCH)
    erase = np.random.default_rng(1).integers(0, 9, (len(images), 5), "int32")
    mix = np.array([[0, 0, 0, 0, 2**23]] * GROUP + [[2, 3, 5, 6, 2**24]] * GROUP, "int32")
    batch = {
        on_device.IMAGES: images.astype("uint8"),
        on_device.ERASE: erase,
        on_device.MIX: np.tile(mix, (len(images) // len(mix), 1)),
    }
    batches = keras.tree.map_structure(
        lambda a: a.reshape(STEPS, BATCH, *a.shape[1:])[:, own], (batch, labels)
    )
    return tf.data.Dataset.from_tensor_slices(batches)


def variables(model):
    return model.trainable_variables + model.non_trainable_variables + model.optimizer.variables


def check_same(engine, model):
    engine.check_same(model)
    for variable in variables(model):
        first, *others = copies(variable)
        assert 1 + len(others) == engine.devices // engine.processes
        for other in others:
            np.testing.assert_array_equal(first, other, variable.path)


def evaluate(engine, model):
    """(index, logits) of the validation images, from all processes."""
    own = np.arange(VALIDATION)[engine.rank :: engine.processes]
    devices, forward, rows = engine.devices // engine.processes, engine.forward(model), []
    for start in range(0, len(own), 4):
        index = own[start : start + 4]
        x = nets.to_train_on(STEPS * BATCH)[0][index]
        padding = -len(x) % devices
        logits = forward(np.concatenate([x, np.zeros((padding, *x.shape[1:]), x.dtype)]))
        rows += list(zip(index.tolist(), logits, strict=False))
    return engine.gather(rows)


def main(folder, batch_norm, kind, coordinator=None, processes=None, rank=None):
    number = {"processes": processes and int(processes), "rank": rank and int(rank)}
    engine = engines.start(kind, coordinator, **number, batch_norm=batch_norm)
    network, model = training_model(engine, batch_norm == "local")
    engine.check_batch(BATCH)
    check_same(engine, model)
    means = []  # of the losses up to each batch, as Keras logs them
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: means.append(float(logs["loss"]))
    )
    model.fit(own_batches(engine), epochs=1, verbose=0, shuffle=False, callbacks=[note])
    check_same(engine, model)
    losses = np.diff(np.array(means) * np.arange(1, len(means) + 1), prepend=0.0)
    # of its own part (PyTorch), or of the whole batch
    losses = engine.sum(losses) / engine.processes
    assert np.array_equal(engine.gather(np.array([engine.rank])), np.arange(engine.processes))
    with model.ema_swapped_in():
        rows = evaluate(engine, model)
        if engine.is_main:
            with engine.saving():
                network.save(folder / "model.keras")
    total = engine.sum([1 + 1e-12, engine.rank])
    if engine.is_main:
        with engine.saving():
            model.save_weights(folder / "state.weights.h5")
        index, logits = zip(*rows, strict=True)
        weights = {f"weight{i}": weight for i, weight in enumerate(network.get_weights())}
        run = {"losses": losses, "index": index, "logits": logits, "sum": total}
        np.savez(folder / "run.npz", text=engine.describe(), **run, **weights)
    engine.barrier()
    # the same on all devices and processes, and exactly what it was
    resumed = training_model(engine, batch_norm == "local")[1]
    resumed.load_weights(folder / "state.weights.h5")
    check_same(engine, resumed)
    for one, other in zip(variables(model), variables(resumed), strict=True):
        np.testing.assert_array_equal(copies(one)[0], copies(other)[0], one.path)


if __name__ == "__main__":
    if BACKEND == "tensorflow":
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
    main(Path(sys.argv[1]), *sys.argv[2:])
