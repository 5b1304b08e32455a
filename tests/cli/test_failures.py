"""How a command ends at Ctrl-C and SIGTERM."""

import gc
import signal
import time
import weakref

import pytest

from keras_smlp_cli import failures

pytestmark = pytest.mark.once
USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@pytest.fixture(autouse=True)
def usual():
    """The handlers of a command in the foreground: in the background a shell ignores SIGINT."""
    before = {number: signal.signal(number, handler) for number, handler in USUAL.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "interrupted by SIGTERM")],
)
@pytest.mark.parametrize(
    "where", ["the command", "the garbage collector", "a finalizer", "a weak reference"]
)
def test_a_signal_ends_a_command_in_order(capsys, number, status, words, where):
    ended = []

    def in_collection(phase, info):
        if phase == "start":
            gc.callbacks.remove(in_collection)
            signal.raise_signal(number)

    class Finalized:
        def __del__(self):
            signal.raise_signal(number)

    def command():
        try:
            if where == "the garbage collector":
                gc.callbacks.append(in_collection)
                gc.collect()
            elif where == "a finalizer":
                Finalized()
            elif where == "a weak reference":
                things = {"a thing"}, lambda _: signal.raise_signal(number)
                _ = weakref.ref(*things)
                del things
            else:
                signal.raise_signal(number)
            time.sleep(30)  # as a command waits for another process
        finally:
            if number == signal.SIGTERM:  # some programs send it to a process and to its group
                signal.raise_signal(number)
            ended.append(True)  # as a temporary folder is removed

    begin = time.monotonic()
    assert failures.run("x", command) == status and ended == [True]
    assert time.monotonic() - begin < 10
    assert capsys.readouterr().err == f"x: error: {words}; what was saved is whole\n"
    assert signal.getsignal(number) == USUAL[number]


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by nohup, for example
    assert failures.run("x", lambda: signal.raise_signal(signal.SIGTERM)) == 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
