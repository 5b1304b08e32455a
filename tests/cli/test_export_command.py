"""`keras-smlp export` as a user runs it."""

import importlib.util
import json
import re
from pathlib import Path

import keras
import pytest
from helpers.nets import net

import keras_smlp
from keras_smlp.deploy.export import api, meaning, runtimes, writing
from keras_smlp_cli import arguments, export

pytestmark = pytest.mark.once

ONNX = "--format onnx --out m.onnx"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model and the names of its classes, to be in."""
    monkeypatch.chdir(tmp_path)
    net().save("m.keras")
    Path("classes.json").write_text(json.dumps(["cat", "dog", "n01440764", "bird", "eel"]))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What the package is asked to export: nothing is, but a file is there afterwards."""
    found = {}

    def written(model, path, format, **arguments):
        found.update(arguments, model=model, path=path, format=format)
        Path(path).write_bytes(bytes(2_500_000))
        return Path(path)

    def compare(*arguments, is_exact):
        found["is_exact"] = is_exact

    monkeypatch.setattr(keras_smlp, "export", written)
    monkeypatch.setattr(export, "compare", compare)
    return found


def test_the_tool_knows_the_formats():
    assert tuple(writing.FORMATS) == export.FORMATS == tuple(runtimes.OPEN)
    assert ("auto", *meaning.INPUTS) == arguments.INPUTS
    assert ("auto", *meaning.OUTPUTS) == arguments.OUTPUTS


def test_arguments_reach_the_export(here, run_command, asked):
    status, out, _ = run_command(export, f"m.keras {ONNX}")
    assert not status and out == "m.onnx: onnx, 2.5 MB\n"
    assert not hasattr(asked.pop("model"), "folding")
    assert asked == {
        "path": "m.onnx",
        "format": "onnx",
        "features": False,
        "precision": "float32",
        "class_names": ["cat", "dog", "tench", "bird", "eel"],
        "origin": "m.keras",
        "license": None,
        "inputs": "pixels",
        "outputs": "logits",
        "runtime": None,
        "resize_size": None,
        "exif_orientation": False,
        "is_exact": True,
    }

    arguments = "--fold --quantize int8 --origin here --license MIT"
    run_command(export, f"m.keras --format torch --out m.pt2 {arguments}")
    dense = asked["model"].get_layer("predictions")
    assert asked["model"].folding and dense.quantization_mode == "int8"
    assert (asked["precision"], asked["origin"], asked["license"]) == ("float32", "here", "MIT")
    assert not asked["is_exact"]

    Path("other.json").write_text(json.dumps(list("abcde")))
    arguments = "--quantize int8 --features --classes other.json"
    run_command(export, f"m.keras --format litert --out m.tflite {arguments}")
    dense = asked["model"].get_layer("predictions")
    assert dense.quantization_mode is None and asked["precision"] == "int8"
    assert asked["features"] is True and asked["class_names"] == list("abcde")
    assert not asked["is_exact"]

    run_command(export, "m.keras --format web --out site --quantize int8 --runtime node_modules")
    assert (asked["precision"], asked["runtime"]) == ("int8", "node_modules")
    assert not asked["is_exact"]


def test_photos_are_prepared_as_the_run_did(here, run_command, refused, asked):
    def prepared(line):
        assert not run_command(export, line)[0]
        return asked["resize_size"], asked["exif_orientation"]

    Path("config.yaml").write_text("data: {resize_size: 40, exif_orientation: true}\n")
    assert prepared(f"m.keras {ONNX}") == (40, True)
    assert prepared(f"m.keras {ONNX} --resize-size 50") == (50, True)
    assert prepared(f"m.keras {ONNX} --no-exif-orientation") == (40, False)
    Path("config.yaml").write_text("data: {resize_size: null}\n")
    assert prepared(f"m.keras {ONNX}") == (None, False)
    for text in ("", "data: imagenet\n", "- a\n"):  # another program's
        Path("config.yaml").write_text(text)
        assert prepared(f"m.keras {ONNX}") == (None, False)

    Path("m.onnx").unlink()
    for text, words in {
        "data: {resize_size: 40.5}": "must be a positive integer. Received: resize_size=40.5",
        "data: {resize_size: 31}": "must be at least 32, the model's side, not 31",
    }.items():
        Path("config.yaml").write_text(text)
        assert f"config.yaml: data.resize_size {words}" in refused(export, f"m.keras {ONNX}")
    Path("config.yaml").write_text("a: [")
    assert "config.yaml is no YAML file" in refused(export, f"m.keras {ONNX}")
    assert prepared(f"m.keras {ONNX} --resize-size 50 --exif-orientation") == (50, True)
    Path("m.onnx").unlink()
    error = refused(export, f"m.keras {ONNX} --resize-size 31 --exif-orientation")
    assert "--resize-size must be at least 32, the model's side, not 31" in error


def test_imagenets_weights_bring_names_origin_and_license(here, run_command, asked, monkeypatch):
    built = {}

    def constructor(**arguments):
        built.update(arguments)
        return keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3))

    monkeypatch.setattr(keras_smlp, "SMLPNetBase", constructor)
    assert not run_command(export, f"imagenet --variant base {ONNX}")[0]
    assert built == {"weights": "imagenet"}
    assert asked["class_names"][:2] == ["tench", "goldfish"] and asked["license"] == "MIT"
    assert asked["origin"].endswith("/smlp_b.pth")


