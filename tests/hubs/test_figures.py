"""Tests of what a model card says of a run, read from the files that a run leaves."""

import re

import pytest
import yaml

from keras_smlp.hubs import figures

pytestmark = pytest.mark.once

SUMMARY = """# Summary

- result: `* Acc@1 62.500 Acc@5 90.000 loss 1.250` on 1200 images
- balanced accuracy: 61.000, the mean over the classes
- best epoch: 2 of 3 (averaged weights)
- parameters: 288,674
- backend: torch, Keras 3.15.1, Python 3.11.7
- command: `keras-smlp train --data.dir /home/someone/photos`

| epoch | learning_rate |
|---|---|
"""
HISTORY = """epoch,loss,val_loss,val_accuracy,val_top5,ema_loss,ema_accuracy,ema_top5
1,3,2.5,0.1,0.2,2.9,0.05,0.15
2,2,1.5,0.6,0.8,1.25,0.625,0.9
3,1,1.4,0.61,0.81,1.3,0.62,0.89
"""
CONFIG = {
    "output_dir": "/home/someone/runs",
    "data": {"name": "folder", "dir": "/home/someone/photos", "resize_size": 64, "threads": 8},
    "model": {"variant": "small", "weights": "/home/someone/smlp_s.pth"},
    "train": {"epochs": 3, "logger": "none"},
    "eval": {"real_labels": "/home/someone/real.json"},
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "summary.md").write_text(SUMMARY)
    (tmp_path / "history.csv").write_text(HISTORY)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "curves.png").write_bytes(b"")
    return tmp_path


def test_the_best_model_has_the_scores_of_its_epoch_and_weights(run):
    found = figures.read(run / "best.keras")
    assert found.metrics == [
        ("accuracy", "top-1 accuracy, %", 62.5),
        ("accuracy", "top-5 accuracy, %", 90.0),
        ("loss", "loss", 1.25),
    ]
    assert found.images == 1200 and found.curves == run / "curves.png"
    assert list(found.facts) == ["balanced accuracy", "best epoch", "backend"]


def test_the_last_models_have_those_of_the_last_epoch(run):
    last, ema = (figures.read(run / name) for name in ("last.keras", "ema.keras"))
    assert [value for *_, value in last.metrics] == [61.0, 81.0, 1.4]
    assert [value for *_, value in ema.metrics] == [62.0, 89.0, 1.3]
    assert "balanced accuracy" not in last.facts and "backend" in last.facts


def test_nothing_is_said_of_what_was_not_measured(run, tmp_path):
    calibrated = figures.read(run / "calibrated.keras")
    assert calibrated.metrics == [] and calibrated.config
    assert figures.read(run / "other.keras") == figures.read("imagenet") == figures.Figures()
    # the run went on after its summary
    (run / "history.csv").write_text(HISTORY + "4,1,1.3,0.7,0.9,1.2,0.7,0.9\n")
    assert figures.read(run / "best.keras").metrics == []
    assert figures.read(run / "last.keras").metrics[0][2] == 70.0
    (run / "summary.md").unlink()
    assert figures.read(run / "best.keras").metrics == []
    assert figures.read(tmp_path / "elsewhere" / "best.keras") == figures.Figures()


ODD = {
    "data: [1]": "data must be a section of keys. Received: data=[1]",
    "model: x": "model must be a section of keys. Received: model='x'",
    "train: 1": "train must be a section of keys. Received: train=1",
    **{
        f"data: {{resize_size: {x}}}": "data.resize_size must be a positive integer. Received: "
        for x in ("'64'", 64.5, "true", 0, "[64, 64]", "print(1)")
    },
}


@pytest.mark.parametrize("text", ODD)
def test_odd_configurations_are_refused_with_the_file(run, text):
    (run / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{run / 'config.yaml'}: {ODD[text]}")):
        figures.read(run / "best.keras")


def test_empty_sections_are_none(run):
    (run / "config.yaml").write_text("data:\nmodel:\ntrain:\noutput_dir: x\n")
    assert figures.read(run / "best.keras").config == {}


def test_odd_histories(run):
    (run / "history.csv").write_text(HISTORY.replace("0.625", "abc"))
    said = f"{run / 'history.csv'}: ema_accuracy must be a number. Received: ema_accuracy='abc'"
    with pytest.raises(ValueError, match=re.escape(said)):
        figures.read(run / "best.keras")
    assert figures.read(run / "other.keras") == figures.Figures()
    (run / "summary.md").write_text(SUMMARY.replace("2 of 3", "0 of 3"))
    assert figures.read(run / "best.keras").metrics == []
    (run / "history.csv").write_text("a,b\n" + "1" * 200_000 + ",2\n")  # more than csv reads
    assert figures.read(run / "last.keras") == figures.Figures()


def test_the_configuration_has_no_paths(run):
    assert figures.read(run / "best.keras").config == {
        "data": {"name": "folder", "resize_size": 64},
        "model": {"variant": "small", "weights": "smlp_s.pth"},
        "train": {"epochs": 3},
    }
