"""Layer-wise learning-rate decay: the factors, AdamW with them by NumPy, a step of each backend."""

import keras
import numpy as np
import pytest
from helpers import nets
from keras import ops

import keras_smlp

pytest.importorskip("yaml", reason="the configuration is YAML")

from keras_smlp.training import optimizer  # noqa: E402 - asked for first
from keras_smlp.training.layer_decay import layer_factors, with_factors  # noqa: E402
from keras_smlp.training.parsing import parse  # noqa: E402
from keras_smlp.training.step import TrainingModel  # noqa: E402

DECAYED = ("kernel",)


def network():
    return keras_smlp.SMLPNet(8, (1, 2), input_shape=(16, 16, 3), classes=3)


def values(variables):
    return [np.copy(ops.convert_to_numpy(v)) for v in variables]


def configuration(*argv):
    return parse(["--optimizer.warmup_epochs=0", "--optimizer.base_lr=0.5", *argv])


@pytest.mark.once
def test_the_factors_are_those_of_beit():
    assert layer_factors(network(), 0.5) == {
        "stem": 0.5**4,
        "stage1_downsample": 0.5**3,  # there is none
        "stage1_block1_token_mixing": 0.5**3,
        "stage1_block1_channel_mixing": 0.5**3,
        "stage2_downsample": 0.5**2,
        "stage2_block1_token_mixing": 0.5**2,
        "stage2_block1_channel_mixing": 0.5**2,
        "stage2_block2_token_mixing": 0.5,
        "stage2_block2_channel_mixing": 0.5,
    }


@pytest.mark.once
def test_without_decay_it_is_keras_own_optimizer():
    made = optimizer.adamw(configuration(), 10, network())
    assert type(made) is type(keras.optimizers.AdamW())
    assert configuration().optimizer.layer_decay == 1


@pytest.mark.quick_once
def test_five_updates_are_those_of_adamw_by_numpy():
    config = configuration("--optimizer.layer_decay=0.6")
    net, rng = network(), np.random.default_rng(0)
    adamw = optimizer.adamw(config, 2, net)  # another learning rate after two steps
    assert isinstance(adamw, keras.optimizers.AdamW)
    variables = net.trainable_variables
    adamw.build(variables)
    plain = optimizer.adamw(config, 2)
    plain.build(variables)
    assert [x.shape for x in adamw.variables] == [x.shape for x in plain.variables]
    expected = [x.astype("float64") for x in values(variables)]
    moments = [(np.zeros(x.shape), np.zeros(x.shape)) for x in expected]
    factors = layer_factors(net, 0.6)
    for t in range(1, 6):
        rate = float(adamw.learning_rate)
        gradients = [rng.normal(size=x.shape).astype("float32") * 10.0**-t for x in expected]
        for x, g, (m, v), variable in zip(expected, gradients, moments, variables, strict=True):
            own = rate * factors.get(variable.path.split("/")[0], 1)
            m += 0.1 * (g - m)
            v += 0.001 * (g.astype("float64") ** 2 - v)
            x *= 1 - own * 0.05 * (variable.name in DECAYED)
            corrected = np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            x -= own * corrected * m / (np.sqrt(v) + 1e-8)
        adamw.apply([ops.convert_to_tensor(g) for g in gradients], variables)
    assert int(adamw.iterations) == 5
    for found, x in zip(values(variables), expected, strict=True):
        np.testing.assert_allclose(found, x, rtol=1e-4, atol=2e-6)


def model_of(net, adamw):
    model = TrainingModel(net.input, net.output)
    model.compile(adamw, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.quick_once
@pytest.mark.parametrize(
    ("dtype", "accumulation"),
    [
        ("float32", 1),
        pytest.param("float32", 2, marks=pytest.mark.deep),
        pytest.param("mixed_float16", 2, marks=pytest.mark.deep),
    ],
)
def test_a_step_of_a_training_is_a_part_of_the_plain_one(dtype, accumulation):
    """Through `fit`: under `jit`, with a scaled loss, with updates that are not made."""
    config = configuration(f"--optimizer.accumulation={accumulation}")
    changed = configuration(
        f"--optimizer.accumulation={accumulation}", "--optimizer.layer_decay=0.5"
    )
    x, y = nets.to_train_on(8)
    moved = []
    for this in (config, changed):
        keras.utils.set_random_seed(0)
        net = nets.to_train(drop_path_rate=0.0, dtype=dtype)
        before = values(net.trainable_variables)
        model = model_of(net, optimizer.adamw(this, 10, net))
        model.fit(x, y, batch_size=8 // accumulation, shuffle=False, verbose=0)
        after = values(net.trainable_variables)
        moved.append([b - a for a, b in zip(before, after, strict=True)])
    factors = layer_factors(net, 0.5)
    assert len(set(factors.values())) > 2
    for variable, plain, own in zip(net.trainable_variables, *moved, strict=True):
        assert np.abs(plain).max() > 0
        factor = factors.get(variable.path.split("/")[0], 1)
        np.testing.assert_allclose(own, factor * plain, rtol=2e-3, atol=1e-6)


@pytest.mark.quick_once
def test_it_goes_on_where_it_was(tmp_path):
    config = configuration("--optimizer.layer_decay=0.5")
    x, y = nets.to_train_on(16)
    ends = []
    for stop in (False, True):
        keras.utils.set_random_seed(0)
        net = nets.to_train(drop_path_rate=0.0)
        model = model_of(net, optimizer.adamw(config, 10, net))
        model.fit(x[:8], y[:8], batch_size=8, shuffle=False, verbose=0)
        if stop:
            model.save_weights(tmp_path / "a.weights.h5")
            keras.utils.set_random_seed(1)
            net = nets.to_train(drop_path_rate=0.0)
            model = model_of(net, optimizer.adamw(config, 10, net))
            model.load_weights(tmp_path / "a.weights.h5")
        model.fit(x[8:], y[8:], batch_size=8, shuffle=False, verbose=0)
        ends.append(values([*net.weights, *model.optimizer.variables]))
    for one, other in zip(*ends, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.once
def test_other_optimizers_get_factors_too():
    kind = with_factors(type(keras.optimizers.SGD()), {"x": 0.5})
    made = kind(0.25, momentum=0.5)
    assert isinstance(made, keras.optimizers.SGD)
    variables = [keras.Variable([1.0], name=name) for name in ("x", "y")]
    made.build(variables)
    made.apply([ops.ones((1,))] * 2, variables)
    assert [x.tolist() for x in values(variables)] == [[0.875], [0.75]]
