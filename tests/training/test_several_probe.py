"""The probe of several labels an image: against scikit-learn, and on a network's features."""

import re

import numpy as np
import pytest
from helpers.processes import TESTS
from helpers.training import SMALL, Run
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from keras_smlp.training import probe, several_probe

WEIGHTS = TESTS / "files_of_0_1_0" / "trained.keras"  # of 32 x 32 images and four classes


def clusters(images, classes=4, channels=12, seed=0):
    """Features with a place of each class added for each label, and the labels."""
    rng = np.random.default_rng(seed)
    places = np.random.default_rng(9).normal(size=(classes, channels))
    labels = (rng.random((images, classes)) < 0.4).astype("uint8")
    noise = 2 * rng.normal(size=(images, channels))
    return (labels @ places + noise).astype("float32"), labels


def mean_of(truth, scores):
    return 100 * np.mean(
        [average_precision_score(t, s) for t, s in zip(truth.T, scores.T, strict=True)]
    )


@pytest.mark.once
def test_both_are_those_of_scikit_learn(monkeypatch):
    (train, labels), (validation, truth) = clusters(300), clusters(200, seed=1)
    monkeypatch.setattr(probe, "CHUNK", 64 * len(train))
    near, line = several_probe.looks(train, labels, validation, truth, seed=0)
    judge = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda x: np.exp((1 - x) / 0.07)
    )
    votes = np.stack([x[:, 1] for x in judge.fit(train, labels).predict_proba(validation)], axis=1)
    assert near.name == "k-NN, 20 neighbors"
    assert near.map == pytest.approx(mean_of(truth, votes), abs=1e-3) and 45 < near.map < 95
    scaler = StandardScaler().fit(train)
    train, validation = scaler.transform(train), scaler.transform(validation)

    def regressed(strength, x, y, others):
        model = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=1000))
        return model.fit(x, y).decision_function(others)

    fitted, held = probe.held_out(labels.argmax(axis=1), seed=0)
    scores = {
        c: mean_of(labels[held], regressed(c, train[fitted], labels[fitted], train[held]))
        for c in probe.STRENGTHS
    }
    best = max(scores, key=scores.get)
    assert line.name == f"linear probe, C {best:g}" and len(set(scores.values())) > 1
    expected = mean_of(truth, regressed(best, train, labels, validation))
    assert line.map == pytest.approx(expected, abs=1e-3)
    assert re.fullmatch(r"linear probe, C \S+: mAP \d+\.\d{3}, \d+\.\d s", str(line))


@pytest.mark.once
def test_a_class_of_all_images_and_one_of_none_order_nothing(monkeypatch):
    (train, labels), (validation, truth) = clusters(60), clusters(20, seed=1)
    labels[:, 0], labels[:, 1], truth[:, 3] = 1, 0, 0
    found, converged = several_probe.scores(train, labels, validation, 1.0)
    assert not found[:, :2].any() and converged
    *_, line = several_probe.looks(train, labels, validation, truth, seed=0)
    monkeypatch.setattr(probe, "ITERATIONS", 1)
    *_, line = several_probe.looks(train, labels, validation, truth, seed=0)
    assert line.name.endswith(", not converged in 1 iterations")


@pytest.mark.quick_once
def test_of_the_features_of_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "STRENGTHS", (1.0,))  # five take seconds
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 4)) < 0.4).astype("uint8")
    bright = np.kron(labels.reshape(-1, 2, 2), np.ones((1, 16, 16), "uint8"))
    images = rng.integers(0, 100, (200, 32, 32), "uint8") + 100 * bright
    parts = {
        f"{name}_{kind}": values[part]
        for name, part in (("train", slice(120)), ("validation", slice(120, 200)))
        for kind, values in (("images", images), ("labels", labels))
    }
    np.savez(tmp_path / "a.npz", **parts)
    arguments = [*SMALL, "--model.patch_size=4", "--model.input_size=32", "--data.resize_size=32"]
    arguments += [f"--model.weights={WEIGHTS}", "--data.name=npz", f"--data.dir={tmp_path}/a.npz"]
    out = Run(tmp_path / "o", *arguments, "--train.loss=sigmoid", "--eval", "--eval.probe=true").out
    *_, head, near, line = out.splitlines()
    assert "16 features of 120 training and 80 validation images" in head
    chance = 100 * labels[120:].mean()
    for words, name in ((near, "k-NN, 20 neighbors"), (line, "linear probe, C 1")):
        found = float(re.fullmatch(rf"{name}: mAP (\S+), \S+ s", words)[1])
        assert chance + 10 < found <= 100
