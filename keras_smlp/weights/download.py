"""`weights="imagenet"`: the official file, downloaded once, checked and cached as it is.

The cache is Keras' own: `$KERAS_HOME/models/keras_smlp/` (default `~/.keras/...`) holds the
official file under its own name, and beside it a record with its SHA-256. A file that was placed
there by hand is taken like a downloaded one. Both are written under other names and renamed when
they are complete, under a lock: whatever happens in between, and however many processes try, there
is one good file or none.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import keras

from keras_smlp.saving import replacing
from keras_smlp.variants import RELEASE
from keras_smlp.weights import identify

URL_VARIABLE = "KERAS_SMLP_WEIGHTS_URL"


def fetch(variant):
    """The path of a variant's official checkpoint, downloaded if it is not cached.

    Args:
        variant: A `keras_smlp.variants.Variant` with a checkpoint.

    Returns:
        A `pathlib.Path` ending in `.pth`.

    Raises:
        ValueError: If the file is not the variant's checkpoint, or a cached one has changed.
        RuntimeError: If it can be neither found nor downloaded.
    """
    import filelock

    path = cache_folder() / variant.checkpoint
    record = path.with_suffix(".json")
    if not (path.exists() and record.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                download(variant, path, record)
            elif not record.exists():  # placed by hand
                accept(variant, path, path, record)
    try:
        unchanged = json.loads(record.read_text())["sha256"] == sha256(path)
    except (KeyError, TypeError, ValueError):
        unchanged = False
    if not unchanged:
        raise ValueError(
            f"The cached weights {path} are not those that were accepted at first (SHA-256); "
            f"remove them and {record} to fetch them again."
        )
    return path


def cache_folder():
    """Where Keras keeps downloaded models: `$KERAS_HOME` or `~/.keras`."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home).expanduser() / "models" / "keras_smlp"


def download(variant, path, record):
    """Downloads the official file beside its place, and moves it there once it is accepted."""
    base = os.environ.get(URL_VARIABLE) or RELEASE
    address = f"{base.rstrip('/')}/{variant.checkpoint}"
    prefix = f".{path.stem}-"
    for abandoned in path.parent.glob(f"{prefix}*"):  # by a process that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as scratch:
        try:
            file = keras.utils.get_file(
                fname=variant.checkpoint, origin=address, cache_dir=scratch, cache_subdir="download"
            )
        except Exception as error:  # what get_file raises for a failed download
            raise RuntimeError(
                f"The official weights could not be downloaded from {address} ({error}); to do "
                f"without a network, place the file at {path}, or set {URL_VARIABLE} to a mirror."
            ) from error
        accept(variant, file, address, record)
        os.replace(file, path)


def accept(variant, path, origin, record):
    """Records the SHA-256 of a file that is the variant's checkpoint; refuses another file."""
    try:
        file = identify.read(path)
        architecture = identify.architecture_of(file)
        parameters = sum(x.size for name, x in file.tensors.items() if "running_" not in name)
        if (architecture, parameters) != (identify.published(variant), variant.parameters):
            raise ValueError(f"it has {parameters} parameters, of {architecture}")
    except ValueError as error:
        raise ValueError(
            f"{origin} is not the official sMLPNet-{variant.name} checkpoint: {error}"
        ) from error
    text = {"origin": str(origin), "sha256": sha256(path), "license": variant.license}
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(text, indent=2) + "\n")


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
