"""A short training by train.py, in this process or in one of its own.

Test files that import this are skipped where a package of train.py is missing.
"""

import contextlib
import gc
import importlib.util
import io
import multiprocessing
import os

import keras
import pytest

from . import processes

# what train.py imports beside Keras when it needs it
IMPORTED = ("tensorflow", "yaml", "matplotlib", "sklearn", "tensorboardX", "tqdm")
for package in IMPORTED:
    if importlib.util.find_spec(package) is None:  # importing them all would take seconds
        pytest.skip(f"train.py needs {package}", allow_module_level=True)

from keras_smlp_cli import train  # noqa: E402 - asked for first

TRAIN = processes.ROOT / "train.py"
SMALL = [
    "--model.dim=8",
    "--model.depths=[1,1]",
    "--model.input_size=16",
    "--model.patch_size=2",
    "--data.resize_size=16",
    "--train.batch_size=80",
    "--train.epochs=2",
]


class Run:
    """A small run in this process: its folder, what it printed, the network that it trained."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        self.argv = [f"--output_dir={folder}", *SMALL, *arguments]
        out, err = io.StringIO(), io.StringIO()
        fit = keras.Model.fit

        def noting(network, *args, **kwargs):
            self.network = network
            return fit(network, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keras.Model, "fit", noting)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                assert train.main(self.argv, "train.py") == 0, err.getvalue()
        self.out, self.err = out.getvalue(), err.getvalue()


def refused(capsys, *arguments, code=2, began=False):
    """The one line with which train.py ends where it refuses these arguments.

    Nothing else is printed, unless the training had begun.
    """
    with pytest.MonkeyPatch.context() as patch:
        # it would look through all that the tests have loaded: half a second each time
        patch.setattr(gc, "collect", lambda: 0)
        status = train.main(list(arguments), "train.py")
    out, err = capsys.readouterr()
    assert (status, bool(out), err.count("\n")) == (code, began, 1)
    assert err.endswith("\n")
    return err


def begin(folder, *arguments):
    """Starts a small run in a process of its own, to be killed."""
    return processes.begin(TRAIN, f"--output_dir={folder}", *SMALL, *arguments)


def begin_preloaded(folder, *arguments, **variables):
    """The same without output, forked from a process that has imported what takes longest.

    These imports are more than half of the time of a short run.
    """
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["keras", *IMPORTED])
    process = forkserver.Process(target=silent, args=(folder, *arguments), kwargs=variables)
    process.start()
    return process


def silent(*arguments, **variables):
    os.environ.update(variables)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    Run(*arguments)
