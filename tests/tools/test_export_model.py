"""tools/export_model.py as a user runs it."""

import importlib.util
import json
from pathlib import Path

import export_model
import keras
import pytest
from helpers.nets import net

import keras_smlp
from keras_smlp.deploy.export import api, runtimes

pytestmark = pytest.mark.quick_once

NAMES = ["cat", "dog", "n01440764", "bird", "eel"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model and the names of its classes, to be in."""
    monkeypatch.chdir(tmp_path)
    net().save("m.keras")
    Path("classes.json").write_text(json.dumps(NAMES))
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What the package is asked to export: nothing is, but a file is there afterwards."""
    found = {}

    def export(model, path, format, **arguments):
        found.update(arguments, model=model, path=path, format=format)
        Path(path).write_bytes(bytes(2_500_000))
        return Path(path)

    monkeypatch.setattr(keras_smlp, "export", export)
    return found


def test_the_tool_knows_the_formats():
    assert tuple(api.FORMATS) == export_model.FORMATS == tuple(runtimes.OPEN)


def test_arguments_reach_the_export(here, run_tool, asked, monkeypatch, capsys):
    compared = []
    monkeypatch.setattr(export_model, "compare", lambda *x, **y: compared.append((*x, y)))
    assert not run_tool(export_model, "m.keras", "--format", "onnx", "--out", "m.onnx")
    model = asked.pop("model")
    assert not hasattr(model, "folding") and compared[-1][4] == {"is_exact": True}
    assert asked == {
        "path": "m.onnx",
        "format": "onnx",
        "features": False,
        "precision": "float32",
        "class_names": ["cat", "dog", "tench", "bird", "eel"],
        "origin": "m.keras",
        "license": None,
    }
    assert capsys.readouterr().out == "m.onnx: onnx, 2.5 MB\n"

    arguments = ("--fold", "--quantize", "int8", "--origin", "here", "--license", "MIT")
    run_tool(export_model, "m.keras", "--format", "torch", "--out", "m.pt2", *arguments)
    dense = asked["model"].get_layer("predictions")
    assert asked["model"].folding and dense.quantization_mode == "int8"
    assert (asked["precision"], asked["origin"], asked["license"]) == ("float32", "here", "MIT")
    assert compared[-1][4] == {"is_exact": False}

    arguments = ("--quantize", "int8", "--features", "--classes", "other.json")
    Path("other.json").write_text(json.dumps(list("abcde")))
    run_tool(export_model, "m.keras", "--format", "litert", "--out", "m.tflite", *arguments)
    dense = asked["model"].get_layer("predictions")
    assert dense.quantization_mode is None and asked["precision"] == "int8"
    assert asked["features"] is True and asked["class_names"] == list("abcde")
    assert compared[-1][4] == {"is_exact": False}


def test_imagenets_weights_bring_names_origin_and_license(here, run_tool, asked, monkeypatch):
    monkeypatch.setattr(export_model, "compare", lambda *x, **y: None)
    built = {}

    def constructor(**arguments):
        built.update(arguments)
        return keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3))

    monkeypatch.setattr(keras_smlp, "SMLPNetBase", constructor)
    arguments = ("--variant", "base", "--format", "onnx", "--out", "m.onnx")
    assert not run_tool(export_model, "imagenet", *arguments)
    assert built == {"weights": "imagenet"}
    assert asked["class_names"][:2] == ["tench", "goldfish"] and asked["license"] == "MIT"
    assert asked["origin"].endswith("/smlp_b.pth")


def test_what_was_written_is_run(here, run_tool, monkeypatch, capsys):
    answers = {}

    def write(model, path, *arguments):
        path.touch()
        answers["right"] = model.predict_on_batch

    monkeypatch.setattr(api, "write", write)
    monkeypatch.setattr(api, "elsewhere", write)
    monkeypatch.setattr(api, "check", lambda *arguments: None)
    softmax = lambda x: keras.ops.convert_to_numpy(keras.ops.softmax(x))  # noqa: E731
    monkeypatch.setitem(
        runtimes.OPEN,
        "onnx",
        lambda *x: lambda images: {"probabilities": softmax(answers["right"](images))},
    )
    command = ("m.keras", "--format", "onnx", "--out")
    assert not run_tool(export_model, *command, "a.onnx")
    assert "run: probabilities differ by 0.0e+00 of the largest" in capsys.readouterr().out

    monkeypatch.setitem(
        runtimes.OPEN, "onnx", lambda *x: lambda images: {"probabilities": images[:, 0, :5, 0]}
    )
    assert run_tool(export_model, *command, "b.onnx") == 2
    assert "b.onnx answers otherwise than the model" in capsys.readouterr().err

    def missing(*arguments):
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setitem(runtimes.OPEN, "onnx", missing)
    assert not run_tool(export_model, *command, "c.onnx")
    assert "not run: onnxruntime is not installed" in capsys.readouterr().out


@pytest.mark.deep
def test_a_folded_onnx_file_is_equal(here, run_tool, capsys):
    for package in ("onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    command = ("m.keras", "--format", "onnx", "--out", "m.onnx", "--fold")
    assert not run_tool(export_model, *command)
    lines = capsys.readouterr().out.splitlines()
    assert "m.onnx: onnx, 0." in lines[-2] and lines[-1].startswith("run: probabilities differ by")
    assert run_tool(export_model, *command) == 2
    assert "`path` must not exist yet" in capsys.readouterr().err


def test_wrong_arguments_are_one_line_and_status_2(here, run_tool, capsys):
    Path("bad.keras").write_text("nothing")
    net(include_top=False).save("body.keras")
    onnx = ("--format", "onnx", "--out", "m.onnx")
    cases = [
        (["m.keras", "--format", "tflite", "--out", "x"], "argument --format: invalid choice"),
        (["m.keras", "--format", "onnx"], "arguments are required: --out"),
        (["no.keras", *onnx], "MODEL names no file"),
        (["bad.keras", *onnx], "bad.keras"),
        (["body.keras", *onnx], "`model` must be a classifier"),
        (["x.pth", *onnx], "MODEL names no file"),
        (["m.keras", *onnx, "--variant", "tiny"], "--variant must not stand with a .keras"),
        (["m.keras", *onnx, "--quantize", "int4"], "argument --quantize: invalid choice"),
        (["m.keras", *onnx, "--precision", "bfloat16"], "`precision` must be one of"),
        (
            ["m.keras", *onnx, "--precision", "float16", "--quantize", "int8"],
            "--precision must not stand with --quantize",
        ),
        (["m.keras", "--format", "onnx", "--out", "m"], "`path` must end in .onnx"),
        (["m.keras", "--format", "onnx", "--out", "no/m.onnx"], "in a folder that exists"),
        (["m.keras", *onnx, "--classes", "no.json"], "no.json"),
    ]
    for arguments, words in cases:
        assert run_tool(export_model, *arguments) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1) and words in err, (arguments, err)
        assert err.startswith("export_model.py: error: ")
    assert sorted(x.name for x in here.iterdir()) == [
        "bad.keras",
        "body.keras",
        "classes.json",
        "m.keras",
    ]
