"""train.py: one short run looked at from all sides, what it refuses, and (deep) the digits."""

import csv
import errno
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import photos
from helpers.html_pages import assert_stands_alone
from helpers.modes import assert_by_umask
from helpers.processes import ROOT, python
from helpers.training import SMALL, TRAIN, Run, refused, train

from keras_smlp.data import pipeline, sources
from keras_smlp.data.decode import BadFiles
from keras_smlp.training import files
from keras_smlp.training.callbacks import Interrupted
from keras_smlp.training.engines import Engine
from keras_smlp.training.parsing import parse
from keras_smlp.training.run import locked

NO_IMAGE = "no image of a known format (JPEG, PNG, BMP, WEBP, PPM, TIFF, GIF, JPEG2000, AVIF)"
LINE = re.compile(r"^\* Acc@1 (\d+\.\d{3}) Acc@5 (\d+\.\d{3}) loss (\d+\.\d{3})$", re.MULTILINE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return Run(folder, "--data.label_smoothing=0.1", "--optimizer.ema_decay=0.9")


@pytest.fixture(scope="module")
def validation():
    split, recipe = sources.load("digits").validation, parse(SMALL).data
    batches = pipeline.validation_batches(split, recipe, 16, 360, BadFiles())
    return next(batches.as_numpy_iterator())[:2]


def evaluated(path, validation):
    """Accuracy in percent, among five, and loss in float64 of a saved model."""
    images, labels = validation
    probabilities = keras.models.load_model(path).predict(images, verbose=0).astype("float64")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    own = probabilities[np.arange(360), labels]
    ranks = (probabilities > own[:, None]).sum(axis=1)
    return 100 * (ranks < 1).mean(), 100 * (ranks < 5).mean(), -np.log(own).mean()


def table(path):
    """The rows of a CSV file."""
    return list(csv.DictReader(path.read_text().splitlines()))


def history(folder):
    return [{k: float(v) for k, v in row.items()} for row in table(folder / "history.csv")]


# ---- what it leaves behind ----------------------------------------------------------------------

FILES = ["batch.png", "best.keras", "checkpoints", "classes.json", "config.yaml", "curves.png"]
FILES += ["ema.keras", "example.png", "history.csv", "last.keras", "report.html", "summary.md"]
FILES += ["tensorboard"]


@pytest.mark.quick_once
def test_it_leaves_its_files_and_no_others(run):
    assert sorted(path.name for path in run.folder.iterdir()) == FILES
    assert {*FILES} - {"checkpoints", "tensorboard"} == files.FILES - {
        files.SPLIT,
        "calibrated.keras",
        "example.tif",
    }
    for name in ("batch.png", "curves.png", "example.png"):
        assert (run.folder / name).read_bytes().startswith(b"\x89PNG\r\n")
    assert json.loads((run.folder / "classes.json").read_text()) == list("0123456789")
    written = sorted(path.name for path in (run.folder / "tensorboard").iterdir())
    assert written == ["train", "validation", "validation_ema"]
    assert len(list((run.folder / "checkpoints").iterdir())) == 2
    assert_by_umask(run.folder)


@pytest.mark.once
def test_the_config_is_the_one_that_was_used(run):
    assert parse(["--config", str(run.folder / "config.yaml")]) == parse(run.argv)


@pytest.mark.quick_once
def test_the_history_is_that_of_the_saved_models(run, validation):
    rows = history(run.folder)
    assert [row["epoch"] for row in rows] == [1, 2]
    for prefix, name in (("val", "last"), ("ema", "ema")):
        top1, top5, loss = evaluated(run.folder / f"{name}.keras", validation)
        found = [rows[-1][f"{prefix}_{key}"] for key in ("accuracy", "top5", "loss")]
        assert found == pytest.approx([top1 / 100, top5 / 100, loss], rel=1e-4)
    assert rows[-1]["val_loss"] != rows[-1]["ema_loss"]
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.quick_once
def test_the_last_lines_are_those_of_the_best_model(run, validation):
    assert not keras.models.load_model(run.folder / "best.keras").compiled
    printed = tuple(map(float, LINE.search(run.out).groups()))
    assert printed == pytest.approx(evaluated(run.folder / "best.keras", validation), abs=1e-3)
    assert f"{run.folder}/best.keras, of epoch" in run.out and "on 360 images:" in run.out
    rows = history(run.folder)
    accuracies = [row[key] for row in rows for key in ("val_accuracy", "ema_accuracy")]
    assert printed[0] == pytest.approx(100 * max(accuracies), abs=1e-3)
    summary = (run.folder / "summary.md").read_text()
    assert f"`{LINE.search(run.out)[0]}` on 360 images" in summary


@pytest.mark.once
def test_without_a_terminal_an_epoch_is_one_line(run):
    epochs = re.findall(r"^epoch \d/2: .*$", run.out, re.MULTILINE)
    number = r"\d+\.\d{4}"
    assert len(epochs) == 2 and re.fullmatch(
        rf"epoch 1/2: loss {number}, accuracy {number}, val_loss {number}, val_accuracy {number}, "
        rf"ema_accuracy {number}, lr 1.00e-06, \d+ images/s, \d+ s left",
        epochs[0],
    )
    assert re.search(r"lr \S+, \d+ images/s$", epochs[1])
    assert "\r" not in run.out + run.err and "\x1b" not in run.out + run.err


@pytest.mark.once
def test_it_begins_with_what_it_will_do(run):
    first, *_, last = run.out.split("epoch 1/2")[0].splitlines()
    assert first == "data        digits: 10 classes" and last == f"output      {run.folder}"
    assert "\nvalidation  360 images, 35 (2, 8) to 37 (3, 5) of a class\n" in run.out
    assert " 4,458 parameters, 4,330 of them trained\n" in run.out


@pytest.mark.quick_once
def test_the_report_is_that_of_the_best_model(run, validation):
    page = assert_stands_alone((run.folder / "report.html").read_text("utf-8"))
    top1, _, loss = evaluated(run.folder / "best.keras", validation)
    rows = history(run.folder)
    accuracies = [max(row["val_accuracy"], row["ema_accuracy"]) for row in rows]
    best = 1 + int(np.argmax(accuracies))
    for words in (f"{top1:.2f}%", f"{loss:.4f}", f"The best epoch is {best} of 2", "image "):
        assert words in page.text
    assert f"--weights {run.folder}/best.keras" in page.text and "ema_decay: 0.9" in page.text
    pictures = [x["src"][:22] for tag, x in page.elements if tag == "img"]
    assert pictures[-1] == "data:image/jpeg;base64" and len(pictures) == 49  # batch.png
    assert len([x for tag, x in page.elements if x.get("class") == "best"]) == 3
    assert f"{run.folder}/report.html says more\n" in run.out


@pytest.mark.once
@pytest.mark.deep
def test_the_printed_command_predicts(run):
    command = run.out.splitlines()[-1].removeprefix("Use it: ")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    assert re.fullmatch(r"\S+/example\.png\n   1  [01]\.\d{4}  \d\n", done.stdout), done.stderr


def test_tensorflow_leaves_the_gpu_to_the_backend(monkeypatch):
    import tensorflow as tf

    asked = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *what: asked.append(what))
    runpy.run_path(pipeline.__file__)
    assert asked == ([] if keras.backend.backend() == "tensorflow" else [([], "GPU")])


