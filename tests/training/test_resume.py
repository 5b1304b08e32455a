"""A run that is killed again and again ends as the one that never was: bit by bit."""

import os
import random
import signal
import time

import h5py
import numpy as np
import pytest
from helpers import photos, processes
from helpers.nets import BACKEND
from helpers.training import SMALL, TRAIN, Run, begin, begin_preloaded, refused

from keras_smlp.data import sources
from keras_smlp.training.checkpoints import WEIGHTS, Checkpoints

# at random moments; what differs between the backends, the state that comes back, one kill shows
KILLS = int(os.environ.get("KERAS_SMLP_KILLS", "10" if BACKEND == "torch" else "4"))
ARGUMENTS = [
    "--model.drop_path_rate=0.3",
    "--data.mixup=0.8",
    "--data.cutmix=1",
    "--data.group_size=20",
    "--data.erase=0.25",
    "--data.repeats=3",
    "--optimizer.ema_decay=0.9",
    "--train.checkpoint_steps=2",
]
SHORT = ("--train.epochs=2", "--train.checkpoint_steps=5")
LONG = (f"--train.epochs={max(3, KILLS // 3)}",)  # a kill comes after some four steps


def finish(folder, *arguments):
    """Runs in this process what may not be killed; what it printed."""
    return Run(folder, *ARGUMENTS, *arguments).out


def wait_for(condition, runs, seconds=300):
    """Waits until something is so, or nothing runs any more."""
    end = time.monotonic() + seconds
    while not condition() and runs():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.0005)


def listed(folder):
    """The checkpoints and what is being written."""
    return set(os.listdir(folder)) if folder.is_dir() else set()


def written(folder):
    """What is being written."""
    return {name for name in listed(folder) if name.startswith(".")}


def whole(folder):
    """The checkpoints."""
    return listed(folder) - written(folder)


def state(folder):
    """Every tensor of the newest checkpoint: weights, averages, optimizer, random states."""
    path, state, damaged = Checkpoints(folder / "checkpoints", 1).newest()
    assert not damaged
    names = []
    with h5py.File(path / WEIGHTS) as file:
        file.visit(names.append)
        return state, {x: file[x][()] for x in names if isinstance(file[x], h5py.Dataset)}


