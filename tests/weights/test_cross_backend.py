"""Files of one backend on the others, which run helpers/cross_backend.py in their own process."""

import importlib.util

import keras
import pytest
from helpers import cross_backend
from helpers.processes import python

OWN = keras.backend.backend()
BACKENDS = (OWN, *(x for x in ("tensorflow", "jax", "torch") if x != OWN))
ALL = ["plain", "folded", "int8", "folded_int8", "trained_float32", "trained_mixed_float16"]
absent = [name for name in BACKENDS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(bool(absent), reason=f"needs all three backends; not installed: {absent}"),
]


def run(backend, read=(), write=()):
    """Reads and checks the networks of these folders, then writes its own into others."""
    arguments = ALL, [*map(str, read)], [*map(str, write)]
    if backend == OWN:
        cross_backend.main(*arguments)
    else:
        # XLA's expensive passes are not the subject
        quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
        code = f"from helpers import cross_backend; cross_backend.main(*{arguments!r})"
        python("-c", code, KERAS_BACKEND=backend, **quick)


@pytest.fixture
def folders(tmp_path):
    folders = {backend: tmp_path / backend for backend in BACKENDS}
    for folder in folders.values():
        folder.mkdir()
    return folders


@pytest.mark.deep
def test_each_backend_reads_what_the_others_wrote(folders):
    for i, backend in enumerate(BACKENDS):
        run(backend, read=[folders[x] for x in BACKENDS[:i]], write=[folders[backend]])
    for i, backend in enumerate(BACKENDS[:-1]):
        run(backend, read=[folders[x] for x in BACKENDS[i + 1 :]])