# ---- evaluation alone ---------------------------------------------------------------------------


@pytest.mark.quick_once
def test_eval_prints_the_official_line_and_a_row_per_image(run, validation, tmp_path):
    path = tmp_path / "p.csv"
    weights = f"--model.weights={run.folder / 'best.keras'}"
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out", Engine(), ()):  # a run does not keep others from evaluating
        again = Run(tmp_path / "out", "--eval", weights, f"--eval.predictions={path}")
    assert LINE.search(again.out)[0] == LINE.search(run.out)[0]
    assert re.search(r"best.keras: 360 images, \d+ images/s$", again.out, re.MULTILINE)
    assert list((tmp_path / "out").iterdir()) == []
    rows = table(path)
    assert [int(row["index"]) for row in rows] == list(range(360))
    assert [row["label"] for row in rows] == [str(label) for label in validation[1]]


@pytest.mark.quick_once
def test_eval_at_another_size_says_that_kernels_were_resampled(run, tmp_path):
    weights = f"--model.weights={run.folder / 'best.keras'}"
    size = ("--model.input_size=20", "--data.resize_size=20")
    at_20 = Run(tmp_path / "out", "--eval", weights, *size)
    assert "axial kernels resampled from (16, 16, 3) to (20, 20, 3)\n" in at_20.out
    assert "resampled" not in run.out
    assert LINE.search(at_20.out)


