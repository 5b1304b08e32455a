"""Tests of published folders: what is in them, that their check notices damage, their upload."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.hugging_face import TOKEN
from helpers.modes import assert_by_umask, umask
from helpers.nets import assert_same_weights, net, quantized

import keras_smlp
from benchmarks import flipped
from keras_smlp.hubs import checker, figures, upload
from keras_smlp.hubs import publish as hubs
from keras_smlp.preprocessing import MEAN, STD
from keras_smlp_cli import arguments, publish

pytestmark = pytest.mark.once

CLASSES = ["cat", "dog", "tench|x", "<b>bird", "eel"]
OF_KERAS = "--formats keras,safetensors"


def square(**arguments):
    return net(input_shape=(32, 32, 3), classifier_activation="softmax", **arguments)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model that a run has left, to be in."""
    monkeypatch.chdir(tmp_path)
    square().save("best.keras")
    Path("classes.json").write_text(json.dumps(CLASSES))
    Path("history.csv").write_text("epoch,val_loss,val_accuracy,val_top5\n1,1.5,0.25,0.75\n")
    Path("summary.md").write_text("- result: `x` on 40 images\n- best epoch: 1 of 1\n")
    return tmp_path


def listed(folder):
    return sorted(x.name for x in Path(folder).iterdir())


def test_the_command_knows_the_formats():
    assert publish.FORMATS == hubs.FORMATS and set(hubs.NEEDS) == set(checker.RUNS)