def test_what_was_written_is_run(here, run_command, monkeypatch):
    written = []

    def write(model, path, *arguments):
        path.touch()
        written.append(model)

    def right(*arguments):
        probabilities = keras.Sequential([written[-1], keras.layers.Softmax()])
        return lambda images: {"probabilities": probabilities.predict_on_batch(images)}

    def wrong(*arguments):
        return lambda images: {"probabilities": images[:, 0, :5, 0]}

    def missing(*arguments):
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr(api, "write", write)
    monkeypatch.setattr(api, "write_in_subprocess", write)
    monkeypatch.setattr(api, "check", lambda *arguments: None)

    monkeypatch.setitem(runtimes.OPEN, "onnx", right)
    status, out, _ = run_command(export, "m.keras --format onnx --out a.onnx")
    assert not status and re.search(
        "run: probabilities differ by (0.0e.00|..*e-0[78]) of the largest", out
    )

    monkeypatch.setitem(runtimes.OPEN, "onnx", wrong)
    status, _, err = run_command(export, "m.keras --format onnx --out b.onnx")
    assert status == 2 and "b.onnx answers otherwise than the model" in err

    monkeypatch.setitem(runtimes.OPEN, "onnx", missing)
    status, out, _ = run_command(export, "m.keras --format onnx --out c.onnx")
    assert not status and "not run: onnxruntime is not installed" in out


def test_it_is_compared_with_the_models_own_answer(here, run_command, monkeypatch):
    """Not with what the export made of it: here a softmax on top, which the option asks for."""
    pytest.importorskip("torch", reason="writes ONNX")
    written = []

    def write(model, path, format, means, *rest):
        path.touch()
        written.append((model, means))

    def softmaxed(*arguments):
        model, means = written[-1]
        model = writing.endpoint(model, means._replace(outputs="logits"), False)
        return lambda images: model.predict_on_batch(images)

    monkeypatch.setattr(api, "write", write)
    monkeypatch.setattr(api, "write_in_subprocess", write)
    monkeypatch.setitem(runtimes.OPEN, "onnx", softmaxed)
    images = keras.Input((16, 32, 3))
    keras.Model(images, net(classifier_activation="softmax")(images)).save("m.keras")
    status, _, err = run_command(export, f"m.keras {ONNX}")
    assert status == 2 and "m.onnx answers otherwise than the model" in err
    assert written[-1][1] == ("pixels", "probabilities")
    keras.Model(images, keras.layers.Dense(5)(net()(images))).save("m.keras")
    status, out, _ = run_command(export, "m.keras --format onnx --out n.onnx --outputs logits")
    assert not status and written[-1][1] == ("pixels", "logits")
    status, _, err = run_command(export, "m.keras --format onnx --out o.onnx")
    assert status == 2 and written[-1][1] == ("pixels", "unknown")


@pytest.mark.deep
def test_a_folded_onnx_file_is_equal(here, run_command):
    if not all(map(importlib.util.find_spec, ("onnxscript", "onnxruntime"))):
        pytest.skip("needs onnxscript and onnxruntime")
    status, out, _ = run_command(export, f"m.keras {ONNX} --fold")
    *_, first, last = out.splitlines()
    assert not status and "m.onnx: onnx, 0." in first
    assert last.startswith("run: probabilities differ by")
    status, _, err = run_command(export, f"m.keras {ONNX} --fold")
    assert status == 2 and "--out must not exist yet" in err


def test_wrong_arguments_are_one_line_and_status_2(here, refused):
    pytest.importorskip("torch", reason="writes ONNX")
    Path("bad.keras").write_text("nothing")
    net(include_top=False).save("body.keras")
    images = keras.Input((16, 32, 3))
    flat = keras.layers.Flatten()(images)
    keras.Model(images, keras.layers.Dense(5)(flat)).save("plain.keras")
    before = sorted(here.iterdir())
    cases = {
        "m.keras --format tflite --out x": "argument --format: invalid choice",
        "m.keras --format onnx": "arguments are required: --out",
        f"no.keras {ONNX}": "MODEL names no file",
        f"bad.keras {ONNX}": "bad.keras",
        f"body.keras {ONNX}": "MODEL must be a classifier",
        f"x.pth {ONNX}": "MODEL names no file",
        f"m.keras {ONNX} --variant tiny": "--variant must not stand with a .keras",
        f"m.keras {ONNX} --quantize int4": "argument --quantize: invalid choice",
        f"m.keras {ONNX} --inputs rgb": "argument --inputs: invalid choice",
        f"m.keras {ONNX} --inputs normalized": "--inputs must not be 'normalized'",
        f"m.keras {ONNX} --precision bfloat16": "--precision must be one of",
        f"m.keras {ONNX} --precision float16 --quantize int8": (
            "--precision must not stand with --quantize"
        ),
        "m.keras --format onnx --out m": "--out must end in .onnx",
        f"plain.keras {ONNX} --features": "--features must be False for a model without",
        f"no.keras {ONNX} --runtime node_modules": "--runtime must stand with --format web",
        "m.keras --format onnx --out no/m.onnx": "in a folder that exists",
        f"m.keras {ONNX} --classes no.json": "--classes: no.json cannot be read (No such file",
        f"m.keras {ONNX} --classes .": "--classes: . cannot be read (Is a directory)",
        "m.keras --format web --out x --features": "--features must not stand with --format web",
        "m.keras --format onnx --out no/m.onnx ": "Received: --out='no/m.onnx'",
        f"imagenet --variant tiny {ONNX}": (
            "--variant must be one of ['small', 'base'] with imagenet, not 'tiny'"
        ),
    }
    for line, words in cases.items():
        assert words in refused(export, line)
    assert sorted(here.iterdir()) == before
