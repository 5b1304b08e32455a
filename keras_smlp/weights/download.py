"""`weights="imagenet"`: the official file, downloaded once, checked and cached as it is.

The cache is Keras' own: `$KERAS_HOME/models/keras_smlp/` (default `~/.keras/...`) holds the
official file under its own name, and beside it a record with its SHA-256. A file that was placed
there by hand is taken like a downloaded one. Both are written under other names and renamed when
they are complete, under a lock: whatever happens in between, and however many processes try, there
is one good file or none.
"""

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

import keras

from keras_smlp.checks import shown
from keras_smlp.saving import replacing
from keras_smlp.variants import RELEASE
from keras_smlp.weights import identify
from keras_smlp.weights.strict import check_finite

URL_VARIABLE = "KERAS_SMLP_WEIGHTS_URL"
# seconds without a byte after which a download is given up
TIMEOUT = 60
# seconds after which one gives up waiting for another process, which may be downloading
LONGEST_WAIT = 3600
CHUNK = 1 << 20  # bytes
# the official files have four bytes per parameter; training containers a few times as many
MOST_PER_PARAMETER = 64
MAX_RECORD = 1 << 16  # bytes


def fetch(variant):
    """The path of a variant's official checkpoint, downloaded if it is not cached.

    Args:
        variant: A `keras_smlp.variants.Variant` with a checkpoint.

    Returns:
        A `pathlib.Path` ending in `.pth`.

    Raises:
        ValueError: If the file is not the variant's checkpoint or has values that are not finite,
            or a cached one has changed.
        RuntimeError: If it can be neither found nor downloaded, or another process does not end.
        OSError: If the cache cannot be used.
    """
    path = cache_folder() / variant.checkpoint
    record = path.with_suffix(".json")
    with usable(path):
        for file in (path, record):
            if file.is_symlink() and not file.exists():
                raise FileNotFoundError(f"{shown(file)} is a link to nothing")
            if file.exists() and not file.is_file():
                raise IsADirectoryError(f"{shown(file)} is no file")
        if not (path.exists() and record.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path):
                if not path.exists():
                    download(variant, path, record)
                elif not record.exists():  # placed by hand
                    accept(variant, path, path, record)
        if not is_unchanged(path, record):
            raise ValueError(
                f"The cached weights {shown(path)} are not those that were accepted at first "
                f"(SHA-256); remove them and {shown(record)} to fetch them again."
            )
    return path


@contextlib.contextmanager
def usable(path):
    """Says of an error of the system that the cache is to blame, and what can be done."""
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        where = f": {shown(error.filename)}" if error.filename else ""
        raise type(error)(
            f"The cache of the official weights {shown(path)} cannot be used ({what}{where}); "
            "mend that, or set KERAS_HOME to a folder of your own."
        ) from error


@contextlib.contextmanager
def locked(path):
    """Holds the lock of a cached file; says so if another process has it."""
    import filelock

    # an empty file, for everybody, whatever the umask is: the cache may be shared
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), mode=0o666)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(
            f"Waiting for another process that fetches {shown(path)} (its lock: "
            f"{shown(lock.lock_file)}), at most {LONGEST_WAIT} seconds",
            flush=True,
        )
        try:
            lock.acquire(timeout=LONGEST_WAIT)
        except filelock.Timeout as error:
            raise RuntimeError(
                f"Another process has held the lock {shown(lock.lock_file)} for {LONGEST_WAIT} "
                "seconds: end it, and try again."
            ) from error
    try:
        yield
    finally:
        lock.release()


def is_unchanged(path, record):
    """Whether a file has the SHA-256 that was recorded."""
    try:
        with open(record, "rb") as file:
            text = file.read(MAX_RECORD)
        return json.loads(text)["sha256"] == sha256(path)
    except (KeyError, TypeError, ValueError, RecursionError):
        return False


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
        file = Path(scratch) / variant.checkpoint
        try:
            retrieve(address, file, MOST_PER_PARAMETER * variant.parameters)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise RuntimeError(
                f"The official weights could not be downloaded from {shown(address)} "
                f"({shown(error) or type(error).__name__}); to do without a network, place the "
                f"file at {shown(path)}, or set {URL_VARIABLE} to a mirror."
            ) from error
        accept(variant, file, address, record)
        os.replace(file, path)


def retrieve(address, file, most):
    """Writes what is at an address into a file, with a progress bar.

    Args:
        address: String. URL.
        file: Path.
        most: Bytes above which the download is given up.

    Raises:
        OSError: If there is no such address, nothing comes for `TIMEOUT` seconds, less comes than
            was announced, or it cannot be written.
        ValueError: If it is no address, or what comes is too large.
    """
    print(f"Downloading {shown(address)}", flush=True)
    with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, open(file, "wb") as output:
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        bar, got = keras.utils.Progbar(total), 0
        while got <= most and (data := answer.read1(CHUNK)):
            output.write(data)
            got += len(data)
            bar.update(got if total is None else min(got, total))
    if got > most:
        raise ValueError(f"more than {most} bytes came")
    if total is not None and got < total:
        raise OSError(f"only {got} of {total} bytes came")


def accept(variant, path, origin, record):
    """Records the SHA-256 of a file that is the variant's checkpoint; refuses another file."""
    try:
        with identify.opened(path, called="it") as file:
            architecture = identify.architecture_of(file)
            parameters = sum(x.size for name, x in file.tensors.items() if "running_" not in name)
            if (architecture, parameters) != (identify.published(variant), variant.parameters):
                raise ValueError(f"it has {parameters} parameters, of {architecture}")
            for name, tensor in file.tensors.items():
                check_finite(name, tensor.read(), "it")
    except ValueError as error:
        raise ValueError(
            f"{shown(origin)} is not the official sMLPNet-{variant.name} checkpoint: {error}"
        ) from error
    text = {"origin": str(origin), "sha256": sha256(path), "license": variant.license}
    with replacing(record) as temporary:
        temporary.write_text(json.dumps(text, indent=2) + "\n")


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