# ---- the folder ---------------------------------------------------------------------------------
def test_a_folder_with_its_card(here, run_command):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    before = listed(here)
    line = f"best.keras --out out {OF_KERAS} --license MIT --data me/photos --data-license own"
    with umask(0o027):
        status, out, err = run_command(publish, line)
    assert (status, err) == (0, "") and out.endswith("out: all is well\n")
    assert_by_umask("out", 0o027)
    assert listed(here) == sorted([*before, "out"])
    names = ["README.md", "check.json", "check.py", "classes.json", "config.json"]
    assert listed("out") == [*names, "model.keras", "model.safetensors", "test_vectors.npz"]
    for file in ("model.keras", "model.safetensors"):
        assert_same_weights(keras_smlp.load_model(Path("out", file)), square())

    text = Path("out/README.md").read_text()
    card = huggingface_hub.ModelCard(text)
    assert card.data.license == "mit" and card.data.datasets == ["me/photos"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("keras", "image-classification")
    results = [(x.metric_name, x.metric_value, x.dataset_type) for x in card.data.eval_results]
    assert results == [
        ("top-1 accuracy, %", 25.0, "me/photos"),
        ("top-5 accuracy, %", 75.0, "me/photos"),
        ("loss", 1.5, "me/photos"),
    ]
    assert "| measured on 40 validation images | |" in text and "| these weights | MIT |" in text
    assert "| the data set that they were trained on | own |" in text
    config = json.loads(Path("out/config.json").read_text())
    assert config["parameters"] == sum(np.prod(x.shape) for x in square().trainable_weights)
    assert config["architecture"]["dim"] == 8 and config["class_names"] == CLASSES
    assert (config["input"], config["license"]) == ("RGB in [0, 255]", "MIT")


def test_texts_from_outside_are_no_markup(here, run_command):
    odd = "x | y <script> [a](b) *c*\n---\n# d"
    command = [f"best.keras --out out {OF_KERAS}"]
    command += [f"--{name} '{odd}'" for name in ("license", "data", "data-license", "origin")]
    assert run_command(publish, " ".join(command))[0] == 0
    text = Path("out/README.md").read_text()
    _, metadata, body = re.split(r"^---$", text, maxsplit=2, flags=re.M)
    assert yaml.safe_load(metadata)["license"] == "other"
    assert "<script>" not in body and "\n# d" not in body and "[a](b)" not in body


def test_what_cannot_be_is_refused_and_nothing_is_written(here, refused, monkeypatch):
    Path("there").mkdir()
    net().save("wide.keras")
    quantized().save("int8.keras")
    Path("two.json").write_text('["a", "b"]')
    before = sorted(here.rglob("*"))
    cases = {
        f"best.keras --out there {OF_KERAS}": "--out must not exist yet",
        f"best.keras --out no/where {OF_KERAS}": "--out must be in a folder that exists",
        "best.keras --out out --formats keras,pickle": "--formats must be some of keras,",
        f"no.keras --out out {OF_KERAS}": "MODEL names no file",
        f"wide.keras --out out {OF_KERAS}": "'safetensors' cannot hold it: MODEL must have a sq",
        f"int8.keras --out out {OF_KERAS}": "'safetensors' cannot hold it: ",
        f"best.keras --out out {OF_KERAS} --classes two.json": "--classes must name the model's 5",
        f"best.keras --out out {OF_KERAS} --private": "--private must stand with --push",
        f"best.keras --out out {OF_KERAS} --inputs normalized": "--inputs must not be 'normalized'",
        f"best.keras --out out {OF_KERAS} --outputs logits": "--outputs must not be 'logits' for",
    }
    for line, words in cases.items():
        assert words in refused(publish, line), line
    monkeypatch.setattr(hubs.importlib.util, "find_spec", lambda name: None)
    said = refused(publish, "best.keras --out out --formats onnx,keras")
    assert (
        'torch, which is not installed: pip install "keras-smlp[onnx]", or give the formats' in said
    )
    said = refused(publish, "no.keras --out out --formats keras")
    assert 'PyYAML, which is not installed: pip install "keras-smlp[hub]"' in said
    assert sorted(here.rglob("*")) == before


def test_a_folder_that_does_not_pass_its_check_is_not_there(here, refused, monkeypatch):
    def wrong(path, images):
        return images[:, 0, :5, 0] / 255

    monkeypatch.setitem(checker.RUNNERS, "onnx", wrong)
    monkeypatch.setattr(hubs, "check_packages", lambda formats: None)
    monkeypatch.setattr(hubs.api, "check", lambda *arguments: None)
    monkeypatch.setattr(hubs.api, "export", lambda model, path, *x, **y: path.write_bytes(b"x"))
    before = listed(here)
    said = refused(publish, "best.keras --out out --formats onnx")
    assert "what was written answers otherwise than the model" in said and "DIFFERS" in said
    assert listed(here) == before


def test_a_folder_that_changed_on_the_way_is_not_there(here, refused, monkeypatch):
    monkeypatch.setattr(checker, "compare_hash", lambda path, expected: (False, "CHANGED"))
    before = listed(here)
    said = refused(publish, f"best.keras --out out {OF_KERAS}")
    assert "what was written does not pass its own check (README.md: CHANGED" in said
    assert listed(here) == before


@pytest.mark.parametrize("channels", [3, 4])
def test_stored_images_are_what_a_model_of_normalized_ones_takes(tmp_path, channels):
    model = net(input_shape=(32, 32, channels), include_preprocessing=False)
    hubs.publish(model, tmp_path / "out", ["keras"])
    images = np.load(tmp_path / "out" / checker.VECTORS)["images"]
    pixels = hubs.test_images((32, 32, channels)).astype("float64")
    factors = [keras_smlp.preprocessing.of_channels(x, channels) for x in (MEAN, STD)]
    np.testing.assert_allclose(images, (pixels / 255 - factors[0]) / factors[1], atol=1e-5)
    assert images.dtype == "float32" and np.abs(images).max() < 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "keras_smlp.load_model" in card and "load_image" not in card


@pytest.mark.parametrize("name", ["new", "me/a/b", "datasets/me/x", 'me/x"\nimport os', 3])
def test_a_repository_is_a_name(tmp_path, name):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ValueError, match="^`repository` must be ACCOUNT/NAME. Received: "):
        hubs.publish(square(), tmp_path / "out", ["keras"], repository=name)
    assert not (tmp_path / "out").exists()


