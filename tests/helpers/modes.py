"""Who may read the files that were written."""

import contextlib
import os
from pathlib import Path


@contextlib.contextmanager
def umask(mask):
    """Sets the umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def assert_by_umask(path, mask=None):
    """Asserts that a file, or all in a folder, has the mode of a umask, else this process'."""
    if mask is None:
        mask = os.umask(0o022)
        os.umask(mask)
    path = Path(path)
    found = {x: x.stat().st_mode & 0o777 for x in (path, *path.rglob("*")) if x.is_file()}
    assert found
    assert {x: oct(mode) for x, mode in found.items() if mode != 0o666 & ~mask} == {}
