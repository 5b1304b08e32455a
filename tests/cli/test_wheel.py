"""From a wheel to a report: what a new user types, outside the checkout, on this backend.

What does not depend on the backend, or has its own tests on each, is typed on PyTorch alone: each
command is a process that imports a backend.
"""

import json
import os
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import photos
from helpers.nets import BACKEND
from helpers.processes import ROOT
from helpers.training import IMPORTED  # skips where a training's packages are missing

pytestmark = pytest.mark.deep
assert IMPORTED

# a format that this backend writes without another one, and its file
FORMATS = {
    "tensorflow": ("tf_saved_model", "served"),
    "jax": ("tf_saved_model", "served"),
    "torch": ("onnx", "mine.onnx"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist of this checkout."""
    pytest.importorskip("hatchling", reason="builds the wheel")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.once
def test_the_wheel_holds_the_two_packages_and_the_configurations(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "keras_smlp",
        "keras_smlp_cli",
    }
    configs = {Path(name).name for name in names if name.startswith("keras_smlp/configs/")}
    assert configs == {path.name for path in (ROOT / "configs").iterdir()}
    own = {f"{x.relative_to(ROOT)}" for x in ROOT.glob("keras_smlp*/**/*.py")}
    assert own <= {*names} and "keras_smlp/inference/imagenet_classes.txt" in names


@pytest.mark.once
def test_the_sdist_holds_what_its_tests_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    for folder in ("tests", "reference", "benchmarks", "configs", "docs", "tools", "keras_smlp"):
        files = {
            x for x in (ROOT / folder).rglob("*") if x.is_file() and "__pycache__" not in x.parts
        }
        assert {f"{x.relative_to(ROOT)}" for x in files} <= names
    assert {"README.md", "noxfile.py", "constraints.txt", "train.py", ".ci/run"} <= names


@pytest.mark.once
def test_tests_of_the_sdist_pass_in_it(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    files = ["tests/test_parity.py", "tests/test_readme.py", "tests/training/test_config.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout.splitlines()[-1]


def test_from_a_wheel_to_a_report(built, tmp_path):
    is_first, site = BACKEND == "torch", tmp_path / "site"
    (wheel,) = built.glob("*.whl")
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        wheel,
    ]
    subprocess.run([sys.executable, *map(str, install)], check=True)
    here = tmp_path / "here"
    photos.folder(here / "photos", train=10, validation=3)
    environment = {**os.environ, "PYTHONPATH": str(site), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def keras_smlp(line, status=0):
        command = [sys.executable, str(site / "bin" / "keras-smlp"), *shlex.split(line)]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == status, (line, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr

    # 1 and 2: which configurations there are, and one to begin with
    assert "finetune\n    Fine-tunes " in keras_smlp("configs")
    (here / "mine.yaml").write_text(keras_smlp("configs finetune"))

    # 3 and 4: a training, its folder anywhere, and the same command again
    small = "--model.variant null --model.weights null --model.dim 8 --model.depths [1,1] "
    small += "--model.input_size 32 --data.resize_size 32 --data.group_size 4 --train.epochs 2 "
    train = f"train --config mine.yaml --data.dir photos/train {small}--train.batch_size 4"
    said = keras_smlp(train)
    assert "are for validation" in said and "Use it: " in said
    out = here / "runs" / "finetune"
    assert {"best.keras", "report.html", "split.csv"} <= {x.name for x in out.iterdir()}
    if is_first:
        keras_smlp(train)

    # 5 and 6: an evaluation with a page of its own, and a first look at the features
    best = "runs/finetune/best.keras"
    evaluate = f"eval --config runs/finetune/config.yaml --weights {best}"
    score = keras_smlp(f"{evaluate} --data.dir runs/finetune/split.csv --report page.html")
    assert "* Acc@1 " in score and (here / "page.html").read_text().startswith("<!")
    if is_first:
        assert "k-NN" in keras_smlp(f"{evaluate} --probe")

    # 7 to 9: photos named, for programs and for people, and a picture of where it looked
    rows = [
        json.loads(x)
        for x in keras_smlp(f"predict photos/val --weights {best} --json").splitlines()
    ]
    assert len(rows) == 6 and {x["name"] for row in rows for x in row["predictions"]} == {
        "n01",
        "n02",
    }
    keras_smlp(f"predict photos/val --weights {best} --plot seen.png --explain")
    if is_first:
        keras_smlp(f"kernels kernels.png --weights {best}")

    # 10 to 12: an export that is run and compared, the official format, and back
    format, file = FORMATS[BACKEND]
    assert "of the largest" in keras_smlp(f"export {best} --format {format} --out {file}")
    assert "equal\n" in keras_smlp(f"port {best} mine.pth")
    named = keras_smlp(
        # the run's own model has this size in the config.yaml beside it
        "predict photos/val/n01/n01_0.JPEG --weights mine.pth --json --resize-size 32 "
        "--classes runs/finetune/classes.json"
    )
    first = [row for row in rows if row["file"].endswith("n01_0.JPEG")][0]["predictions"]
    for before, after in zip(first, json.loads(named)["predictions"], strict=True):
        assert before["name"] == after["name"]
        assert abs(before["probability"] - after["probability"]) < 1e-5

    # 13: a folder for the Hugging Face hub, with the figures of the run
    keras_smlp(f"publish {best} --out folder --formats keras,safetensors")
    metric = (here / "runs" / "finetune" / "summary.md").read_text().partition("Acc@1 ")[2]
    card = (here / "folder" / "README.md").read_text()
    assert f"| top-1 accuracy, % | {float(metric.split()[0]):.3f} |" in card

    # and what goes wrong is one sentence
    mistakes = {
        "train --config nothing": "config: nothing",
        "predict nothing.jpg": "PHOTO must be",
        f"{evaluate} --data.dir nothing": "data.dir: nothing",
    }
    for wrong, key in mistakes.items() if is_first else ():
        error = keras_smlp(wrong, status=2)
        assert error.startswith(f"keras-smlp {wrong.split()[0]}: error: {key}"), error
        assert error.count("\n") == 1
