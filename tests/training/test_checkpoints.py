"""Checkpoints: whole or absent, the newest whole one, and what may change between two runs."""

import contextlib
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.damage import flipped, halved
from helpers.nets import linear

pytest.importorskip("yaml", reason="the configuration is YAML")

from keras_smlp.data import fingerprint, splits  # noqa: E402 - see above
from keras_smlp.training import engines  # noqa: E402
from keras_smlp.training.checkpoints import STATE, WEIGHTS, Checkpoints  # noqa: E402
from keras_smlp.training.parsing import parse  # noqa: E402
from keras_smlp.training.run import LOCK, Run, locked  # noqa: E402

pytestmark = pytest.mark.once

MAIN = engines.Engine()
OTHER = engines.Engine()
OTHER.rank = 1


@pytest.fixture
def model():
    return linear()


def config(*argv):
    return parse(["--train.keep_checkpoints=2", *argv])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def saved(folder, model, place=(1, 5)):
    """A run that has saved one checkpoint."""
    run = Run(config(), folder, MAIN)
    run.epoch, run.step = place
    run.means, run.rows = {"loss": 0.5}, [{"epoch": 1, "loss": 0.75}]
    run.best_score = {"epoch": 1, "weights": "val", "top1": 50.0, "loss": 1.0}
    run.checkpoint(model)
    return run


def resume(folder, model, *argv):
    """A run that goes on from a folder; what it says."""
    said, run = [], Run(config(*argv), folder, MAIN)
    run.resume(model, said.append)
    return run, said


def test_a_run_goes_on_where_it_was(model, tmp_path):
    before = saved(tmp_path / "c", model)
    kept = model.get_weights()[0].copy()
    model.set_weights([kept + 1])
    run, said = resume(tmp_path / "c", model)
    np.testing.assert_array_equal(model.get_weights()[0], kept)
    for name in ("epoch", "step", "means", "rows", "best_score", "path"):
        assert getattr(run, name) == getattr(before, name)
    assert said == [f"going on from {tmp_path / 'c' / '00001-0000005'}"]
    state = json.loads((run.path / STATE).read_text())
    assert state["versions"]["backend"] == keras.backend.backend()


def test_the_newest_are_kept(model, tmp_path):
    run = Run(config(), tmp_path, MAIN)
    for run.epoch, run.step in ((0, 5), (0, 10), (1, 0), (10, 3)):
        run.checkpoint(model)
    assert names(tmp_path) == ["00001-0000000", "00010-0000003"]


def test_one_process_writes(model, tmp_path):
    Run(config(), tmp_path / "c", OTHER).checkpoint(model)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("damage", [halved, flipped, None])
@pytest.mark.parametrize("file", [WEIGHTS, STATE])
def test_a_damaged_newest_is_left_for_the_one_before(model, tmp_path, damage, file):
    saved(tmp_path, model, (1, 5))
    run = saved(tmp_path, model, (2, 0))
    path = run.path / file
    if damage is None:
        path.unlink()
    elif damage is flipped and file == STATE:
        path.write_text("{}")  # one bit of it may mean nothing
    else:
        path.write_bytes(damage(path.read_bytes()))
    again, said = resume(tmp_path, model)
    assert (again.epoch, again.step) == (1, 5)
    assert said[0].startswith(f"damaged checkpoint, not used: {run.path} (") and len(said) == 2


def test_damage_alone_is_no_new_beginning(model, tmp_path):
    path = saved(tmp_path, model).path / WEIGHTS
    path.write_bytes(halved(path.read_bytes()))
    with pytest.raises(ValueError, match="^output_dir: no checkpoint in .* remove that folder"):
        resume(tmp_path, model)


def test_a_write_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch):
    first = saved(tmp_path, model)

    def full(path):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_weights", full)
    first.step += 1
    with pytest.raises(OSError, match=r"00001-0000006 could not be written \(no space left on"):
        first.checkpoint(model)
    assert names(tmp_path) == ["00001-0000005"]
    assert first.saved == (1, 5)


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".12345678").mkdir()
    (tmp_path / ".12345678" / WEIGHTS).write_text("half")
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.newest() == (None, None, [])
    checkpoints.clean()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "changed", ["--train.seed=1", "--data.flip=0.5", "--model.expansion=2", "--train.epochs=11"]
)
def test_another_configuration_is_refused(model, tmp_path, changed):
    saved(tmp_path, model)
    key = changed[2:].partition("=")[0]
    with pytest.raises(ValueError, match=rf"another configuration \({key}: .* -> .*\), allowed"):
        resume(tmp_path, model, changed)


@pytest.mark.parametrize(
    "changed",
    ["--output_dir=other", "--data.threads=1", "--eval.batch_size=3", "--train.keep_checkpoints=1"],
)
def test_what_the_training_does_not_depend_on_may_change(model, tmp_path, changed):
    saved(tmp_path, model)
    resume(tmp_path, model, changed)


def test_resume_can_be_forbidden(model, tmp_path):
    run, _ = resume(tmp_path / "c", model, "--train.resume=false")
    run.checkpoint(model)
    with pytest.raises(ValueError, match="^train.resume: false with checkpoints in"):
        resume(tmp_path / "c", model, "--train.resume=false")