def test_the_preparation_is_the_one_of_the_figures(here, run_command, refused):
    keras_smlp.SMLPNet(8, (1, 1), input_shape=(16, 32, 3), classes=5).save("best.keras")
    Path("config.yaml").write_text("data: {resize_size: 48, exif_orientation: true}\nmodel:\n")
    assert run_command(publish, "best.keras --out out --formats keras")[0] == 0
    assert json.loads(Path("out/config.json").read_text())["preprocessing"] == (
        "turn as EXIF says; resize, bicubic and antialiased, so that 48 x 48 pixels (height x "
        "width) are just covered; crop the middle 16 x 32"
    )
    assert json.loads(Path("out/config.json").read_text())["resize_size"] == [48, 48]
    text = Path("out/README.md").read_text()
    assert "size=(16, 32), resize_size=48, exif_orientation=True" in text
    Path("mine.keras").write_bytes(Path("best.keras").read_bytes())  # no name that a run gives
    options = "--formats keras --no-exif-orientation"
    assert run_command(publish, f"mine.keras --out mine {options}")[0] == 0
    assert json.loads(Path("mine/config.json").read_text())["resize_size"] == [48, 48]
    assert "turn" not in json.loads(Path("mine/config.json").read_text())["preprocessing"]
    assert run_command(publish, f"mine.keras --out more {options} --resize-size 50")[0] == 0
    assert json.loads(Path("more/config.json").read_text())["resize_size"] == [50, 50]
    Path("config.yaml").write_text("data: {resize_size: 'print(1)'}\n")
    said = refused(publish, "best.keras --out other --formats keras")
    assert "config.yaml: data.resize_size must be a positive integer. Received: " in said
    odd = figures.Figures(config={"data": {"resize_size": "print(1)"}})
    with pytest.raises(ValueError, match="`figures`: data.resize_size must be a positive integer"):
        hubs.publish(square(), "other", ["keras"], figures=odd)
    Path("config.yaml").write_text("data: {exif_orientation: 1}\n")
    said = refused(publish, "best.keras --out other --formats keras")
    assert "config.yaml: data.exif_orientation must be true or false. Received: " in said
    assert not Path("other").exists()


# ---- its check ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A published folder of the formats that need nothing more."""
    folder = tmp_path_factory.mktemp("published") / "folder"
    hubs.publish(square(), folder, ["keras", "safetensors"], CLASSES)
    return folder


