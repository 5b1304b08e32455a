"""What happens between two steps and after an epoch: checkpoints, signals, the best model."""

import contextlib
import signal
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import training  # noqa: F401 - skips this file where a package is missing

from keras_smlp.saving import PortableModel
from keras_smlp.training import callbacks
from keras_smlp.training.callbacks import Interrupted, Signals, Steps
from keras_smlp.training.evaluation import Score
from keras_smlp.training.parsing import parse
from keras_smlp.training.report import Results

pytestmark = pytest.mark.quick_once


def linear():
    inputs = keras.Input((1,))
    return PortableModel(inputs, keras.layers.Dense(1, use_bias=False)(inputs))


def stub(tmp_path, **values):
    """A run without checkpoints, alone."""
    engine = SimpleNamespace(is_main=True, processes=1, sum=lambda x: x)
    engine.saving = contextlib.nullcontext
    config = parse(["--train.checkpoint_steps=2"])
    saved = []
    return SimpleNamespace(
        **{
            "engine": engine,
            "config": config,
            "best_score": None,
            "epoch": 0,
            "step": 0,
            "path": "the one before",
            "begin_fit": lambda: None,
            "count": lambda step, logs: None,
            "checkpoint": saved.append,
            "saved": saved,
            **values,
        }
    )


def test_the_best_is_the_most_accurate_then_the_one_of_lower_loss(tmp_path):
    model, run = linear(), stub(tmp_path)
    results = Results(tmp_path, model, ("0",), run)
    scores = [(50.0, 1.0), (70.0, 0.9), (70.0, 0.8), (70.0, 0.85), (60.0, 0.1)]
    for epoch, (top1, loss) in enumerate(scores, start=1):
        model.set_weights([np.full((1, 1), float(epoch))])
        results.judge("val", Score(10, top1, 90.0, loss), {"epoch": epoch})
    assert run.best_score == {"epoch": 3, "weights": "val", "top1": 70.0, "loss": 0.8}
    for name, epoch in (("best", 3.0), ("last", 5.0)):
        saved = keras.models.load_model(tmp_path / f"{name}.keras")
        assert saved.get_weights()[0].item() == epoch


def steps_of(run, signals=None, check=lambda: None):
    callback = Steps(run, signals or Signals(), 0.5, check)
    callback.set_model(linear())
    callback.on_train_begin()
    return callback


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_where(tmp_path, loss):
    callback = steps_of(stub(tmp_path, epoch=2, step=7))
    callback.on_train_batch_end(0, {"loss": 1.0})
    message = f"loss {loss} in epoch 3, step 7, learning rate 5.000e-01; .* is the one before"
    with pytest.raises(FloatingPointError, match=message):
        callback.on_train_batch_end(1, {"loss": loss})


def test_checkpoints_come_when_they_are_due(tmp_path):
    run = stub(tmp_path)
    callback = steps_of(run)
    for run.step in range(1, 6):
        callback.on_train_batch_end(0, {"loss": 1.0})
        assert len(run.saved) == run.step // 2


def test_checkpoints_come_after_so_many_minutes(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    run = stub(tmp_path, config=parse(["--train.checkpoint_minutes=2"]))
    callback = steps_of(run)
    saved = []
    for now[0] in (1000.0, 1119.9, 1120.0, 1239.9, 1240.0):  # two minutes are counted from the last
        callback.on_train_batch_end(0, {"loss": 1.0})
        saved.append(len(run.saved))
    assert saved == [0, 0, 1, 1, 2]


def test_several_processes_agree_every_tenth_step(tmp_path):
    run = stub(tmp_path)
    run.engine.processes, asked = 2, []
    run.engine.sum = lambda x: asked.append(run.step) or [0, 1]  # another one has a signal
    callback = steps_of(run)
    for run.step in range(1, 10):
        callback.on_train_batch_end(0, {"loss": 1.0})
    run.step = 10
    with pytest.raises(Interrupted, match="SIGTERM"):
        callback.on_train_batch_end(0, {"loss": 1.0})
    assert asked == [10] and len(run.saved) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step(tmp_path, number):
    before = signal.getsignal(number)
    run = stub(tmp_path, step=1)
    with Signals() as signals:
        callback = steps_of(run, signals)
        callback.on_train_batch_end(0, {"loss": 1.0})
        signal.raise_signal(number)
        with pytest.raises(Interrupted) as stop:
            callback.on_train_batch_end(1, {"loss": 1.0})
        with pytest.raises(Interrupted):
            signals.between(print)("never")
        assert signal.getsignal(signal.SIGINT) is signals.previous[signal.SIGINT]
    assert stop.value.number == number and len(run.saved) == 1
    assert signal.getsignal(number) is before
