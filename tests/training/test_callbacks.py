"""What happens between two steps and after an epoch: checkpoints, signals, the best model."""

import contextlib
import signal
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import training  # noqa: F401 - skips this file where a package is missing
from helpers.nets import linear

from keras_smlp.training import callbacks
from keras_smlp.training.callbacks import Interrupted, Signals, StepMonitor
from keras_smlp.training.evaluation import Score
from keras_smlp.training.parsing import parse
from keras_smlp.training.report import Results

pytestmark = pytest.mark.quick_once


def stub(*argv, epoch=0, step=0):
    """A run without checkpoints, alone; the steps of those that it would write are in `places`."""
    engine = SimpleNamespace(is_main=True, processes=1, sum=lambda x: x)
    engine.saving = contextlib.nullcontext
    run = SimpleNamespace(engine=engine, config=parse([*argv] or ["--train.checkpoint_steps=2"]))
    run.epoch, run.step, run.best_score, run.path = epoch, step, None, "the one before"
    run.begin_fit, run.count = lambda: None, lambda step, logs: None
    run.saved, run.places = None, []

    def checkpoint(model):
        run.saved = run.epoch, run.step
        run.places.append(run.step)

    run.checkpoint = checkpoint
    return run


def test_the_best_is_the_most_accurate_then_the_one_of_lower_loss(tmp_path):
    model, run = linear(), stub()
    results = Results(tmp_path, model, ("0",), run)
    scores = [(50.0, 1.0), (70.0, 0.9), (70.0, 0.8), (70.0, 0.85), (60.0, 0.1)]
    for epoch, (top1, loss) in enumerate(scores, start=1):
        model.set_weights([np.full((1, 1), float(epoch))])
        results.record("val", Score(10, top1, 90.0, loss, top1), {"epoch": epoch})
    assert run.best_score == {"epoch": 3, "weights": "val", "top1": 70.0, "loss": 0.8}
    for name, epoch in (("best", 3.0), ("last", 5.0)):
        saved = keras.models.load_model(tmp_path / f"{name}.keras")
        assert saved.get_weights()[0].item() == epoch


def steps_of(run, signals=None, check=lambda: None):
    callback = StepMonitor(run, signals or Signals(), 0.5, check)
    callback.set_model(linear())
    callback.on_train_begin()
    return callback


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_where(loss):
    callback = steps_of(stub(epoch=2, step=7))
    callback.on_train_batch_end(0, {"loss": 1.0})
    message = f"loss {loss} in epoch 3, step 7, learning rate 5.000e-01; .* is the one before"
    with pytest.raises(FloatingPointError, match=message):
        callback.on_train_batch_end(1, {"loss": loss})


def test_checkpoints_come_when_they_are_due():
    run = stub()
    callback = steps_of(run)
    for run.step in range(1, 6):
        callback.on_train_batch_end(0, {"loss": 1.0})
    assert run.places == [2, 4]


@pytest.mark.parametrize(
    ("every", "places"), [(10, [10, 20, 30, 40]), (15, [20, 30]), (7, [10, 20, 30, 40])]
)
def test_several_processes_save_at_the_next_tenth_step(every, places):
    run = stub(f"--train.checkpoint_steps={every}", epoch=1)
    run.engine.processes, run.saved = 2, (0, 40)
    callback = steps_of(run)
    for run.step in range(1, 45):
        callback.on_train_batch_end(0, {"loss": 1.0})
    assert run.places == places


def test_checkpoints_come_after_so_many_minutes(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    run = stub("--train.checkpoint_minutes=2")
    callback = steps_of(run)
    saved = []
    for now[0] in (1000.0, 1119.9, 1120.0, 1239.9, 1240.0):  # two minutes are counted from the last
        callback.on_train_batch_end(0, {"loss": 1.0})
        saved.append(len(run.places))
    assert saved == [0, 0, 1, 1, 2]


def test_several_processes_agree_every_tenth_step():
    run = stub()
    run.engine.processes, asked = 2, []
    run.engine.sum = lambda x: asked.append(run.step) or [0, 1]  # another one has a signal
    callback = steps_of(run)
    for run.step in range(1, 10):
        callback.on_train_batch_end(0, {"loss": 1.0})
    run.step = 10
    with pytest.raises(Interrupted, match="SIGTERM"):
        callback.on_train_batch_end(0, {"loss": 1.0})
    assert asked == [10] and run.places == [10]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step(number):
    before = signal.getsignal(number)
    run = stub(step=1)
    with Signals() as signals:
        callback = steps_of(run, signals)
        callback.on_train_batch_end(0, {"loss": 1.0})
        signal.raise_signal(number)
        with pytest.raises(Interrupted) as stop:
            callback.on_train_batch_end(1, {"loss": 1.0})
        with pytest.raises(Interrupted):
            signals.guard(print)("never")
        assert signal.getsignal(signal.SIGINT) is signals.previous[signal.SIGINT]
    assert stop.value.number == number and run.places == [1]
    assert signal.getsignal(number) is before
