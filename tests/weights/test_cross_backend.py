"""Files of one backend on the others: each side a fresh process of helpers/cross_backend.py."""

import importlib.util

import pytest
from helpers.processes import python

BACKENDS = ("tensorflow", "jax", "torch")
ALL = "plain,folded,int8,folded_int8,trained_float32,trained_mixed_float16"
absent = [name for name in BACKENDS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(bool(absent), reason=f"needs all three backends; not installed: {absent}"),
]


def run(command, names, *folders, backend):
    # XLA's expensive passes are not the subject
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    arguments = ("-m", "helpers.cross_backend", command, names, *folders)
    python(*arguments, KERAS_BACKEND=backend, **quick)


@pytest.mark.parametrize(
    ("names", "writers"),
    [
        ("plain,folded_int8,trained_mixed_float16", 1),
        pytest.param(ALL, 3, marks=pytest.mark.deep),
    ],
)
def test_saved_models_load_predict_and_resume(names, writers, tmp_path):
    """Each backend reads what the next one wrote, or what all three did."""
    folders = [tmp_path / backend for backend in BACKENDS]
    for backend, folder in zip(BACKENDS, folders, strict=True):
        folder.mkdir()
        run("write", names, folder, backend=backend)
    for i, reader in enumerate(BACKENDS, start=1):
        run("read", names, *(folders + folders)[i : i + writers], backend=reader)
