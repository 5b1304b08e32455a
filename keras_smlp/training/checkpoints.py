"""Checkpoints: folders, each written atomically, of all that a run needs to go on."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from pathlib import Path

from keras_smlp.checks import shown
from keras_smlp.weights.download import sha256

WEIGHTS, STATE, DATA = "training.weights.h5", "state.json", "data.json.gz"
# `epoch-step`; the ending only where something else has that name
NAME = re.compile(r"(\d{5}|[1-9]\d{5,})-(\d{7}|[1-9]\d{7,})(-[0-9a-f]{8})?", re.ASCII)
TEMPORARY = re.compile(r"\.[0-9a-f]{8}")
# a file of ours, or one that `saving.replacing` had not finished
FILE = re.compile(rf"({TEMPORARY.pattern}\.)?({'|'.join(map(re.escape, (WEIGHTS, STATE, DATA)))})")
# what file managers leave in every folder that they show
LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini", re.DOTALL)


class Checkpoints:
    """The checkpoints of a run.

    Each is a folder `epoch-step` that was written under another name and renamed: Keras' own
    weights file of the training model (weights, averages, optimizer, random states; any backend
    reads it), the listing of the data, and a JSON file with the rest, the SHA-256 of the files and
    that of itself. Whatever else is in the folder of the checkpoints is left alone.

    Args:
        folder: Path of the folder that holds them; made with the first one.
        keep: Positive integer. How many of the newest stay.
    """

    def __init__(self, folder, keep):
        self.folder = Path(folder)
        self.keep = keep

    def paths(self):
        """The checkpoints' folders, whole or damaged, newest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(filter(is_checkpoint, found), key=lambda x: (place(x), x.name), reverse=True)

    def save(self, model, state, data=None):
        """Writes one checkpoint and removes those before it that are too many.

        Args:
            model: The compiled training model.
            state: Dict for JSON; `epoch` and `step` name the checkpoint.
            data: Bytes, the `fingerprint.listing` of the data. Defaults to `None`: none.

        Returns:
            The path of its folder.

        Raises:
            OSError: If it cannot be written; those before it stay as they are.
        """
        path = self.folder / f"{state['epoch']:05}-{state['step']:07}"
        temporary = self.temporary()
        try:
            temporary.mkdir(parents=True)
            model.save_weights(temporary / WEIGHTS)
            if data is not None:
                write(temporary / DATA, data)
            # as it will be read
            state = json.loads(json.dumps({**state, "files": hashes(temporary)}))
            state["sha256"] = digest(state)
            write(temporary / STATE, json.dumps(state, indent=1).encode())
            if is_ours(path):  # a damaged one of the same place
                self.remove(path)
            elif os.path.lexists(path):
                path = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
            os.rename(temporary, path)
        except Exception as error:
            raise OSError(
                errno.EIO, f"checkpoint {path} could not be written ({reason(error, self.folder)})"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        # later ones are damaged: they take nobody's place
        before = [x for x in self.paths() if place(x) < place(path) and is_ours(x)]
        for old in before[self.keep - 1 :]:
            self.remove(old)
        return path

    def temporary(self):
        """The path of a folder that is not whole; `clean` knows such by their names."""
        return self.folder / f".{secrets.token_hex(4)}"

    def remove(self, path):
        """Removes a checkpoint; a process killed in the middle leaves no half of one."""
        temporary = self.temporary()
        os.rename(path, temporary)
        shutil.rmtree(temporary)

    def clean(self):
        """Removes what a killed process left half-written or half-removed."""
        for path in list(self.folder.glob(".*")):
            if TEMPORARY.fullmatch(path.name) and holds_files_alone(path):
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
                return path, read(path), damaged
            except (OSError, ValueError, RecursionError) as error:
                damaged.append(f"{path} ({shown(error)})")
        return None, None, damaged


# ---- what is ours -------------------------------------------------------------------------------
def place(path):
    """The epoch and step that a checkpoint's name says."""
    epoch, step = path.name.split("-")[:2]
    return int(epoch), int(step)


def is_checkpoint(path):
    """Whether it is a checkpoint or what is left of one, perhaps by a link; not a foreign entry."""
    named = NAME.fullmatch(path.name) is not None
    return named and any(os.path.isfile(path / name) for name in (WEIGHTS, STATE))


def is_ours(path):
    """Whether it is a checkpoint that may be removed: no link, and nothing else in it."""
    return is_checkpoint(path) and holds_files_alone(path)


def holds_files_alone(path):
    """Whether it is a folder, not a link to one, with nothing but a checkpoint's files in it."""
    if os.path.islink(path):
        return False
    try:
        with os.scandir(path) as entries:
            return all(
                (FILE.fullmatch(x.name) or LITTER.fullmatch(x.name))
                and x.is_file(follow_symlinks=False)
                for x in entries
            )
    except OSError:  # no folder, or another user's
        return False


# ---- the state ----------------------------------------------------------------------------------
def is_count(value):
    return type(value) is int and value >= 0


def is_row(value):
    return isinstance(value, dict) and all(type(x) in (int, float) for x in value.values())


def is_best(value):
    if value is None or not isinstance(value, dict):
        return value is None
    return {"epoch", "weights", "loss"} <= set(value) and not {"top1", "map"}.isdisjoint(value)


VALID = {
    "epoch": is_count,
    "step": is_count,
    "means": is_row,
    "rows": lambda value: isinstance(value, list) and all(map(is_row, value)),
    "best": is_best,
    "config": lambda value: isinstance(value, dict),
    "sha256": lambda value: isinstance(value, str),
}


def read(path):
    """The state of a checkpoint that is whole.

    Args:
        path: Path of its folder.

    Returns:
        Dict.

    Raises:
        OSError, ValueError, RecursionError: If it is not as it was written.
    """
    state = json.loads(file_in(path, STATE).read_bytes())
    if not isinstance(state, dict):
        raise ValueError(f"{STATE} holds no mapping")
    wrong = [key for key, holds in VALID.items() if not (key in state and holds(state[key]))]
    if wrong:
        raise ValueError(f"{STATE} has no valid {', '.join(wrong)}")
    if (state["epoch"], state["step"]) != place(path):
        raise ValueError(f"{STATE} is that of epoch {state['epoch']}, step {state['step']}")
    # the first states had no hash of their own, and that of the weights in its place
    expected = {WEIGHTS: state["sha256"]}
    if "files" in state:
        if state["sha256"] != digest(state):
            raise ValueError(f"{STATE} is not what was written")
        expected = state["files"]
    for name, value in expected.items():
        if sha256(file_in(path, name)) != value:
            raise ValueError(f"{name} is not what was written")
    return state


def file_in(folder, name):
    """The path of a regular file; to read another, such as a pipe, might never end."""
    if not os.path.isfile(folder / name):
        raise ValueError(f"it has no file {name}")
    return folder / name


def digest(state):
    """The SHA-256 of a state without its own."""
    rest = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def hashes(folder):
    """The SHA-256 of each file in a folder, by name."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def write(path, content):
    """Writes bytes to a new file and waits until they are on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
