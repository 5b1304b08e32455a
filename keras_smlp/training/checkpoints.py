"""Checkpoints: folders, each written atomically, of all that a run needs to go on."""

import errno
import json
import os
import secrets
import shutil
from pathlib import Path

from keras_smlp.weights.download import sha256

WEIGHTS, STATE = "training.weights.h5", "state.json"


class Checkpoints:
    """The checkpoints of a run.

    Each is a folder `epoch-step` that was written under another name and renamed: Keras' own
    weights file of the training model (weights, averages, optimizer, random states; any backend
    reads it) and a JSON file with the rest and the SHA-256 of the first.

    Args:
        folder: Path of the folder that holds them; made with the first one.
        keep: Positive integer. How many of the newest stay.
    """

    def __init__(self, folder, keep):
        self.folder = Path(folder)
        self.keep = keep

    def paths(self):
        """The checkpoints' folders, newest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        return sorted(found, reverse=True)

    def save(self, model, state):
        """Writes one checkpoint and removes those that are too many.

        Args:
            model: The compiled training model.
            state: Dict for JSON; `epoch` and `step` name the checkpoint.

        Returns:
            The path of its folder.

        Raises:
            OSError: If it cannot be written; those before it stay as they are.
        """
        path = self.folder / f"{state['epoch']:05}-{state['step']:07}"
        temporary = self.folder / f".{secrets.token_hex(4)}"
        try:
            temporary.mkdir(parents=True)
            model.save_weights(temporary / WEIGHTS)
            state = {**state, "sha256": sha256(temporary / WEIGHTS)}
            with open(temporary / STATE, "w") as file:
                json.dump(state, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():  # a damaged one of the same place, or the same once more
                shutil.rmtree(path)
            os.rename(temporary, path)
        except Exception as error:
            raise OSError(
                errno.EIO, f"checkpoint {path} could not be written ({reason(error, self.folder)})"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in self.paths()[self.keep :]:
            shutil.rmtree(old)
        return path

    def clean(self):
        """Removes what a killed process left half-written."""
        if self.folder.is_dir():
            for path in self.folder.glob(".*"):
                shutil.rmtree(path)

    def newest(self):
        """The newest checkpoint that is whole.

        Returns:
            `(path, state, damaged)`: its folder, its state and what was wrong with newer ones, a
            list of strings; `(None, None, damaged)` if there is none.
        """
        damaged: list[str] = []
        for path in self.paths():
            try:
                state = json.loads((path / STATE).read_text())
                if sha256(path / WEIGHTS) == state["sha256"]:
                    return path, state, damaged
                damaged.append(f"{path} (its weights are not those that were written)")
            except (OSError, ValueError, KeyError, TypeError) as error:
                damaged.append(f"{path} ({error})")
        return None, None, damaged


def reason(error, folder):
    """Why a file could not be written; HDF5 does not say that the disk is full."""
    free = shutil.disk_usage(folder).free if folder.is_dir() else None
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left on the disk"
    space = "" if free is None else f"; {free / 2**20:.0f} MiB are free there"
    return f"{error}{space}"


def differences(saved, current, prefix=""):
    """The keys in which two configurations differ, as `key: old -> new`."""
    found = []
    for key in sorted({*saved, *current}):
        name, old, new = prefix + key, saved.get(key), current.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{name}.")
        elif old != new:
            found.append((name, old, new))
    return found
