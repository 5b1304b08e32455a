"""benchmarks/predict.py: it names the photos, and says what that takes beside the network."""

import re

import pytest
from helpers import photos

import keras_smlp
from benchmarks import predict

pytestmark = pytest.mark.once


def test_it_says_both_times(tmp_path, monkeypatch, capsys):
    def small():
        return keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3))

    monkeypatch.setattr(keras_smlp, "SMLPNetTiny", small)
    folder = photos.folder(tmp_path / "data", train=1, validation=1)
    line = ["predict", str(folder), "--photos", "7", "--rounds", "2"]
    monkeypatch.setattr("sys.argv", line)
    predict.main()
    lines = capsys.readouterr().out.splitlines()
    form = r"\w+, tiny, 7 photos: network (\S+) s, whole (\S+) s, ratio (\S+)"
    for network, whole, ratio in (re.fullmatch(form, line).groups() for line in lines):
        assert 0 < float(network) < float(whole) and float(ratio) > 1
    assert len(lines) == 2