def assert_same_end(one, other):
    (state_one, tensors_one), (state_other, tensors_other) = state(one), state(other)
    for key in ("epoch", "step", "best"):
        assert state_one[key] == state_other[key]
    for row, other_row in zip(state_one["rows"], state_other["rows"], strict=True):
        # of an interrupted epoch the means are means of means
        assert row == pytest.approx(other_row, rel=1e-6)
    assert len(tensors_one) > 100
    np.testing.assert_equal(tensors_one, tensors_other)
    for part in ("seed_state", "averages", "optimizer"):
        assert any(part in name for name in tensors_one), part


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A function from SHORT or LONG to the folder of such a run that was never interrupted."""
    folders = {}

    def folder_of(length):
        if length not in folders:
            folders[length] = tmp_path_factory.mktemp("straight")
            finish(folders[length], *length)
        return folders[length]

    return folder_of


@pytest.mark.once
@pytest.mark.deep
def test_a_killed_run_ends_as_one_that_was_not(straight, tmp_path, capsys):
    checkpoints = tmp_path / "checkpoints"
    with begin(tmp_path, *ARGUMENTS, *SHORT) as process:
        # in the middle of the first epoch or somewhat later
        wait_for(lambda: whole(checkpoints), lambda: process.poll() is None)
        process.send_signal(signal.SIGSTOP)  # it has not ended, and holds its lock
        try:
            error = refused(capsys, f"--output_dir={tmp_path}", *SMALL, *ARGUMENTS, *SHORT)
        finally:
            process.kill()
    assert f"output_dir: {tmp_path} is in use by another run, allowed: " in error
    assert process.returncode == -signal.SIGKILL
    again = finish(tmp_path, *SHORT)
    assert "going on from" in again and "damaged" not in again
    assert_same_end(straight(SHORT), tmp_path)


@pytest.mark.once
@pytest.mark.deep
def test_a_finished_run_says_its_result_again(straight):
    folder = straight(SHORT)
    before = state(folder)[0]
    output = finish(folder, *SHORT)
    assert "* Acc@1" in output and "epoch 2/2" not in output
    assert state(folder)[0] == before


@pytest.mark.once
def test_changed_data_are_no_resume(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), "uint8")

    def write(count):
        splits = {f"{split}_images": images[:count] for split in ("train", "validation")}
        splits |= {f"{split}_labels": np.arange(count) % 2 for split in ("train", "validation")}
        np.savez(tmp_path / "data.npz", **splits)

    out, npz = tmp_path / "out", ("--data.name=npz", f"--data.dir={tmp_path / 'data.npz'}")
    short = (*npz, "--train.epochs=1", "--train.batch_size=4", "--optimizer.warmup_epochs=0")
    write(8)
    finish(out, *short, "--data.group_size=4")
    again = (*SMALL, *ARGUMENTS, *short, "--data.group_size=4")
    write(9)
    error = refused(capsys, f"--output_dir={out}", *again)
    assert error.startswith("train.py: error: data.dir: the data are no longer those of ")
    assert "(training images: 1 added (image 8); validation images: 1 added (image 8))" in error
    config = out / "config.yaml"
    before = config.read_text()
    said = finish(out, *short, "--data.group_size=4", "--train.allow_changed_data=true")
    assert "1 added (image 8))\ngoing on from" in said and "on 9 images:" in said
    assert before != config.read_text()


@pytest.mark.deep
@pytest.mark.once
def test_a_killed_run_on_parquet_files_ends_as_one_that_was_not(tmp_path):
    from helpers.parquet_files import shards  # skips where they cannot be written

    images = sources.load("folder", photos.folder(tmp_path / "folder", train=12))
    data = shards(tmp_path / "parquet", images)
    arguments = ("--data.name=parquet", f"--data.dir={data}", "--train.batch_size=4")
    arguments += ("--data.group_size=4", "--train.epochs=2")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(straight, *arguments)
    with begin(killed, *ARGUMENTS, *arguments, "--train.checkpoint_steps=1") as process:
        wait_for(lambda: whole(killed / "checkpoints"), lambda: process.poll() is None)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert "going on from" in finish(killed, *arguments)
    assert_same_end(straight, killed)


@pytest.mark.deep
def test_kills_at_random_moments_change_nothing(straight, tmp_path):
    rng, checkpoints, writing = random.Random(time.time_ns()), tmp_path / "checkpoints", 0
    for kill in range(KILLS):
        process, before = begin_preloaded(tmp_path, *ARGUMENTS, *LONG), listed(checkpoints)
        # while a checkpoint is written, or at any time after the next one
        kind, seconds = (written, 0.03) if kill % 2 else (whole, 0.3)
        wait_for(lambda kind=kind, seen=before: kind(checkpoints) - seen, process.is_alive)
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        process.join()
        writing += bool(written(checkpoints) - before)
        if process.exitcode != -signal.SIGKILL:
            break  # it was faster, and is done
    # of few kills none may have come while a checkpoint was written
    assert kill >= min(KILLS, 5) - 1 and (writing or KILLS < 10), (kill, writing)
    # the last kill may have come after the last checkpoint: nothing is left to do then
    done = state(tmp_path)[0]["epoch"] == state(straight(LONG))[0]["epoch"]
    assert ("going on from" in finish(tmp_path, *LONG)) != done
    assert_same_end(straight(LONG), tmp_path)


@pytest.mark.deep
@pytest.mark.once
def test_kills_of_two_processes_change_nothing(tmp_path):
    # a checkpoint in the middle of an accumulation would have that of one process alone
    arguments = (*ARGUMENTS, *LONG, "--optimizer.accumulation=4")

    def begin_both(folder):
        return [begin_preloaded(folder, *arguments, **rank) for rank in processes.ranks()]

    def end_both(runs):
        for run in runs:
            run.join(200)
            assert run.exitcode == 0

    end_both(begin_both(tmp_path / "straight"))
    killed, kills = tmp_path / "killed", 0
    for _ in range(max(2, KILLS // 3)):
        runs, before = begin_both(killed), listed(killed / "checkpoints")
        wait_for(lambda seen=before: whole(killed / "checkpoints") - seen, runs[0].is_alive)
        time.sleep(random.uniform(0, 1))
        for run in random.sample(runs, 2):
            run.kill()
            run.join()
            kills += run.exitcode == -signal.SIGKILL
    assert kills >= 3
    end_both(begin_both(killed))
    assert_same_end(tmp_path / "straight", killed)


@pytest.mark.deep
@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_step_with_a_checkpoint(straight, tmp_path, number):
    arguments = (*ARGUMENTS, *LONG, "--train.checkpoint_steps=1000")
    with begin(tmp_path, *arguments) as process:
        # what is started in the background, as tests may be, has Ctrl-C switched off: not here,
        # for train.py sets its own handler
        wait_for((tmp_path / "history.csv").exists, lambda: process.poll() is None)
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output.splitlines()[-1] == f"train.py: error: interrupted by {number.name}"
    again = finish(tmp_path, *LONG)
    assert "going on from" in again and "damaged" not in again
    assert_same_end(straight(LONG), tmp_path)


@pytest.mark.deep
@pytest.mark.once
def test_several_processes_are_refused_and_end_together(tmp_path):
    arguments = (f"--output_dir={tmp_path}", *SMALL, *ARGUMENTS, "--train.epochs=1000")
    first = [processes.begin(TRAIN, *arguments, **rank) for rank in processes.ranks()]
    try:
        wait_for(lambda: whole(tmp_path / "checkpoints"), lambda: first[0].poll() is None)
        for run in [processes.begin(TRAIN, *arguments, **rank) for rank in processes.ranks()]:
            output, _ = run.communicate(timeout=200)
            assert run.returncode == 2 and "is in use by another run, allowed" in output, output
        first[1].send_signal(signal.SIGTERM)  # not the one that saves
        for run in first:
            output, _ = run.communicate(timeout=200)
            assert run.returncode == 128 + signal.SIGTERM, output
    finally:
        for run in first:
            run.kill()
            run.communicate()
    path, _, damaged = Checkpoints(tmp_path / "checkpoints", 1).newest()
    assert path is not None and not damaged and not written(tmp_path / "checkpoints")


@pytest.mark.deep
@pytest.mark.once
def test_a_full_disk_leaves_the_checkpoint_before(small_disk):
    disk = small_disk("3m")
    with begin(disk, *ARGUMENTS, *LONG, "--train.keep_checkpoints=100") as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 1, output
    assert "could not be written" in output.splitlines()[-1]
    path, _, damaged = Checkpoints(disk / "checkpoints", 1).newest()
    assert path is not None and not damaged
    assert not written(disk / "checkpoints")
