"""k-NN and the linear probe: against scikit-learn, and on the digits."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.processes import TESTS
from helpers.training import SMALL, Run, refused
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from keras_smlp.data import pipeline, sources
from keras_smlp.data.decode import BadFiles
from keras_smlp.training import engines, probe
from keras_smlp.training.parsing import parse

WEIGHTS = TESTS / "files_of_0_1_0" / "trained.keras"  # of 32 x 32 images and four classes
ARGUMENTS = [
    "--model.patch_size=4",
    "--model.dim=8",
    "--model.depths=[1,1]",
    "--model.input_size=32",
]
ARGUMENTS += ["--data.resize_size=32", f"--model.weights={WEIGHTS}"]


def clusters(images, classes=7, channels=12, spread=2.0, seed=0):
    """Features around a place of each class, and the classes."""
    rng = np.random.default_rng(seed)
    places = np.random.default_rng(9).normal(size=(classes, channels))
    labels = rng.integers(0, classes, images)
    return (places[labels] + spread * rng.normal(size=(images, channels))).astype("float32"), labels


def by_sklearn(train, labels, validation, neighbors):
    def weights(distance):
        return np.exp((1 - distance) / 0.07)

    judge = KNeighborsClassifier(neighbors, metric="cosine", algorithm="brute", weights=weights)
    return judge.fit(train, labels).predict(validation)


@pytest.mark.once
@pytest.mark.parametrize("rows", [1, 64, 10_000])
def test_the_nearest_vote_as_in_scikit_learn(rows, monkeypatch):
    (train, labels), (validation, _) = clusters(300), clusters(200, seed=1)
    monkeypatch.setattr(probe, "CHUNK", rows * len(train))
    expected = by_sklearn(train, labels, validation, 20)
    assert np.array_equal(probe.nearest(train, labels, validation, 7), expected)
    assert not np.array_equal(by_sklearn(train, labels, validation, 1), expected)


@pytest.mark.once
def test_of_few_images_all_vote():
    (train, labels), (validation, _) = clusters(9), clusters(50, seed=1)
    expected = by_sklearn(train, labels, validation, 9)
    assert np.array_equal(probe.nearest(train, labels, validation, 7), expected)


@pytest.mark.once
def test_a_feature_of_zeros_is_near_to_nothing():
    train = np.array([[1, 0], [0, 1], [0, 0]], "float32")
    assert probe.nearest(train, np.array([0, 1, 2]), train[:2], 3, neighbors=1).tolist() == [0, 1]


@pytest.mark.once
def test_the_probe_is_a_regression_with_the_penalty_that_held_out_images_choose():
    (train, labels), (validation, _) = clusters(300), clusters(200, seed=1)
    name, predicted = probe.linear(train, labels, validation, seed=0)
    strength = float(re.fullmatch(r"linear probe, C (\S+)", name)[1])
    scaler = StandardScaler().fit(train)
    train, validation = scaler.transform(train), scaler.transform(validation)
    model = LogisticRegression(C=strength, max_iter=1000).fit(train, labels)
    assert np.array_equal(predicted, model.predict(validation))
    fitted, held = probe.held_out(labels, seed=0)
    scores = {
        c: LogisticRegression(C=c, max_iter=1000)
        .fit(train[fitted], labels[fitted])
        .score(train[held], labels[held])
        for c in probe.STRENGTHS
    }
    assert strength == max(scores, key=scores.get) and len(set(scores.values())) > 1


@pytest.mark.once
def test_a_fifth_of_each_class_is_held_out(monkeypatch):
    labels = np.repeat([0, 1, 2, 3], [50, 10, 5, 4])
    fitted, held = probe.held_out(labels, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 2, 1, 0]
    assert sorted([*fitted, *held]) == list(range(69))
    assert np.array_equal(held, probe.held_out(labels, seed=0)[1])
    assert not np.array_equal(held, probe.held_out(labels, seed=1)[1])
    monkeypatch.setattr(probe, "TRIED", 20)
    assert sum(map(len, probe.held_out(labels, seed=0))) == 20


@pytest.mark.once
def test_one_class_and_a_fit_that_does_not_converge(monkeypatch):
    (train, labels), (validation, truth) = clusters(60), clusters(20, seed=1)
    name, predicted = probe.linear(train, np.full(60, 3), validation, seed=0)
    assert (name, set(predicted)) == ("linear probe, C 0.001", {3})
    monkeypatch.setattr(probe, "ITERATIONS", 1)
    *_, found = probe.looks(train, labels, validation, truth, seed=0)
    assert found.name.endswith(", not converged in 1 iterations")


@pytest.mark.once
def test_the_accuracies():
    truth, predicted = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2])
    found = probe.judged("x", predicted, truth, 3, 0.0)
    assert (found.accuracy, found.balanced) == (75, pytest.approx(100 * (2 / 3 + 1) / 2))
    found = probe.Found("x", 75.0, 83.33333, 1.25)
    assert str(found) == "x: accuracy 75.000, balanced accuracy 83.333, 1.2 s"


@pytest.mark.once
def test_only_images_that_can_be_decoded_have_features():
    pixels, labels = np.arange(6.0)[:, None], np.arange(6)
    indices = np.array([0, -1, 2, 3, -1, -1])
    rows = [(pixels[i : i + 2], labels[i : i + 2], indices[i : i + 2], None) for i in (0, 2, 4)]
    batches = SimpleNamespace(as_numpy_iterator=lambda: iter(rows))
    found, truth = probe.features(lambda x: np.concatenate([x, 2 * x], axis=1), batches)
    assert found.tolist() == [[0, 0], [2, 4], [3, 6]] and truth.tolist() == [0, 2, 3]
    assert found.dtype == np.float32
    with pytest.raises(ValueError, match="^data: no image of a split can be decoded, allowed: "):
        probe.features(lambda x: x, SimpleNamespace(as_numpy_iterator=lambda: iter(rows[2:])))


@pytest.mark.quick_once
def test_digits_by_the_features_of_a_network_with_another_head(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "STRENGTHS", (1.0,))  # five take seconds
    out = Run(tmp_path / "out", *ARGUMENTS, "--eval", "--eval.probe=true").out
    known, head, *found = out.splitlines()
    assert known.endswith("trained.keras is an sMLPNet (dim 8, depths 1, 1, 32 px, 4 classes)")
    text = "16 features of 1,437 training and 360 validation images"
    assert re.fullmatch(rf"\S+/trained.keras: {text}, \d+\.\d s", head)
    line = r"(.+): accuracy (\S+), balanced accuracy (\S+), \d+\.\d s"
    names, accuracies, balanced = zip(*(re.fullmatch(line, x).groups() for x in found), strict=True)
    assert names[0] == "k-NN, 20 neighbors" and names[1] == "linear probe, C 1"
    # the same by the file's own model and scikit-learn
    model = keras.models.load_model(WEIGHTS, compile=False)
    body = keras.Model(model.input, model.get_layer("avg_pool").output)
    source, recipe, parts = sources.load("digits"), parse([*SMALL, *ARGUMENTS]).data, []
    for split in (source.train, source.validation):
        batches = pipeline.validation_batches(split, recipe, 32, len(split), BadFiles())
        parts.append(body.predict(next(batches.as_numpy_iterator())[0], verbose=0))
    predicted = by_sklearn(parts[0], source.train.labels, parts[1], 20)
    by_hand = 100 * np.mean(predicted == source.validation.labels)
    assert float(accuracies[0]) == pytest.approx(by_hand, abs=0.3)  # one image of 360
    assert min(map(float, accuracies + balanced)) > 40  # by chance 10
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--eval.probe=true"], "eval.probe: true without --eval, allowed: false"),
        (
            ["--eval", "--eval.probe=true", "--eval.predictions=p.csv"],
            "eval.predictions: p.csv with eval.probe, allowed: null",
        ),
    ],
)
def test_what_does_not_go_together(arguments, line, capsys, tmp_path):
    output = f"--output_dir={tmp_path / 'out'}"
    error = refused(capsys, *SMALL, *ARGUMENTS, output, *arguments)
    assert error == f"train.py: error: {line}\n"


@pytest.mark.once
def test_several_processes_are_refused(capsys, tmp_path, monkeypatch):
    engine = engines.Engine()
    engine.processes = 2
    monkeypatch.setattr(engines, "start", lambda **_: engine)
    arguments = [*SMALL, *ARGUMENTS, f"--output_dir={tmp_path}", "--eval", "--eval.probe=true"]
    line = "eval.probe: true in 2 processes, allowed: in one alone"
    assert refused(capsys, *arguments) == f"train.py: error: {line}\n"
