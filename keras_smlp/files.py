"""Files that are either whole or absent."""

import contextlib
import os
import secrets
from pathlib import Path


@contextlib.contextmanager
def replacing(path):
    """A temporary path beside `path` that takes its place when the block succeeds.

    A reader of `path` sees the old file or the new one, never a part of it. If the block
    raises (Ctrl-C included), the temporary file is removed and the old file stays.

    Args:
        path: Path of the file to write. Its folder must exist.

    Yields:
        A `pathlib.Path` in the same folder with the same endings.
    """
    path = Path(path)
    # the whole name stays at the end: Keras and others choose a format by `.weights.h5`
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