@pytest.mark.once
def test_eval_writes_a_report_and_a_calibrated_model(run, validation, tmp_path):
    weights, path = f"--model.weights={run.folder / 'best.keras'}", tmp_path / 'it"s.html'
    arguments = ["--eval", weights, f"--eval.report={path}", "--eval.calibrate=true"]
    again = Run(tmp_path / "out", *arguments)
    found = re.search(
        r"^eval.calibrate: temperature (\S+), from 180 validation images; on the other 180 NLL "
        r"\d\.\d{4} -> \d\.\d{4}( \(worse: too few images\))?, ECE \d+\.\d\d% -> \d+\.\d\d%; "
        r"saved as .*/out/calibrated.keras$",
        again.out,
        re.MULTILINE,
    )
    assert found, again.out
    assert LINE.search(again.out)[0] == LINE.search(run.out)[0]
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == [
        "calibrated.keras",
        "classes.json",
    ]
    page = assert_stands_alone(path.read_text("utf-8"))
    for heading in ("Curves", "A batch as it was trained on"):
        assert heading not in page.text
    plain, calibrated = (
        keras.models.load_model(x).predict(validation[0], verbose=0)
        for x in (run.folder / "best.keras", tmp_path / "out" / "calibrated.keras")
    )
    expected = plain.astype("float64") ** (1 / float(found[1]))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(calibrated, expected, rtol=2e-3)  # of a temperature in 4 digits


@pytest.mark.once
def test_a_report_on_a_full_disk_is_one_sentence(run, capsys, tmp_path, monkeypatch):
    write, path = Path.write_text, tmp_path / "r.html"

    def full(self, content, *rest, **options):
        write(self, content[:10], *rest, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    weights = f"--model.weights={run.folder / 'best.keras'}"
    line = [*run.argv, f"--output_dir={tmp_path}", "--eval", weights, f"--eval.report={path}"]
    assert train.main(line, "train.py") == 2
    out, err = capsys.readouterr()
    assert LINE.search(out)[0] == LINE.search(run.out)[0]  # the score is not lost
    assert err == (
        f"train.py: error: {path}: the report cannot be written (No space left on device)\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_a_temperature_of_other_weights_stays_out_of_a_runs_folder(run, capsys, tmp_path):
    shutil.copy(run.folder / "best.keras", tmp_path / "w.keras")
    options = ["--eval", f"--model.weights={tmp_path / 'w.keras'}", "--eval.calibrate=true"]
    error = refused(capsys, *run.argv, *options)
    assert f"output_dir: {run.folder} has a run with other weights than {tmp_path}" in error
    assert not (run.folder / "calibrated.keras").exists()


@pytest.mark.once
def test_an_address_is_said_as_it_is(run, capsys, hub):
    commit = hub.add("me/run", {"model.keras": (run.folder / "best.keras").read_bytes()})
    options = ["--eval", "--model.weights=hf://me/run", "--eval.calibrate=true"]
    status = train.main([*run.argv, *options], "train.py")
    error = capsys.readouterr().err
    assert status == 2 and f"other weights than hf://me/run@{commit}/model.keras, allowed" in error


@pytest.mark.deep
@pytest.mark.once
def test_a_disk_that_is_full_at_the_report_keeps_the_models(run, small_disk):
    disk = small_disk("2m")
    shutil.copytree(run.folder, disk / "run")
    (disk / "run" / "report.html").unlink()
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(free - 8192))
    code = "import sys, train; sys.exit(train.main(sys.argv[1:], 'train.py'))"
    argv = [*run.argv, f"--output_dir={disk / 'run'}"]
    done = python("-c", code, *argv, cwd=ROOT, status=1)
    line = done.stderr.splitlines()[-1]
    path = disk / "run" / "report.html"
    assert (
        line == f"train.py: error: {path}: the report cannot be written (No space left on device)"
    )
    assert sorted(x.name for x in (disk / "run").iterdir()) == [
        name for name in FILES if name != "report.html"
    ]


# ---- fine-tuning --------------------------------------------------------------------------------


@pytest.mark.quick_once
def test_fine_tuning_gets_a_new_head_and_keeps_what_is_frozen(run, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 16, 16, 3), "uint8"), np.arange(8) % 2
    np.savez(
        tmp_path / "two.npz",
        train_images=images,
        train_labels=labels,
        validation_images=images,
        validation_labels=labels,
    )
    two = Run(
        tmp_path / "out",
        "--data.name=npz",
        f"--data.dir={tmp_path / 'two.npz'}",
        f"--model.weights={run.folder / 'best.keras'}",
        "--model.freeze=1",
        "--train.batch_size=8",
        "--train.precision=mixed_bfloat16",
        "--optimizer.warmup_epochs=0",
    )
    assert "model.weights: a new head for 2 classes instead of that for 10\n" in two.out
    before = keras.models.load_model(run.folder / "best.keras")
    after = keras.models.load_model(tmp_path / "out" / "last.keras")
    assert after.output_shape == (None, 2)
    assert after.get_layer("stage2_block1_token_mixing").compute_dtype == "bfloat16"
    for layer in before.layers:
        if layer.weights and layer.name != "predictions":
            pairs = zip(layer.get_weights(), after.get_layer(layer.name).get_weights(), strict=True)
            same = all(np.array_equal(old, new) for old, new in pairs)
            assert same == layer.name.startswith(("stem", "stage1_")), layer.name