def check(folder, *options):
    """Runs the check of a folder as its user does, where only NumPy and the runtimes can be had."""
    without = "import runpy, sys\n"
    without += "for name in ('keras', 'keras_smlp', 'torch', 'tensorflow', 'jax'):\n"
    without += "    sys.modules[name] = None\n"
    without += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    command = [sys.executable, "-c", without, folder / "check.py", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_changed_byte_of_any_file_is_noticed(published):
    lines, status, _ = checker.check(published)
    assert status == 0 and lines[-1] == "all is well"
    for name in sorted({*listed(published)} - {checker.LIST}):  # of which see the next test
        file = published / name
        data = file.read_bytes()
        changed = bytearray(data)
        changed[len(data) // 2] ^= 128
        file.write_bytes(changed)
        try:
            lines, status, _ = checker.check(published)
        finally:
            file.write_bytes(data)
        assert f"{name}: CHANGED" in "\n".join(lines)
        assert status == (0 if name == "README.md" else 1)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"sha256": 1}'])
def test_a_list_that_cannot_be_read_is_said(published, tmp_path, text):
    folder = shutil.copytree(published, tmp_path / "copy")
    (folder / checker.LIST).unlink()
    if text is not None:
        (folder / checker.LIST).write_text(text)
    status, said = check(folder)
    assert status == 1 and said.startswith("check.json: CANNOT BE READ (")
    assert said.endswith("SOMETHING DIFFERS\n")


def test_the_check_runs_by_itself(published):
    status, said = check(published)
    assert status == 0 and said.endswith("all is well\n")
    status, said = check(published, "pickle")
    assert status == 2 and "FORMAT must be one of onnx, litert" in said


def test_small_probabilities_count():
    expected = np.array([[0.9, 0.1 - 1e-9, 1e-9]])
    other = np.array([[0.9, 0.1 - 2e-9, 2e-9]])
    assert checker.difference(other, expected, "logarithms") == pytest.approx(np.log(2))
    assert checker.difference(other, expected, "values") < 2e-9
    for broken in (np.full((1, 3), np.nan), expected[:, :2], -expected):
        assert not checker.difference(broken, expected, "logarithms") <= 1e-3


# ---- the hub ------------------------------------------------------------------------------------
@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def test_a_folder_is_pushed_in_one_commit_and_loaded_back(here, hub, token, run_command):
    line = f"best.keras --out out {OF_KERAS} --push me/new --private"
    status, out, err = run_command(publish, line)
    assert status == 0, err
    repository = hub.repositories["me/new"]
    address = out.splitlines()[-1]
    assert repository.private and address == f"hf://me/new@{repository.branches['main']}"
    assert len(repository.commits) == 2  # that of the creation, and one
    uploaded = {name: data for name, data in repository.files.items() if name[0] != "."}
    assert uploaded == {x.name: x.read_bytes() for x in Path("out").iterdir()}
    assert_same_weights(keras_smlp.load_model(address), square())
    assert arguments.read_names(arguments.located(address, "MODEL")[0]) == CLASSES


def test_what_a_former_upload_had_is_removed(published, hub, token):
    hub.add("me/old", {"model.onnx": b"old", "notes.md": b"theirs", "model.keras": b"old"})
    upload.push(published, "me/old")
    files = hub.repositories["me/old"].files
    assert set(files) == {*listed(published), "notes.md"}
    assert files["model.keras"] == (published / "model.keras").read_bytes()


def test_uploads_that_cannot_be(here, hub, run_command, refused, monkeypatch):
    def line(name, more=""):
        return f"best.keras --out out {OF_KERAS} --push {name} {more}"

    assert "needs a token: log in by `hf auth login`" in refused(publish, line("me/new"))
    assert "--push must be ACCOUNT/NAME" in refused(publish, line("new"))
    assert not Path("out").exists()
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    status, _, err = run_command(publish, line("me/new"))
    assert status == 2 and err.endswith("out is whole, and `hf upload me/new out` uploads it\n")
    assert Path("out/README.md").exists() and hub.repositories == {}
    spaced = line("me/new", "--private").replace("--out out", "--out 'o t'")
    err = run_command(publish, spaced)[2]
    assert "`hf upload me/new 'o t' --private` uploads it (publicly, if me/new is public)" in err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("me/public", {"x": b""})
    with pytest.raises(PermissionError, match="is public already; nothing was uploaded"):
        upload.push("out", "me/public", private=True)
    status, _, err = run_command(publish, line("me/public", "--private").replace(" out ", " b "))
    assert status == 2 and err.endswith("is public already; nothing was uploaded; b is whole\n")
    assert hub.repositories["me/public"].files == {"x": b""}
    hub.status = 500
    with pytest.raises(ConnectionError, match="HTTP 500"):
        upload.push("out", "me/public")


def test_only_what_was_published_is_uploaded(published, hub, token, tmp_path):
    folder = shutil.copytree(published, tmp_path / "copy")
    for name in (".env", "checkpoints", "config.json/x"):
        if "/" in name:
            (folder / "config.json").unlink()
            (folder / name).parent.mkdir()
        (folder / name).write_text("secret")
        with pytest.raises(ValueError, match="`folder` must be one that publish wrote, with nothi"):
            upload.push(folder, "me/new")
        shutil.rmtree((folder / name).parent) if "/" in name else (folder / name).unlink()
    (folder / checker.LIST).unlink()
    for path in (folder, tmp_path / "none"):
        with pytest.raises(ValueError, match="`folder` must .*, without check.json$"):
            upload.push(path, "me/new")
    assert hub.log == [] and hub.repositories == {}


# ---- the exported files -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A published folder with the files for ONNX Runtime and LiteRT."""
    for package in ("onnxscript", "onnxruntime", "tensorflow", "ai_edge_litert"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("exported") / "folder"
    assert hubs.publish(square(), folder, ["onnx", "litert"], CLASSES)[-1] == "all is well"
    return folder


@pytest.mark.deep
def test_one_flipped_weight_is_noticed_by_the_answers_alone(exported):
    status, said = check(exported)
    assert status == 0 and "model.onnx: " in said and "model.tflite: " in said
    for name in ("onnx", "litert"):
        file = exported / checker.RUNS[name][0]
        data = file.read_bytes()
        found = flipped.places(data, square())
        assert len(found) >= 10, name
        for path, start, count in found:
            for bit in flipped.BITS:
                file.write_bytes(flipped.flipped(data, start + 4 * (count // 3), bit))
                lines, status, _ = checker.check(exported, [name], hashes=False)
                assert status == 1, (name, path, bit, lines)
        file.write_bytes(data)
    file.write_bytes(data[: len(data) // 2])
    assert check(exported, "litert", "--numbers-only")[0] == 1
    file.write_bytes(data)


@pytest.mark.deep
def test_a_runtime_that_is_missing_is_no_pass(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    lines, status, _ = checker.check(exported, ["onnx"])
    assert status == 2 and "NOT RUN: onnxruntime is not installed" in "\n".join(lines)
    assert lines[-1] == "NOT ALL WAS CHECKED"
