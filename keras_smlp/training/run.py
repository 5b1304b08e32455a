"""The state of a run beside the weights: its place, its history, its checkpoints."""

import contextlib
import dataclasses
import json
import os
import platform
import signal
from typing import Any

import keras

import keras_smlp
from keras_smlp.checks import shown
from keras_smlp.data import fingerprint
from keras_smlp.saving import remove_leftovers
from keras_smlp.training.callbacks import Interrupted
from keras_smlp.training.checkpoints import DATA, WEIGHTS, Checkpoints, differences
from keras_smlp.training.parsing import KEYS

CHECKPOINTS = "checkpoints"  # their folder in output_dir
# beginnings of the keys that nothing of the training depends on
MAY_CHANGE_ON_RESUME = (
    "output_dir",
    "data.dir",
    "data.manual_dir",
    "data.threads",
    "data.max_bad_fraction",
    "eval.",
    "distribution.",
    "train.resume",
    "train.allow_changed_data",
    "train.remat",
    "train.checkpoint_",
    "train.keep_",
    "train.logger",
)
# in the folder of a run that is not over
LOCK = ".train.lock"


@contextlib.contextmanager
def locked(folder, engine, names):
    """Context manager in which a folder is this run's alone, until its process dies at the latest.

    Args:
        folder: Path of the folder. It must exist.
        engine: The `engines.Engine`. The main process holds the lock.
        names: Names of the files that runs write there; what killed ones left of them is removed.

    Raises:
        ValueError: If another run holds the lock, or the folder cannot be written to.
    """
    import filelock

    lock = filelock.FileLock(folder / LOCK)

    def take():
        try:
            lock.acquire(timeout=0)
            remove_leftovers(folder, names)
        except filelock.Timeout as error:
            raise ValueError(
                f"output_dir: {folder} is in use by another run, allowed: a folder for each, or to "
                "wait until it ends"
            ) from error
        except OSError as error:
            raise ValueError(
                f"output_dir: {error}, allowed: a folder that can be written to"
            ) from error

    try:
        engine.on_main(take)
        yield
    finally:
        if lock.is_locked:
            # before the release: filelock tries again where it has locked a file that is gone.
            # Windows keeps the file, which is no lock without a holder
            with contextlib.suppress(OSError):
                os.unlink(folder / LOCK)
            lock.release()


