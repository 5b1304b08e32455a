"""The learning rate against the official values, and the optimizer that follows it."""

import keras
import numpy as np
import pytest
from helpers.processes import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_smlp

pytest.importorskip("yaml", reason="the configuration is YAML")

from keras_smlp.data.recipe import DataConfig  # noqa: E402 - asked for first
from keras_smlp.training import optimizer  # noqa: E402
from keras_smlp.training.config import (  # noqa: E402
    Config,
    DistributionConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from keras_smlp.training.parsing import parse  # noqa: E402
from keras_smlp.training.schedule import Tabulated, learning_rate  # noqa: E402

OFFICIAL = {0: 1e-6, 1: 1e-6, 2: 5.095e-5, 20: 9.5005e-4, 21: 9.892e-4, 150: 5.1018e-4}
OFFICIAL |= {299: 1.0109e-5}


@pytest.mark.parametrize("epoch", OFFICIAL)
def test_the_official_values(epoch):
    assert learning_rate(epoch, 1e-3, 300) == pytest.approx(OFFICIAL[epoch], rel=1e-4)


def test_without_lateness_and_warmup():
    rates = learning_rate([0, 5, 10], 1e-3, 10, warmup_epochs=0, min_lr=1e-5, late=False)
    np.testing.assert_allclose(rates, [1e-3, 5.05e-4, 1e-5])


def test_a_table_holds_each_value_for_its_steps():
    schedule = Tabulated([3.0, 2.0, 1.0], steps=2)
    values = [float(schedule(step)) for step in range(9)]
    assert values == [3, 3, 2, 2, 1, 1, 1, 1, 1]
    again = Tabulated.from_config(schedule.get_config())
    assert float(again(2)) == 2


def recipe(*argv):
    return parse(["--data.name=imagenet2012", "--train.epochs=300", *argv])


FULL = ("--optimizer.base_lr=5e-4", "--train.batch_size=1024", "--optimizer.warmup_epochs=20")


@pytest.mark.parametrize("schedule", ["epoch", "step"])
def test_the_optimizer_follows_the_schedule(schedule):
    config = recipe(*FULL, f"--optimizer.schedule={schedule}", "--optimizer.accumulation=2")
    assert config.peak_lr == pytest.approx(2e-3)  # an update sees twice as many images
    adamw = optimizer.adamw(config, steps=10)
    assert isinstance(adamw, keras.optimizers.AdamW) and adamw.gradient_accumulation_steps == 2
    assert (adamw.epsilon, adamw.weight_decay, adamw.beta_1, adamw.beta_2) == (
        1e-8,
        0.05,
        0.9,
        0.999,
    )
    late = schedule == "epoch"
    for step in (0, 9, 10, 19, 20, 205, 1500, 2999):
        adamw.variables[0].assign(step)
        assert int(adamw.iterations) == step // 2
        epoch = step // 10 if late else step / 10
        expected = learning_rate(epoch, 2e-3, 300, late=late)
        assert float(adamw.learning_rate) == pytest.approx(expected)


def test_without_gradient_an_update_is_the_decay_of_kernels_alone():
    """On every backend, in values: what is listed as excluded is not enough."""
    config = recipe("--optimizer.warmup_epochs=0", "--optimizer.base_lr=0.5")
    adamw = optimizer.adamw(config, steps=1)
    network = keras_smlp.SMLPNet(8, (1,), input_shape=(16, 16, 3), classes=3)
    values = [keras.ops.convert_to_numpy(v) for v in network.trainable_variables]
    variables = [
        keras.Variable(x, name=v.name)
        for x, v in zip(values, network.trainable_variables, strict=True)
    ]
    adamw.build(variables)
    adamw.apply([keras.ops.zeros(v.shape) for v in variables], variables)
    for old, new in zip(values, variables, strict=True):
        decayed = 1 if new.name in ("bias", "gamma", "beta") else 1 - 0.05 * config.peak_lr
        np.testing.assert_allclose(keras.ops.convert_to_numpy(new), decayed * old, rtol=1e-6)


@pytest.mark.once
@given(
    base=st.floats(1e-6, 1e-2),
    floor=st.floats(1e-7, 1e-3),
    start=st.floats(1e-7, 1e-3),
    batch=st.integers(1, 2000),
    warmup=st.sampled_from([0, 3]),
)
@settings(max_examples=50, derandomize=True, deadline=None)
def test_a_peak_below_an_end_of_the_schedule_is_said(base, floor, start, batch, warmup):
    options = {"base_lr": base, "min_lr": floor, "warmup_lr": start, "warmup_epochs": warmup}
    config = Config(
        data=DataConfig("digits", mixup=0, cutmix=0, repeats=1),
        model=ModelConfig(dim=8, depths=(1,)),
        optimizer=OptimizerConfig(**options),
        train=TrainConfig(batch_size=batch),
        eval=EvalConfig(),
        distribution=DistributionConfig(),
    )
    rates = optimizer.learning_rates(config, np.arange(300))
    peak = base * batch / 512
    doubt = optimizer.doubt(config)
    assert (doubt is None) == (peak >= floor and (not warmup or peak >= start))
    if doubt is None:
        assert rates.max() <= max(peak, start if warmup else 0) * (1 + 1e-9)
    else:
        assert (
            f"is a peak of {peak:.3g} for the {batch} of an update, less than optimizer." in doubt
        )
        wrong = "falls in the warmup" if warmup and start > floor else "rises after the warmup"
        assert wrong in doubt


@pytest.mark.once
@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda x: x.stem)
def test_no_configuration_of_ours_rises_where_it_should_fall(file):
    weights = ["--model.weights=null"] if file.stem == "finetune" else []
    config = parse([f"--config={file}", *weights])
    assert optimizer.doubt(config) is None
    if file.stem == "finetune":
        assert config.peak_lr == pytest.approx(5e-4)
