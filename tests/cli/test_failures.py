"""How a command ends at Ctrl-C and SIGTERM."""

import gc
import signal
import time

import pytest

from keras_smlp_cli import failures

pytestmark = pytest.mark.once


def wait():
    for _ in range(500):
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "interrupted by SIGTERM")],
)
@pytest.mark.parametrize("where", ["the command", "the garbage collector", "a finalizer"])
def test_a_signal_ends_a_command_in_order(capsys, number, status, words, where):
    ended = []

    def in_collection(phase, info):
        if phase == "start":
            signal.raise_signal(number)

    class Finalized:
        def __del__(self):
            signal.raise_signal(number)

    def command():
        try:
            if where == "the garbage collector":
                gc.callbacks.append(in_collection)
                gc.collect()
                gc.callbacks.remove(in_collection)
            elif where == "a finalizer":
                Finalized()
            else:
                signal.raise_signal(number)
            wait()
        finally:
            ended.append(True)  # as a temporary folder is removed

    before = signal.getsignal(number)
    assert failures.run("x", command) == status and ended == [True]
    assert capsys.readouterr().err == f"x: error: {words}; what was saved is whole\n"
    assert signal.getsignal(number) == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by nohup, for example
    try:
        assert failures.run("x", lambda: signal.raise_signal(signal.SIGTERM)) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
