"""What the readers of weights files share: tensors not read yet, and errors of one sentence."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_smlp.checks import shown


class Refused(Exception):
    """A reason not to read the file: the rest of a sentence that starts with its path."""


class Stored(NamedTuple):
    """A tensor in an open file, described before it is read.

    Attributes:
        shape: Tuple of integers.
        dtype: NumPy type of what `read` returns.
        read: Function without arguments that reads the values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self):
        """How many values it has."""
        return int(np.prod(self.shape, dtype=object))


def show(text):
    """A name from the file for a message, in quotes."""
    return f"'{shown(text)}'"


def reason(error):
    """What a library said of a damaged file: the kind of the error and its text on one line."""
    return f"{type(error).__name__}: {shown(' '.join(str(error).split()))}"


@contextlib.contextmanager
def one_sentence(path):
    """Turns whatever goes wrong while a file is read into a `ValueError` that begins with its path.

    A damaged file makes the libraries raise almost anything; only what the system says of the file
    (it is not there, it may not be read, the disk fails) stays an `OSError`.

    Args:
        path: What the file is called in messages.
    """
    try:
        yield
    except Refused as why:
        raise ValueError(f"{shown(path)} {why}") from None
    except Exception as error:
        # EINVAL is what a seek to a nonsense offset gives; h5py's own errors have no number
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise ValueError(f"{shown(path)} is damaged: {reason(error)}") from error


def open_regular(path):
    """Opens a file to read its bytes; a pipe or device, which may never end, is refused."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # for a folder open itself raises
        raise Refused("is no regular file.")
    return open(path, "rb", buffering=0)


def widen_bfloat16(bits):
    """bfloat16 values, given as their 16 bits, in float32: they are its upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
