"""Files of one backend on the others: all nine pairs, each side a fresh process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = ("tensorflow", "jax", "torch")
SCRIPT = Path(__file__).with_name("cross_backend.py")

absent = [name for name in BACKENDS if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.cross,
    pytest.mark.skipif(bool(absent), reason=f"needs all three backends; not installed: {absent}"),
]


def run(backend, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{backend} {arguments}:\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folders = {}
    for backend in BACKENDS:
        folders[backend] = tmp_path_factory.mktemp(backend)
        run(backend, "write", folders[backend])
    return folders


@pytest.mark.parametrize("reader", BACKENDS)
@pytest.mark.parametrize("writer", BACKENDS)
def test_saved_models_load_predict_and_resume(writer, reader, written):
    run(reader, "read", written[writer])
