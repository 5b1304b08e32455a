"""The peer (the official recipe in PyTorch and PIL) and the comparison of the pipelines run."""

import re

import keras
import pytest
from helpers.photos import folder
from helpers.processes import ROOT, python

for package in ("tensorflow", "yaml"):
    pytest.importorskip(package, reason=f"the peer reads train.py's configuration by {package}")
if keras.backend.backend() != "torch":
    pytest.skip("the peer is PyTorch's", allow_module_level=True)


@pytest.mark.deep
def test_the_peer_trains(tmp_path):
    config = ROOT / "configs" / "smoke.yaml"
    done = python("-m", "reference.train", "--config", config, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and lines[0].startswith("epoch 1/2: loss 2.3")
    assert re.fullmatch(r"\* Acc@1 \d+\.\d{3} Acc@5 \d+\.\d{3} loss 2\.\d{3}", lines[2])


@pytest.mark.deep
def test_the_pipelines_are_compared(tmp_path):
    photos = folder(tmp_path / "photos")
    done = python("-m", "benchmarks.data", photos, "--rounds=1", "--images=192", cwd=tmp_path)
    lines = done.stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[:2] for row in rows] == [
        ["training", "keras_smlp"],
        ["training", "keras_smlp, scaled decoding"],
        ["training", "PIL"],
        ["evaluation", "keras_smlp"],
        ["evaluation", "PIL"],
    ]
    assert all(float(row[5]) > 0 for row in rows) and rows[2][6] == rows[4][6] == "1.00"
    assert [bool(row[4]) for row in rows] == [True, True, False, True, False]
