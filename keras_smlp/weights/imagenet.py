"""`weights="imagenet"`: the official file, downloaded once, checked, converted and cached.

The cache is Keras' own: `$KERAS_HOME/models/keras_smlp/<variant>/` (default `~/.keras/...`) holds
the converted weights and a record with their SHA-256. The folder is made under another name and
renamed when it is complete, under a lock, so that whatever happens in between, and however many
processes try, there is one good folder or none.
"""

import hashlib
import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import keras

from keras_smlp.variants import RELEASE
from keras_smlp.weights.official import load_official

URL_VARIABLE = "KERAS_SMLP_WEIGHTS_URL"
WEIGHTS = "imagenet.weights.h5"
RECORD = "record.json"


def fetch(variant, build):
    """The path of a variant's converted official weights, downloaded if they are not cached.

    Args:
        variant: A `keras_smlp.variants.Variant` with a checkpoint.
        build: Function without arguments that returns the variant's model, to convert with.

    Returns:
        A `pathlib.Path` ending in `.weights.h5`.

    Raises:
        ValueError: If the file is not the variant's checkpoint, or a cached one has changed.
        RuntimeError: If it can be neither found nor downloaded.
    """
    folder = cache_folder() / variant.name
    if not folder.exists():
        install(variant, build, folder)
    return verified(folder)


def cache_folder():
    """Where Keras keeps downloaded models: `$KERAS_HOME` or `~/.keras`."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    # expanded as get_file does, which would else look for our scratch folder in another place
    return Path(home).expanduser() / "models" / "keras_smlp"


def install(variant, build, folder):
    """Gets the official file, checks and converts it, and puts the finished folder in place."""
    import filelock

    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{variant.name}-"
    with filelock.FileLock(folder.parent / f".{variant.name}.lock"):
        if folder.exists():  # another process was first
            return
        for abandoned in folder.parent.glob(f"{prefix}*"):  # by a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
            prepare(variant, build, folder, Path(scratch))


def prepare(variant, build, folder, scratch):
    """Makes the finished folder in a scratch folder and renames it into place."""
    by_hand = folder.parent / variant.checkpoint
    if by_hand.exists():
        source, origin = by_hand, str(by_hand)
    else:
        source, origin = download(variant, scratch, by_hand)
    state = random.getstate()
    model = build()
    random.setstate(state)  # the first call leaves the seeded draws where later ones do
    try:
        load_official(model, source)
    except ValueError as error:
        raise ValueError(
            f"{origin} is not the official sMLPNet-{variant.name} checkpoint: {error}"
        ) from error
    ready = scratch / "ready"
    ready.mkdir()
    model.save_weights(ready / WEIGHTS)
    record = {
        "origin": origin,
        "origin_sha256": sha256(source),
        "sha256": sha256(ready / WEIGHTS),
        "licence": variant.licence,
    }
    (ready / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    os.rename(ready, folder)


def download(variant, scratch, by_hand):
    """The official file in a scratch folder, and its address."""
    base = os.environ.get(URL_VARIABLE) or RELEASE
    address = f"{base.rstrip('/')}/{variant.checkpoint}"
    try:
        path = keras.utils.get_file(
            fname=variant.checkpoint, origin=address, cache_dir=scratch, cache_subdir="download"
        )
    except Exception as error:  # what get_file raises for a failed download
        raise RuntimeError(
            f"The official weights could not be downloaded from {address} ({error}); to do without "
            f"a network, place the file at {by_hand}, or set {URL_VARIABLE} to a mirror."
        ) from error
    return Path(path), address


def verified(folder):
    """The path of the cached weights, if they are still those that were accepted."""
    weights = folder / WEIGHTS
    try:
        wanted = json.loads((folder / RECORD).read_text())["sha256"]
        whole = sha256(weights) == wanted
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ValueError(
            f"The cached weights {weights} are not those that were accepted at download (SHA-256); "
            f"remove the folder {folder} to fetch them again."
        )
    return weights


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
