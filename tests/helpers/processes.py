"""Python in a process of its own, with the paths that the tests have."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


def environment(**changes):
    """The variables of this process, the tests' folders on the path, TensorFlow quiet."""
    paths = os.pathsep.join([str(ROOT), str(TESTS)])
    return {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3", **changes}


def begin(*arguments, **changes):
    """Starts Python with these arguments; what it says on both streams is one text."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def python(*arguments, cwd=None, status=0, **changes):
    """Runs Python with these arguments, which must end with this status; the finished process."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**changes), capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def ranks(count=2):
    """The variables that `torchrun` sets for each of some processes."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [{"WORLD_SIZE": str(count), **address, **rank} for rank in own]