# ---- what it refuses ----------------------------------------------------------------------------


REFUSED = {
    "--train.batch_size=1438": (
        "train.batch_size: 1438, allowed: at most 1437, for one update an epoch\n"
    ),
    "--data.name=folder --data.dir={0}": (
        "data.dir: {0} holds the folders out alone, allowed: a folder that holds train/"
    ),
    "--model.weights={0}/w.pth": "model: {0}/w.pth is not a PyTorch file",
    "--distribution.kind=data_parallel": "distribution.kind: data_parallel, allowed: ",
}


@pytest.mark.once
@pytest.mark.parametrize("line", REFUSED)
def test_what_only_data_and_network_can_tell(line, capsys, tmp_path):
    (tmp_path / "w.pth").touch()
    folder, arguments = tmp_path / "out", line.format(tmp_path).split()
    error = refused(capsys, *SMALL, f"--output_dir={folder}", *arguments)
    assert error.startswith("train.py: error: " + REFUSED[line].format(tmp_path))
    assert not list(folder.iterdir()), "a run that was refused left its configuration"


@pytest.mark.once
def test_a_file_is_no_output_dir(capsys, tmp_path):
    (tmp_path / "file").touch()
    error = refused(capsys, f"--output_dir={tmp_path / 'file'}")
    assert error.startswith("train.py: error: output_dir: ") and f"{tmp_path / 'file'}" in error


@pytest.mark.once
def test_too_many_damaged_files_end_the_run(capsys, tmp_path):
    path = photos.folder(tmp_path / "photos")
    for name in ("n01_0", "n01_1"):
        (path / "train" / "n01" / f"{name}.JPEG").write_text("no image")
    arguments = ["--data.name=folder", f"--data.dir={path}", "--train.batch_size=8"]
    arguments += [f"--output_dir={tmp_path / 'out'}"]
    error = refused(capsys, *SMALL, *arguments, began=True)
    assert error.startswith("train.py: error: data.max_bad_fraction: 2 of 14 files cannot be dec")
    named = (tmp_path / "out" / "bad_files.txt").read_text().splitlines()
    assert sorted(named) == [f"{path}/train/n01/n01_{i}.JPEG: {NO_IMAGE}" for i in (0, 1)]


@pytest.mark.once
def test_a_folder_of_own_photos_with_all_that_lies_in_one(tmp_path):
    path = photos.folder(tmp_path / "data", train=8)
    below = path / "train" / "n01"
    (below / "n01_0.JPEG").write_text("no image")
    (below / "n01_1.JPEG").rename(below / "\udcff.jpg")
    os.mkfifo(below / "pipe.jpg")
    (below / "phone.heic").touch()
    (below / "._n01_0.JPEG").touch()
    (path / "train" / ".ipynb_checkpoints").mkdir()
    shutil.rmtree(path / "val" / "n01")
    run = Run(
        tmp_path / "out",
        *("--data.name=folder", f"--data.dir={path}", "--data.exif_orientation=true"),
        *("--train.batch_size=4", "--train.epochs=1", "--optimizer.warmup_epochs=0"),
        "--optimizer.base_lr=1e-4",
    )
    assert run.out.count(f"data.dir: no image in {path}/val is of the classes n01\n") == 1
    assert (
        "data.dir: 2 files or links are not used: 1 .heic (first "
        f"{below}/phone.heic), 1 pipe (first {below}/pipe.jpg)\n"
    ) in run.out
    reason = f"{below}/n01_0.JPEG (no image of a known format "
    assert f"1 of 19 files cannot be decoded and are not used: {reason}" in run.out
    assert "optimizer.base_lr: 0.0001 for 512 images is a peak of 7.81e-07 for the 4 of" in run.out
    assert run.out.endswith("/best.keras --resize-size 16 --exif-orientation --top 1\n")
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["n01", "n02"]


