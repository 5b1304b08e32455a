"""The time that a run still takes, by a clock that is set by hand."""

import io
import re
from types import SimpleNamespace

import pytest
from helpers import training  # noqa: F401 - skips this file where a package is missing

from keras_smlp.training import callbacks
from keras_smlp.training.pace import Pace, in_words

pytestmark = pytest.mark.once


class Clock:
    """A clock that goes on when it is told to."""

    time = 100.0

    def __call__(self):
        return self.time

    def wait(self, seconds):
        self.time += seconds


@pytest.fixture
def clock():
    return Clock()


def epoch(run, clock, steps, pause):
    """An epoch whose steps take these seconds; then an evaluation of three batches and more."""
    run.begin()
    for seconds in steps:
        clock.wait(seconds)
        run.step()
    batch = run.timed(clock.wait)
    for seconds in pause[:3]:
        batch(seconds)
    clock.wait(pause[3])
    run.end_pause()


def test_the_first_step_does_not_count(clock):
    run = Pace(10, 3, clock)
    assert run.left(0, 0) is None
    run.begin()
    clock.wait(60.0)  # it compiles
    run.step()
    assert run.first_step == 60.0 and run.step_time is None and run.left(0, 1) is None
    for seconds in (2.0, 4.0):
        clock.wait(seconds)
        run.step()
    assert run.step_time == 3.0
    assert run.left(0, 3) == 3.0 * (30 - 3)  # no pause is known yet


def test_of_the_first_pause_the_evaluation_counts_without_its_first_batch(clock):
    run = Pace(4, 3, clock)
    epoch(run, clock, (60, 2, 2, 2), (30, 1, 1, 100))
    assert run.pause == 3 * 1
    assert run.left(1, 0) == 2 * (4 * 2 + 3)
    epoch(run, clock, (2, 2, 2, 2), (1, 1, 1, 5))
    assert run.pause == 8 and run.left(2, 0) == 4 * 2 + 8
    run.begin()
    clock.wait(2)
    run.step()
    assert run.left(2, 1) == 3 * 2 + 8
    assert run.left(3, 0) == 0


def test_two_evaluations_are_two_times_their_batches(clock):
    run = Pace(1, 2, clock)
    run.begin()
    for batches in ((30, 1, 3), (1, 2)):
        batch = run.timed(clock.wait)
        for seconds in batches:
            batch(seconds)
        clock.wait(50)
    run.end_pause()
    assert run.pause == 5 * (1 + 3 + 2) / 3


def test_a_step_takes_what_it_took_in_this_epoch_and_the_one_before(clock):
    run = Pace(2, 9, clock)
    for seconds in (10, 2, 4):
        epoch(run, clock, (seconds, seconds), (1, 1, 1, 1))
    assert run.step_time == (2 + 4) / 2
    run.begin()
    assert run.step_time == 4
    clock.wait(1)
    run.step()
    assert run.step_time == (4 + 4 + 1) / 3


def test_a_run_that_goes_on_counts_what_is_left(clock):
    run = Pace(10, 5, clock)
    run.begin()
    for _ in range(3):  # steps 7 to 9 of epoch 4
        clock.wait(2)
        run.step()
    assert run.left(3, 9) == 2 * (1 + 10)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7530, "2 h 5 min"),
        (86399.9, "1 d"),
        (3 * 86400 + 4 * 3600 + 59, "3 d 4 h"),
    ],
)
def test_times_in_words(seconds, text):
    assert in_words(seconds) == text


# ---- what is shown ------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, capsys, clock, stream, steps=400, compiles=True):
    """What is printed of a run of two epochs, whose steps take 3 s, the first one 60 s."""
    monkeypatch.setattr(callbacks.sys, "stderr", stream)
    run = SimpleNamespace(epoch=0, step=0)
    progress = callbacks.Progress([0.5, 0.25], Pace(steps, 2, clock), 30, run, compiles)
    for run.epoch in range(2):
        progress.on_train_begin()
        for run.step in range(1, steps + 1):
            clock.wait(60 if (run.epoch, run.step) == (0, 1) else 3)
            progress.on_train_batch_end(run.step - 1, {"loss": 2.0, "accuracy": 0.5})
        row = {"epoch": run.epoch + 1, "loss": 2.0, "learning_rate": progress.rates[run.epoch]}
        run.epoch, run.step = run.epoch + 1, 0
        progress.report(row)
    progress.close()
    return capsys.readouterr().out


def test_in_a_log_file_a_line_comes_now_and_then(monkeypatch, capsys, clock):
    log = io.StringIO()
    out = shown(monkeypatch, capsys, clock, log)
    assert log.getvalue() == "" and "\r" not in out
    lines = out.splitlines()
    now = "loss 2.0000, accuracy 0.5000, lr 5.00e-01, 10 images/s"
    assert lines[:3] == [
        "compiled: the first step took 1 min",
        f"epoch 1/2, step 6/400: {now}, 39 min 42 s left",  # 15 s later
        f"epoch 1/2, step 16/400: {now}, 39 min 12 s left",  # 30 s later
    ]
    steps = [line.partition(":")[0] for line in lines]
    assert steps[3:8] == [f"epoch 1/2, step {x}/400" for x in (36, 76, 156, 316)] + ["epoch 1/2"]
    assert lines[7] == "epoch 1/2: loss 2.0000, lr 5.00e-01, 10 images/s, 20 min left"
    assert steps[8:] == ["epoch 2/2, step 200/400", "epoch 2/2, step 400/400", "epoch 2/2"]
    assert lines[-1] == "epoch 2/2: loss 2.0000, lr 2.50e-01, 10 images/s"


def test_on_a_terminal_a_line_is_rewritten(monkeypatch, capsys, clock):
    terminal = Terminal()
    out = shown(monkeypatch, capsys, clock, terminal, steps=2)
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "compiled",
        "epoch 1/2",
        "epoch 2/2",
    ]
    bars = [text for text in terminal.getvalue().split("\r") if text.strip()]
    last = r"loss 2.0000, accuracy 0.5000, lr 2.50e-01, 10 images/s, 0 s left"
    assert re.fullmatch(rf"100%\|.+\| epoch 2/2: {last}", bars[-1]) and len(bars) > 2
    assert "\n" not in terminal.getvalue()


def test_what_does_not_compile_says_nothing_of_it(monkeypatch, capsys, clock):
    out = shown(monkeypatch, capsys, clock, io.StringIO(), steps=2, compiles=False)
    assert "compiled" not in out
