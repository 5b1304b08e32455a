"""One of a few PyTorch processes of test_engines.py: single steps, against one process.

`python -m helpers.torch_steps CHECK...`, with the variables of `torchrun`.
"""

import random
import sys

import keras
import numpy as np
import torch

import keras_smlp
from helpers import nets
from keras_smlp.training import engines
from keras_smlp.training.step import TrainingModel

BATCH = 8
X, Y = nets.to_train_on(4 * BATCH)


def training_model(engine, optimizer, dtype=None, second_head=False, frozen=False):
    random.seed(1)
    network = nets.to_train(drop_path_rate=0.3, dtype=dtype)
    keras_smlp.freeze_batch_norm(network)  # or each process normalizes by its own images
    if frozen:
        network.layers[2].trainable = False
    outputs, losses = network.output, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if second_head:
        outputs = [outputs, keras.layers.Dense(1, name="unused")(network.layers[-2].output)]
        losses = [losses, None]
    model = TrainingModel(network.input, outputs, ema_decay=0.9, engine=engine)
    model.compile(optimizer, losses)
    return model


def step(model, number, scale=1.0):
    """A training step on this process's part of a batch; the gradients after it."""
    engine = model.engine
    part = BATCH // engine.processes
    own = slice(number * BATCH + engine.rank * part, number * BATCH + (engine.rank + 1) * part)
    targets = [Y[own], Y[own]] if len(model.outputs) == 2 else Y[own]
    model.train_on_batch(X[own] * np.float32(scale), targets)
    return gradients(model)


def gradients(model):
    found = [variable.value.grad for variable in model.trainable_variables]
    return [None if gradient is None else gradient.numpy().copy() for gradient in found]


def values(model):
    variables = model.trainable_variables + model.optimizer.variables
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def difference(some, others):
    pairs = [(x, y) for x, y in zip(some, others, strict=True) if x is not None]
    assert all((x is None) == (y is None) for x, y in zip(some, others, strict=True))
    assert len(pairs) > 20
    return max(np.abs(x - y).max() for x, y in pairs)


def same_everywhere(engine, arrays):
    joined = b"".join(array.tobytes() for array in arrays if array is not None)
    return len(set(engine.gather([joined]))) == 1


def check_gradients(engine, **options):
    several, one = (
        training_model(e, keras.optimizers.SGD(0.1), **options) for e in (engine, engines.Engine())
    )
    for number in range(3):
        own, expected = step(several, number), step(one, number)
        assert max(np.abs(x).max() for x in expected if x is not None) > 0.01
        assert difference(own, expected) < 1e-6
        assert same_everywhere(engine, own)
    assert sum(gradient is None for gradient in expected) == 2 * options.get("second_head", False)


def check_accumulation(engine):
    """Only the last part of an update is sent, and brings what was not."""
    several, one = (
        training_model(e, keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2))
        for e in (engine, engines.Engine())
    )
    for number in range(4):
        own = step(several, number)
        step(one, number)
        assert same_everywhere(engine, own) == bool(number % 2)
        assert same_everywhere(engine, values(several)) == bool(number % 2)
        if number % 2:
            assert difference(values(several), values(one)) < 1e-6


def check_overflow(engine):
    """What overflows in one process is an update that neither makes."""
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    model = training_model(engine, optimizer, dtype="mixed_float16")
    before = [np.copy(value) for value in values(model)[: len(model.trainable_variables)]]
    step(model, 0, scale=1e30 if engine.rank else 1.0)
    after = values(model)
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=False))
    assert float(optimizer.dynamic_scale) == 4.0 and same_everywhere(engine, after)
    for number in range(2):
        step(model, number)
        assert same_everywhere(engine, values(model))
    assert int(optimizer.iterations) == 1
    assert difference(before, values(model)[: len(before)]) > 1e-3


def check_order(engine):
    """A run's first step adds in the order of all others: a resumed one would differ else.

    It needs three processes: of two, the order does not matter.
    """
    model, rng = training_model(engine, "sgd"), np.random.default_rng(engine.rank)
    parameters = [variable.value for variable in model.trainable_variables]
    factors = [torch.tensor(rng.normal(size=p.shape), dtype=torch.float32) for p in parameters]
    found = []
    for _ in range(2):
        model.zero_grad()
        pairs = zip(parameters, factors, strict=True)
        engine.backward(model, sum((p * factor).sum() for p, factor in pairs))
        found.append(gradients(model))
    np.testing.assert_equal(*found)


CHECKS = {
    "gradients": lambda engine: check_gradients(engine),
    "frozen": lambda engine: check_gradients(engine, frozen=True),
    "unused": lambda engine: check_gradients(engine, second_head=True),
    "accumulation": check_accumulation,
    "overflow": check_overflow,
    "order": check_order,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    engine = engines.start()
    for name in sys.argv[1:]:
        CHECKS[name](engine)
    engine.barrier()
