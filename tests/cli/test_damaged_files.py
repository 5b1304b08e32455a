"""The command lines and damaged files: one line that names the file, and nothing written."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.damage import flipped, halved
from helpers.nets import saved_in_each_format

import keras_smlp
from keras_smlp.training import config, network
from keras_smlp.weights import pth
from keras_smlp_cli import export, port, predict

pytestmark = pytest.mark.once


def small():
    return keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a small model in each format, to be in."""
    monkeypatch.chdir(tmp_path)
    saved_in_each_format(small(), tmp_path)
    Path("x.png").touch()
    return tmp_path


@pytest.mark.parametrize("ending", [".keras", ".pth", ".safetensors", ".weights.h5"])
def test_a_damaged_file(ending, refused, here):
    data = (here / f"model{ending}").read_bytes()
    changes = {"half": halved(data), "none": b"", "page": b"<html>"}
    if ending in (".keras", ".pth"):  # the others have no checksums
        changes["bit"] = flipped(data)
    for name, changed in changes.items():
        Path(f"{name}{ending}").write_bytes(changed)
        assert f"{name}{ending}" in refused(predict, f"x.png --weights {name}{ending}")
        assert f"{name}{ending}" in refused(port, f"{name}{ending} new.pth")
    assert not Path("new.pth").exists()


def test_files_of_keras_that_hold_no_classifier(refused, here):
    with pytest.warns(UserWarning, match="has not yet been built"):
        keras.Sequential([keras.layers.Dense(2)]).save("unbuilt.keras")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save("other.keras")
    with zipfile.ZipFile("other.keras") as file:
        entries = {name: file.read(name) for name in file.namelist()}
    layer = keras.saving.serialize_keras_object(keras.layers.Dense(2))
    entries["config.json"] = json.dumps(layer).encode()
    with zipfile.ZipFile("other.keras", "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    pytest.importorskip("tensorflow", reason="writes a SavedModel")
    lines = {predict: "x.png --weights {}", export: "{} --format tf_saved_model --out x"}
    for tool, line in lines.items():
        assert "must be a classifier" in refused(tool, line.format("unbuilt.keras"))
        error = refused(tool, line.format("other.keras"))
        assert "other.keras holds a Dense, which is no model" in error, error


def test_weights_that_are_not_finite_are_not_ported(refused, here):
    tensors = pth.read("model.pth")
    tensors["mlp_head.0.bias"][1] = np.nan
    pth.write("bad.pth", tensors)
    error = refused(port, "bad.pth new.keras")
    assert "bad.pth must be finite numbers. Received: mlp_head.0.bias with 1 of 3" in error
    assert not Path("new.keras").exists()


def test_pytorchs_other_endings_are_read_but_not_written(run_command, refused, here):
    Path("model.pth").rename("model.pt")
    assert run_command(port, "model.pt new.pth")[0] == 0
    assert "must end in one of ('.weights.h5', " in refused(port, "new.pth new.ckpt")


def test_names_cannot_move_the_terminal(refused, here):
    name = "a\x1b[2Jb"
    assert r"'a\x1b[2Jb.keras'" in refused(predict, f"x.png --weights '{name}.keras'")
    assert r"a\x1b[2Jb.pth" in refused(port, f"'{name}.pth' new.keras")


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "{}", "\xff", '"x"'])
def test_odd_names_of_classes(text, refused, here):
    Path("names.json").write_text(text, encoding="latin-1")
    line = "x.png --weights model.keras --classes names.json"
    error = refused(predict, line)
    assert "--classes must be a JSON" in error and "names.json" in error and len(error) < 400


def test_a_run_says_that_its_weights_are_of_another_architecture(here):
    own = config.ModelConfig(dim=16, depths=(1, 2), input_size=32, weights="model.keras")
    with pytest.raises(ValueError) as caught:
        network.build(own, 3, "float32")
    assert str(caught.value) == (
        "`weights` must be of the configured architecture, dim=16, depths=(1, 2). Received: "
        "model.keras with dim=8, depths=(1, 1) (set --model.dim, --model.depths, and "
        "--model.variant null)"
    )
    own = config.ModelConfig(dim=8, depths=(1, 1), input_size=32, weights="model.keras")
    net, left_out, trained_at = network.build(own, 3, "float32")
    assert (net.output_shape, left_out, trained_at) == ((None, 3), None, None)
