"""A short training by train.py, in this process or in one of its own."""

import contextlib
import io

import keras
import pytest

from . import processes

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
            patch.syspath_prepend(processes.ROOT)
            patch.setattr(keras.Model, "fit", noting)
            import train

            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                train.main(self.argv)
        self.out, self.err = out.getvalue(), err.getvalue()


def begin(folder, *arguments):
    """Starts a small run in a process of its own, to be killed."""
    return processes.begin(TRAIN, f"--output_dir={folder}", *SMALL, *arguments)
