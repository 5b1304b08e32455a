"""tools/port_checkpoint.py as a user runs it."""

import keras
import numpy as np
import port_checkpoint
import pytest
from helpers.nets import answer, build
from helpers.processes import python

from reference import stand_in

pytestmark = pytest.mark.once


def test_there_and_back(run_tool, checkpoint, tmp_path, micro, capsys):
    source = checkpoint("micro")
    chain = [source, *(tmp_path / f"m{x}" for x in (".keras", ".safetensors", ".weights.h5"))]
    chain.append(tmp_path / "back.pth")
    for before, after in zip(chain, chain[1:], strict=False):
        assert run_tool(port_checkpoint, before, after) == 0
        printed = capsys.readouterr().out
        assert "sMLPNet-custom" in printed and "depths=(1, 2, 3, 1)" in printed
        assert "relative difference" in printed and printed.endswith("equal\n")
    x = stand_in.images("micro")
    np.testing.assert_array_equal(answer(build(weights=chain[-1]), x), answer(micro, x))
    loaded = keras.saving.load_model(chain[1])
    np.testing.assert_allclose(answer(loaded, x).sum(-1), 1, atol=1e-5)


def test_what_goes_wrong_is_one_line_and_status_2(
    run_tool, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    source = checkpoint("micro")
    (tmp_path / "bad.pth").write_text("nothing")
    (tmp_path / "there.keras").write_text("precious")
    cases = [
        (["missing.pth", "m.keras"], "missing.pth"),
        (["there.keras", "there.keras", "--force"], "another file"),
        ([source, "m.onnx"], "m.onnx must end in"),
        (["bad.pth", "m.keras"], "bad.pth is not a PyTorch file"),
        ([source, "there.keras"], "there.keras exists"),
        ([source, "m.keras", "--variant", "tiny"], "dim=16"),
        ([source, "m.keras", "--key", "model_ema"], "model_ema"),
        ([source, "missing/m.keras"], "missing"),
    ]
    for arguments, words in cases:
        assert run_tool(port_checkpoint, *arguments) == 2, arguments
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in last and "error" in last
    assert (tmp_path / "there.keras").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.pth", "there.keras"]


def test_a_difference_is_status_1(run_tool, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(port_checkpoint, "TOLERANCE", -1.0)
    assert run_tool(port_checkpoint, checkpoint("micro"), tmp_path / "m.weights.h5") == 1
    assert "DIFFERENT" in capsys.readouterr().out


@pytest.mark.deep
def test_a_published_variant_is_recognized_by_the_command(checkpoint, tmp_path):
    command = (port_checkpoint.__file__, checkpoint("small"), "small.keras", "--variant", "small")
    assert "sMLPNet-small" in python(*command, cwd=tmp_path).stdout
    last = keras.saving.load_model(tmp_path / "small.keras").layers[-4]
    assert (last.name, last.drop_path.rate) == ("stage4_block2_channel_mixing", 0.2)
