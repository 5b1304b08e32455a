"""A run that is killed again and again ends as the one that never was: bit by bit."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

for package in ("tensorflow", "jsonargparse", "matplotlib", "sklearn", "tensorboardX", "tqdm"):
    pytest.importorskip(package, reason=f"train.py needs {package}")

from keras_smlp.training.checkpoints import WEIGHTS, Checkpoints  # noqa: E402 - asked for first

TRAIN = Path(__file__).parents[1] / "train.py"
KILLS = int(os.environ.get("KERAS_SMLP_KILLS", "10"))
ARGUMENTS = [
    "--model.dim=8",
    "--model.depths=[1,1]",
    "--model.input_size=16",
    "--model.patch_size=2",
    "--model.drop_path_rate=0.3",
    "--data.resize_size=16",
    "--data.mixup=0.8",
    "--data.cutmix=1",
    "--data.group_size=20",
    "--data.erase=0.25",
    "--data.repeats=3",
    "--optimizer.ema_decay=0.9",
    "--train.batch_size=80",
    "--train.epochs=5",
    "--train.checkpoint_steps=2",
]


def begin(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, str(TRAIN), f"--output_dir={folder}", *ARGUMENTS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder, *arguments):
    with begin(folder, *arguments) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def wait_for(condition, process, seconds=120):
    """Waits until something is so, or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.0005)


def listed(folder):
    """The checkpoints and what is being written."""
    return set(os.listdir(folder)) if folder.is_dir() else set()


def state(folder):
    """Every tensor of the newest checkpoint: weights, averages, optimizer, random states."""
    path, state, damaged = Checkpoints(folder / "checkpoints", 1).newest()
    assert not damaged
    tensors = {}
    with h5py.File(path / WEIGHTS) as file:
        file.visititems(
            lambda name, x: tensors.update({name: x[()]}) if isinstance(x, h5py.Dataset) else None
        )
    return state, tensors


def assert_same_end(one, other):
    (state_one, tensors_one), (state_other, tensors_other) = state(one), state(other)
    for key in ("epoch", "step", "best"):
        assert state_one[key] == state_other[key]
    for row, other_row in zip(state_one["rows"], state_other["rows"], strict=True):
        # of an interrupted epoch the means are means of means
        assert row == pytest.approx(other_row, rel=1e-6)
    assert len(tensors_one) > 100 and tensors_one.keys() == tensors_other.keys()
    for name, tensor in tensors_one.items():
        np.testing.assert_array_equal(tensor, tensors_other[name], err_msg=name)
    for part in ("seed_state", "averages", "optimizer"):
        assert any(part in name for name in tensors_one), part


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    finish(folder)
    return folder


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(straight, tmp_path):
    rng, checkpoints, writing = random.Random(time.time_ns()), tmp_path / "checkpoints", 0
    for kill in range(KILLS):
        with begin(tmp_path) as process:
            before = listed(checkpoints)
            if kill % 2:  # while a checkpoint is written
                wait_for(lambda: any(n.startswith(".") for n in listed(checkpoints)), process)
                time.sleep(rng.uniform(0, 0.03))
            else:  # at any time after the next one
                wait_for(lambda seen=before: listed(checkpoints) - seen, process)
                time.sleep(rng.uniform(0, 0.3))
            process.kill()
        writing += any(name.startswith(".") for name in listed(checkpoints))
        if process.returncode != -signal.SIGKILL:
            break  # it was faster, and is done
    assert kill >= min(KILLS, 5) - 1 and writing, (kill, writing)
    # the last kill may have come after the last checkpoint: nothing is left to do then
    done = state(tmp_path)[0]["epoch"] == state(straight)[0]["epoch"]
    assert ("going on from" in finish(tmp_path)) != done
    assert_same_end(straight, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_step_with_a_checkpoint(straight, tmp_path, number):
    with begin(tmp_path, "--train.checkpoint_steps=1000") as process:
        # what is started in the background, as tests may be, has Ctrl-C switched off: not here,
        # for train.py sets its own handler
        wait_for(lambda: (tmp_path / "history.csv").exists(), process)
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output.splitlines()[-1] == f"train.py: error: interrupted by {number.name}"
    again = finish(tmp_path)
    assert "going on from" in again and "damaged" not in again
    assert_same_end(straight, tmp_path)


@pytest.mark.slow
def test_a_finished_run_says_its_result_again(straight):
    before = state(straight)[0]
    output = finish(straight)
    assert "* Acc@1" in output and "epoch 5/5" not in output
    assert state(straight)[0] == before


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root")
def test_a_full_disk_leaves_the_checkpoint_before(small_disk):
    disk = small_disk("3m")
    with begin(disk, "--train.keep_checkpoints=100") as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 1, output
    assert "could not be written" in output.splitlines()[-1]
    path, _, damaged = Checkpoints(disk / "checkpoints", 1).newest()
    assert path is not None and not damaged
    assert not any(n.startswith(".") for n in itertools.chain(listed(disk / "checkpoints")))