class Run:
    """The state of a run: the epoch and step that it has reached, and its results so far.

    Attributes:
        epoch: Epoch that is trained, from 0.
        step: Steps of it that are done.
        means: Means of the training metrics over these steps.
        rows: The history, a dict per epoch.
        best_score: The best evaluation: `epoch`, `weights` (`val` or `ema`), `top1` or `map`,
            `loss`; `None` before the first.

    Args:
        config: The `config.Config`.
        folder: Path of the folder for checkpoints.
        engine: The `engines.Engine`.
        data: Bytes, the `fingerprint.listing` of the data; only the main process needs it. Defaults
            to `None`: changed data are not noticed.
    """

    def __init__(self, config, folder, engine, data=None):
        self.config, self.engine, self.data = config, engine, data
        self.checkpoints = Checkpoints(folder, config.train.keep_checkpoints)
        self.epoch, self.step, self.means = 0, 0, {}
        self.rows: list = []
        self.best_score: Any = None
        self.path = self.saved = None

    def resume(self, model, say):
        """Goes on from the newest whole checkpoint, if there is one.

        Args:
            model: The compiled training model.
            say: Function that prints.

        Raises:
            ValueError: If the checkpoints are of another configuration or other data, or all
                damaged, or there are some and `train.resume` is false.
        """
        folder = self.checkpoints.folder
        if os.path.lexists(folder) and not folder.is_dir():
            raise ValueError(
                f"output_dir: {folder} is no folder, allowed: one for the checkpoints, or none"
            )
        if self.engine.is_main:
            self.checkpoints.clean()
        if not self.config.train.resume:
            if self.checkpoints.paths():
                raise ValueError(
                    f"train.resume: false with checkpoints in {folder}, allowed: true, or another "
                    "output_dir"
                )
            return
        path, state, damaged = self.checkpoints.newest()
        for what in damaged:
            say(f"damaged checkpoint, not used: {what}")
        if path is None and damaged:
            raise ValueError(
                f"output_dir: no checkpoint in {folder} can be read, allowed: a whole one; remove "
                "that folder to begin anew"
            )
        if path is None:
            return
        changed = [
            f"{shown(key)}: {shown(old)} -> {shown(new)}"
            for key, old, new in differences(filled(state["config"]), self.config.to_dict())
            if not key.startswith(MAY_CHANGE_ON_RESUME)
        ]
        if changed:
            raise ValueError(
                f"output_dir: {path} was trained with another configuration ({'; '.join(changed)}),"
                " allowed: the same one, or another output_dir"
            )
        if DATA in state.get("files", ()):
            self.engine.on_main(lambda: self.check_data(path, say))
        model.load_weights(path / WEIGHTS)
        for name in ("epoch", "step", "means", "rows"):
            setattr(self, name, state[name])
        self.best_score = state["best"]
        self.path, self.saved = path, (self.epoch, self.step)
        say(f"going on from {path}")

    def check_data(self, path, say):
        """Refuses a checkpoint whose data were others, unless that is allowed."""
        if self.data is None:
            return
        changed, fits = fingerprint.changes((path / DATA).read_bytes(), self.data)
        key = "data.name" if self.config.data.dir is None else "data.dir"
        what = f"{key}: the data are no longer those of {path} ({changed})"
        if changed and not (fits and self.config.train.allow_changed_data):
            option = "--train.allow_changed_data true" if fits else "as many classes"
            raise ValueError(f"{what}, allowed: the same data, {option}, or another output_dir")
        if changed:
            say(what)

    def begin_fit(self):
        """Says that `fit` begins here, and counts its metrics anew."""
        self.before = (self.step, self.means)

    def count(self, steps, logs):
        """Says that `fit` has made so many steps, whose metrics were on average `logs`."""
        done, means = self.before
        self.step = done + steps
        self.means = {
            key: (means.get(key, 0.0) * done + value * steps) / self.step
            for key, value in logs.items()
        }

    def training_means(self):
        """The means over the epoch so far, over all processes."""
        totals = self.engine.sum(list(self.means.values()))
        return dict(zip(self.means, (totals / self.engine.processes).tolist(), strict=True))

    def checkpoint(self, model):
        """Writes a checkpoint of this place, unless there is one.

        Args:
            model: The training model.
        """
        place = (self.epoch, self.step)
        if place == self.saved:
            return
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "means": self.training_means(),
            "rows": self.rows,
            "best": self.best_score,
            "config": self.config.to_dict(),
            "versions": {
                "python": platform.python_version(),
                "keras": keras.__version__,
                "keras_smlp": keras_smlp.__version__,
                "backend": keras.backend.backend(),
            },
        }
        if self.engine.is_main:
            with self.engine.saving():
                self.path = self.checkpoints.save(model, state, self.data)
        self.saved = place

    def finish_epoch(self, row):
        """Adds an epoch's row to the history and goes to the next one."""
        self.rows.append(row)
        self.epoch, self.step, self.means = self.epoch + 1, 0, {}

    def raise_if_interrupted(self, signals):
        """Raises `Interrupted` if a process got a signal."""
        if self.engine.sum([signals.received])[0]:
            raise Interrupted(signals.received or signal.SIGTERM)


def filled(saved):
    """A configuration of a checkpoint; keys that its version did not have are at their defaults."""
    saved = json.loads(json.dumps(saved))
    for key, field in KEYS.items():
        section, _, name = key.rpartition(".")
        part = saved.setdefault(section, {}) if section else saved
        if isinstance(part, dict) and field.default is not dataclasses.MISSING:
            part.setdefault(name, json.loads(json.dumps(field.default)))
    return saved