def test_keys_that_a_version_did_not_have_are_at_their_defaults(model, tmp_path):
    saved = config().to_dict()
    del saved["train"]["precision"], saved["data"]["crop_scale"], saved["eval"]
    own = Run(config(), tmp_path, MAIN)
    own.config = SimpleNamespace(to_dict=lambda: saved)
    own.checkpoint(model)
    resume(tmp_path, model)
    with pytest.raises(ValueError, match=r"\(train.precision: float32 -> mixed_float16\)"):
        resume(tmp_path, model, "--train.precision=mixed_float16")


# ---- the data -----------------------------------------------------------------------------------


def data(count, classes=2):
    """The listing of so many images in memory."""
    images = splits.Arrays(np.zeros((count, 1, 1, 3), "uint8"), np.zeros(count, "int32"))
    return fingerprint.listing(splits.Source(tuple(map(str, range(classes))), images, images))


def resumed(folder, model, listing, *argv):
    """What a run says that goes on with these data, or with what it refuses them."""
    said, run = [], Run(config(*argv), folder, engines.Engine(), listing)
    run.resume(model, said.append)
    return said


CHANGED = "data.name: the data are no longer those of {} (training images: 2 added (image 5 and "
CHANGED += "others); validation images: 2 added (image 5 and others))"


def test_changed_data_are_refused_unless_allowed(model, tmp_path):
    run = Run(config(), tmp_path, engines.Engine(), data(5))
    run.checkpoint(model)
    going_on = f"going on from {run.path}"
    assert resumed(tmp_path, model, data(5)) == [going_on]
    with pytest.raises(ValueError) as error:
        resumed(tmp_path, model, data(7))
    what = CHANGED.format(run.path)
    assert str(error.value) == (
        f"{what}, allowed: the same data, --train.allow_changed_data true, or another output_dir"
    )
    assert resumed(tmp_path, model, data(7), "--train.allow_changed_data=true") == [what, going_on]
    # no network for two classes fits three
    with pytest.raises(ValueError, match=r"\(classes: 1 added \(2\)\), .* as many classes, or"):
        resumed(tmp_path, model, data(5, 3), "--train.allow_changed_data=true")


def test_a_checkpoint_that_does_not_know_its_data_is_gone_on_from(model, tmp_path):
    path = saved(tmp_path, model).path
    assert resumed(tmp_path, model, data(5)) == [f"going on from {path}"]


def test_means_go_on_over_an_interruption():
    run = Run(config(), "c", MAIN)
    run.begin_fit()
    run.count(2, {"loss": 3.0})
    run.begin_fit()  # a new process counts from nothing
    run.count(1, {"loss": 6.0})
    run.count(2, {"loss": 5.0})
    assert run.step == 4 and run.means == {"loss": 4.0}


# ---- the folder of a run ------------------------------------------------------------------------

ONE = engines.Engine()


def test_one_run_in_a_folder(tmp_path):
    with locked(tmp_path, ONE, ()):
        with pytest.raises(ValueError) as error, locked(tmp_path, ONE, ()):
            pass
        assert str(error.value) == (
            f"output_dir: {tmp_path} is in use by another run, allowed: a folder for each, or to "
            "wait until it ends"
        )
        assert names(tmp_path) == [LOCK]
    assert names(tmp_path) == []
    (tmp_path / LOCK).touch()  # as a killed process leaves it
    with locked(tmp_path, ONE, ()), contextlib.suppress(OSError):
        pass
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / LOCK).mkdir()
    message = "^output_dir: .* a folder that can be written to$"
    with pytest.raises(ValueError, match=message), locked(tmp_path, ONE, ()):
        pass


def test_what_only_the_main_process_refuses_ends_all(tmp_path):
    with locked(tmp_path, ONE, ()):
        # this process has another rank; the main one has refused
        other = engines.Engine()
        other.rank, other.gather = 1, lambda rows: ["output_dir: in use", *rows]
        with pytest.raises(ValueError, match="^output_dir: in use$"), locked(tmp_path, other, ()):
            pass
        assert names(tmp_path) == [LOCK]

    def full():
        raise OSError("no space")

    with pytest.raises(ValueError, match="^no space$"):
        ONE.on_main(full)


def test_leftovers_of_killed_writes_are_removed(tmp_path):
    kept = [".9d48e94d.notes.txt", ".9D48E94D.best.keras", ".9d48e94d1.best.keras", ".best.keras"]
    kept += [
        "9d48e94d.best.keras",
        ".9d48e94d.best.keras.bak",
        ".9d48e94d.last.keras",
        "best.keras",
    ]
    kept += [".0d48e94d.best.keras"]
    for name in (*kept[:-2], "best.keras", ".9d48e94d.best.keras", ".01234567.history.csv"):
        (tmp_path / name).touch()
    (tmp_path / ".9d48e94d.last.keras").unlink()
    (tmp_path / ".9d48e94d.last.keras").mkdir()
    (tmp_path / ".0d48e94d.best.keras").symlink_to("best.keras")
    with locked(tmp_path, ONE, {"best.keras", "last.keras", "history.csv"}):
        pass
    assert names(tmp_path) == sorted(kept)


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_checkpoints_need_a_folder(model, tmp_path, kind):
    path = tmp_path / "checkpoints"
    path.touch() if kind == "file" else path.symlink_to("nowhere")
    with pytest.raises(ValueError, match=f"^output_dir: {path} is no folder, allowed: "):
        resume(path, model)


def test_checkpoints_may_be_on_another_disk(model, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "checkpoints").symlink_to("disk")
    saved(tmp_path / "checkpoints", model)
    run, _ = resume(tmp_path / "checkpoints", model)
    assert (run.epoch, run.step) == (1, 5) and names(tmp_path / "disk") == ["00001-0000005"]
