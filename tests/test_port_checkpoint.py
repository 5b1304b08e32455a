"""tools/port_checkpoint.py as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import stand_in
from conftest import build

TOOL = Path(__file__).parents[1] / "tools" / "port_checkpoint.py"


def port(*arguments, folder):
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_and_back(checkpoint, tmp_path, micro):
    source = checkpoint("micro")
    chain = [source, *(tmp_path / f"m{x}" for x in (".keras", ".safetensors", ".weights.h5"))]
    chain.append(tmp_path / "back.pth")
    for before, after in zip(chain, chain[1:], strict=False):
        done = port(before, after, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "sMLPNet-custom" in done.stdout and "relative difference" in done.stdout
        assert "equal" in done.stdout and "depths=(1, 2, 3, 1)" in done.stdout
    x = stand_in.images("micro")
    np.testing.assert_array_equal(
        build(weights=chain[-1]).predict_on_batch(x), micro.predict_on_batch(x)
    )
    loaded = keras.saving.load_model(chain[1])
    np.testing.assert_allclose(loaded.predict_on_batch(x).sum(-1), 1, atol=1e-5)


def test_what_goes_wrong_is_one_line_and_status_2(checkpoint, tmp_path):
    source = checkpoint("micro")
    (tmp_path / "bad.pth").write_text("nothing")
    (tmp_path / "there.keras").write_text("precious")
    cases = [
        (["missing.pth", "m.keras"], "missing.pth"),
        ([source, "m.onnx"], "m.onnx must end in"),
        (["bad.pth", "m.keras"], "bad.pth is not a PyTorch file"),
        ([source, "there.keras"], "there.keras exists"),
        ([source, "m.keras", "--variant", "tiny"], "dim=16"),
        ([source, "m.keras", "--key", "model_ema"], "model_ema"),
        ([source, "missing/m.keras"], "missing"),
    ]
    for arguments, words in cases:
        done = port(*arguments, folder=tmp_path)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        last = done.stderr.strip().splitlines()[-1]
        assert words in last and "error" in last and "Traceback" not in done.stderr
    assert (tmp_path / "there.keras").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.pth", "there.keras"]


def test_a_difference_is_status_1(checkpoint, tmp_path, monkeypatch, capsys):
    sys.path.insert(0, str(TOOL.parent))
    try:
        import port_checkpoint
    finally:
        sys.path.pop(0)
    monkeypatch.setattr(port_checkpoint, "TOLERANCE", -1.0)
    target = tmp_path / "m.weights.h5"
    monkeypatch.setattr(sys, "argv", ["port_checkpoint", str(checkpoint("micro")), str(target)])
    assert port_checkpoint.main() == 1
    assert "DIFFERENT" in capsys.readouterr().out


@pytest.mark.slow
def test_a_published_variant_is_recognised(checkpoint, tmp_path):
    done = port(checkpoint("tiny"), "tiny.keras", "--variant", "tiny", folder=tmp_path)
    assert done.returncode == 0 and "sMLPNet-tiny" in done.stdout, done.stderr