@pytest.mark.once
def test_another_configuration_is_no_resume(run, capsys):
    error = refused(capsys, *SMALL, f"--output_dir={run.folder}", "--train.seed=3")
    assert "was trained with another configuration (" in error and "train.seed: 0 -> 3" in error


@pytest.mark.once
def test_a_backend_that_is_none_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    assert refused(capsys) == (
        "train.py: error: KERAS_BACKEND: theano, allowed: tensorflow, jax, torch\n"
    )


@pytest.mark.once
@pytest.mark.parametrize("module", ["sklearn.datasets", "yaml"])
def test_a_missing_package_names_the_extra(capsys, monkeypatch, tmp_path, module):
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("parsing", "config"):
        monkeypatch.delitem(sys.modules, f"keras_smlp.training.{name}")
    package = module.partition(".")[0]
    assert refused(capsys, *SMALL, f"--output_dir={tmp_path}") == (
        f'train.py: error: {package} is not installed: pip install "keras-smlp[train]"\n'
    )


@pytest.mark.once
@pytest.mark.parametrize(("backend", "extras"), [("jax", "jax,train"), ("tensorflow", "train")])
def test_a_missing_backend_names_the_extra(tmp_path, backend, extras):
    code = f"import sys; sys.modules[{backend!r}] = None; import train; "
    code += "sys.exit(train.main([], 'train.py'))"
    done = python("-c", code, cwd=tmp_path, status=2, KERAS_BACKEND=backend)
    line = f'train.py: error: {backend} is not installed: pip install "keras-smlp[{extras}]"'
    assert done.stderr.splitlines()[-1] == line
    assert "Traceback" not in done.stderr


@pytest.mark.once
@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted; what was saved is whole"),
        (Interrupted(signal.SIGTERM), 143, "interrupted by SIGTERM"),
    ],
)
def test_an_interruption_is_one_line(capsys, monkeypatch, tmp_path, error, code, line):
    def interrupted(config):
        raise error

    monkeypatch.setattr(train, "train", interrupted)
    found = refused(capsys, f"--output_dir={tmp_path}", code=code)
    assert found == f"train.py: error: {line}\n"


# ---- the real thing ------------------------------------------------------------------------------


@pytest.mark.deep
def test_the_digits_are_learned(tmp_path):
    done = python(TRAIN, cwd=tmp_path)
    assert float(LINE.search(done.stdout)[1]) >= 97
    results = sorted(path.name for path in (tmp_path / "runs" / "digits").iterdir())
    assert results == [name for name in FILES if name != "ema.keras"]


@pytest.mark.once
@pytest.mark.skipif(sys.platform != "linux", reason="the setting is the GNU C library's")
@pytest.mark.parametrize("users", [None, "glibc.malloc.top_pad=1"])
def test_huge_pages_by_starting_anew_once(users):
    script = "import os, sys; from keras_smlp_cli import huge_pages; "
    script += "huge_pages.restart_with_huge_pages(); "
    script += "print(os.environ['GLIBC_TUNABLES'], sys.argv[1:])"
    environment = {key: x for key, x in os.environ.items() if key != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": users} if users else {}
    command = [sys.executable, "-c", script, "--a b", "c"]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.stdout == f"{users or 'glibc.malloc.hugetlb=1'} ['--a b', 'c']\n", said.stderr


@pytest.mark.once
def test_folders_of_classes_alone_and_their_split(tmp_path):
    path = photos.folder(tmp_path / "data", train=8, validation=2)
    shutil.copytree(path / "val", path / "train", dirs_exist_ok=True)
    run = Run(
        tmp_path / "out",
        *("--data.name=folder", f"--data.dir={path / 'train'}", "--data.validation_fraction=0.25"),
        *("--train.batch_size=4", "--train.epochs=1", "--optimizer.warmup_epochs=0"),
    )
    assert "data.dir: no split is given: 4 of 16 images are for validation\n" in run.out
    assert "data.dir: split.csv has the split, and can be data.dir\n" in run.out
    head, *rows = (tmp_path / "out" / "split.csv").read_text().splitlines()
    assert head == "file,label,split" and len(rows) == 16
    assert sum(row.endswith(",n01,val") for row in rows) == 2
    source = sources.load("folder", tmp_path / "out" / "split.csv")
    assert (len(source.train), len(source.validation)) == (12, 4)
