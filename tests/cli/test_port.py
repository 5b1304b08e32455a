"""`keras-smlp port` as a user runs it."""

from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.nets import answer, build, net
from helpers.processes import ROOT, python

import keras_smlp
from keras_smlp_cli import port
from reference import stand_in

pytestmark = pytest.mark.once


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_and_back(run_command, here, checkpoint, micro):
    files = [checkpoint("micro"), "m.keras", "m.safetensors", "m.weights.h5", "back.pth"]
    for before, after in pairwise(files):
        status, out, _ = run_command(port, f"{before} {after}")
        assert status == 0 and "sMLPNet-custom" in out and "depths=(1, 2, 3, 1)" in out
        assert "relative difference" in out and out.endswith("equal\n")
    x = stand_in.images("micro")
    np.testing.assert_array_equal(answer(build(weights="back.pth"), x), answer(micro, x))
    loaded = keras.saving.load_model("m.keras")
    np.testing.assert_allclose(answer(loaded, x).sum(-1), 1, atol=1e-5)


def test_weights_of_one_channel_become_those_of_gray(run_command, here):
    keras_smlp.save_official(net(input_shape=(16, 16, 1), include_preprocessing=False), "one.pth")
    for line in ("one.pth m.keras", "one.pth m.weights.h5", "m.keras m.pth"):
        status, out, _ = run_command(port, line)
        assert status == 0 and out.endswith("equal\n"), line
    assert keras_smlp.load_model("m.keras").input_shape == (None, 16, 16, 1)


def test_what_goes_wrong_is_one_line_and_status_2(refused, here, checkpoint):
    Path("bad.pth").write_text("nothing")
    Path("there.keras").write_text("precious")
    source = checkpoint("micro")
    cases = {
        "missing.pth m.keras": "missing.pth",
        "there.keras there.keras --force": "another file",
        f"{source} m.onnx": "m.onnx must end in",
        "bad.pth m.keras": "bad.pth is not a PyTorch file",
        f"{source} there.keras": "there.keras exists",
        f"{source} m.keras --variant tiny": "dim=16",
        f"{source} m.keras --key model_ema": "model_ema",
        f"{source} missing/m.keras": "missing",
    }
    for line, words in cases.items():
        assert words in refused(port, line)
    assert Path("there.keras").read_text() == "precious"
    assert sorted(p.name for p in here.iterdir()) == ["bad.pth", "there.keras"]


def test_a_difference_is_status_1(run_command, here, checkpoint, monkeypatch):
    monkeypatch.setattr(port, "TOLERANCE", -1.0)
    status, out, _ = run_command(port, f"{checkpoint('micro')} m.weights.h5")
    assert status == 1 and "DIFFERENT" in out


@pytest.mark.deep
def test_a_published_variant_is_recognized_by_the_command(checkpoint, tmp_path):
    script = ROOT / "tools" / "port_checkpoint.py"
    command = (script, checkpoint("small"), "small.keras", "--variant", "small")
    assert "sMLPNet-small" in python(*command, cwd=tmp_path).stdout
    last = keras.saving.load_model(tmp_path / "small.keras").layers[-4]
    assert (last.name, last.drop_path.rate) == ("stage4_block2_channel_mixing", 0.2)
