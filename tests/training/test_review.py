"""What follows an evaluation: the halves, the temperature, and the report of a network."""

import html
import json
import shlex
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.html_pages import assert_stands_alone
from helpers.nets import answer, to_train, trained_like

pytest.importorskip("tensorflow", reason="train.py needs it")
pytest.importorskip("matplotlib", reason="train.py needs it")

import keras_smlp  # noqa: E402 - asked for first
from keras_smlp.analysis import explain, findings, page, several  # noqa: E402 - asked for first
from keras_smlp.training import (  # noqa: E402
    evaluation,
    network,
    review,
    several_labels,
    temperature,  # noqa: E402 - asked for first
)
from keras_smlp.training.engines import Engine  # noqa: E402
from keras_smlp.training.engines.base import joined  # noqa: E402
from keras_smlp.training.parsing import parse  # noqa: E402

pytestmark = pytest.mark.quick_once

NAMES = ("<script>", "b & c", '"d"', "e")
SMALL = ["--model.dim=8", "--model.depths=[1,1]", "--model.input_size=16", "--model.patch_size=2"]
SMALL += ["--data.resize_size=16"]


# ---- the temperature ----------------------------------------------------------------------------


def random_logits(count=301, classes=5):
    rng = np.random.default_rng(2)
    labels = rng.integers(0, classes, count) ** 2 // classes  # not equally many of each
    logits = 3 * rng.normal(size=(count, classes))
    logits[np.arange(count), labels] += 4
    return logits.astype("float32"), labels


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def cross_entropy(p, truth):
    return -np.where(truth, np.log(p), np.log(1 - p)).mean()


@pytest.mark.once
@pytest.mark.parametrize("several_labels", [False, True])
def test_a_sigmoid_is_fitted_by_the_binary_cross_entropy(several_labels):
    logits, labels = random_logits()
    truth = labels[:, None] == np.arange(5)
    if several_labels:
        truth |= np.random.default_rng(0).random(truth.shape) < 0.2
        labels = truth.argmax(axis=1)
    kept = temperature.Logits("sigmoid")
    for i in range(0, 301, 40):
        indices = np.arange(i, min(i + 40, 301))
        own, names = logits[indices], np.array([b""] * len(indices))
        pixels, rows = np.zeros((len(indices), 1, 1, 3), "uint8"), truth[indices].astype("uint8")
        right = (own >= 0) == rows
        of_several = several.Batch(indices, names, pixels, own, rows, right)
        kept.add(of_several if several_labels else batch(own, labels[indices], indices))
    fitted = kept.fit(Engine(), 0)
    chosen = temperature.half(np.stack([np.arange(301), labels], axis=1), 0)
    others = np.setdiff1d(np.arange(301), chosen)
    assert fitted.images == (151, 150)
    expected = keras_smlp.fit_temperature(logits[chosen], truth[chosen])
    assert fitted.temperature == pytest.approx(expected)
    for i, t in enumerate((1, fitted.temperature)):
        p = sigmoid(logits[others].astype("float64") / t)
        assert fitted.nll[i] == pytest.approx(cross_entropy(p, truth[others]))
        judged = (p.ravel(), truth[others].ravel())
        if not several_labels:
            judged = (p.max(axis=1), logits[others].argmax(axis=1) == labels[others])
        bins = findings.reliability(*judged)
        assert fitted.ece[i] == pytest.approx(findings.expected_calibration_error(bins))
    np.testing.assert_allclose(fitted.bins, bins)
    assert fitted.nll[1] < fitted.nll[0]
    assert f" on the other 150 binary cross entropy {fitted.nll[0]:.4f} -> " in str(fitted)


def batch(logits, labels, indices):
    logs = logits - np.log(np.exp(logits.astype("float64")).sum(axis=1, keepdims=True))
    predicted = logits.argmax(axis=1)
    names, pixels = np.array([b""] * len(labels)), np.zeros((len(labels), 1, 1, 3), "uint8")
    right = predicted == labels
    values = indices, names, pixels, logits.astype("float64"), logs, labels, predicted, right
    return findings.Batch(*values)


@pytest.mark.once
def test_the_halves_have_as_many_of_each_class():
    _, labels = random_logits()
    images = np.stack([np.arange(301), labels], axis=1)
    chosen = temperature.half(images, 0)
    assert len(chosen) == 151 and len(set(chosen.tolist())) == 151
    for k in range(5):
        total = (labels == k).sum()
        assert abs((labels[chosen] == k).sum() - total / 2) <= 0.5
    shuffled = images[np.random.default_rng(1).permutation(301)]
    assert temperature.half(shuffled, 0).tolist() == chosen.tolist()
    assert temperature.half(images, 1).tolist() != chosen.tolist()


@pytest.mark.once
def test_it_is_fitted_on_one_half_and_judged_on_the_other():
    logits, labels = random_logits()
    kept = temperature.Logits()
    for i in range(0, 301, 40):
        indices = np.arange(i, min(i + 40, 301))
        kept.add(batch(logits[indices], labels[indices], indices))
    fitted = kept.fit(Engine(), 0)
    chosen = temperature.half(np.stack([np.arange(301), labels], axis=1), 0)
    others = np.setdiff1d(np.arange(301), chosen)
    expected = keras_smlp.fit_temperature(logits[chosen], labels[chosen])
    assert fitted.temperature == pytest.approx(expected)
    assert fitted.images == (151, 150)
    for i, t in enumerate((1, fitted.temperature)):
        rows = logits[others].astype("float64") / t
        p = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
        assert fitted.nll[i] == pytest.approx(-np.log(p[np.arange(150), labels[others]]).mean())
        right = rows.argmax(axis=1) == labels[others]
        bins = findings.reliability(p.max(axis=1), right)
        assert fitted.ece[i] == pytest.approx(findings.expected_calibration_error(bins))
    np.testing.assert_allclose(fitted.bins, bins)
    assert str(fitted).startswith(f"temperature {fitted.temperature:.4g}, from 151 validation im")


class Thread(Engine):
    """One of two processes, as a thread."""

    processes, shared, barrier = 2, [None, None], threading.Barrier(2)

    def __init__(self, rank):
        self.rank = rank

    def gather(self, rows):
        self.shared[self.rank] = rows
        self.barrier.wait(60)
        found = joined(list(self.shared))
        self.barrier.wait(60)
        return found


@pytest.mark.once
def test_several_processes_fit_the_same():
    logits, labels = random_logits()
    alone = temperature.Logits()
    alone.add(batch(logits, labels, np.arange(301)))
    expected = alone.fit(Engine(), 3)

    def fit(rank):
        own, kept = np.arange(rank, 301, 2), temperature.Logits()
        kept.add(batch(logits[own], labels[own], own))
        return kept.fit(Thread(rank), 3)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(fit, (0, 1)))
    assert found[0].temperature == found[1].temperature
    assert found[0].temperature == pytest.approx(expected.temperature, rel=1e-9)
    assert found[0].images == expected.images
    assert found[0].nll == pytest.approx(expected.nll)
    assert found[0].ece == pytest.approx(expected.ece)


@pytest.mark.once
def test_a_single_image_has_no_other_half():
    kept = temperature.Logits()
    kept.add(batch(*(x[:1] for x in random_logits()), np.arange(1)))
    with pytest.raises(ValueError, match="no other half"):
        kept.fit(Engine(), 0)


# ---- a network ----------------------------------------------------------------------------------


class Images:
    """Validation images in batches of 16, some of them left out.

    Args:
        net: A network of four classes.
        wrong: Every how manieth image has another label than the network's answer; 0 for none.
        labels: Several labels each, instead.
    """

    def __init__(self, net, wrong=3, labels=None):
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (64, 16, 16, 3), "uint8")
        self.answers = answer(net, self.pixels).astype("float64")
        other = wrong and np.arange(64) % wrong == 0
        self.labels = ((self.answers.argmax(axis=1) + other) % 4).astype("int32")
        self.indices = np.where(np.arange(64) % 11, np.arange(64), -1)
        self.names = np.array([f'/d/it\'s "{i}" <b>.png'.encode() for i in range(64)], object)
        self.several = False
        if labels is not None:
            self.labels, self.several = labels, True

    def as_numpy_iterator(self):
        for i in range(0, 64, 16):
            parts = self.pixels, self.labels, self.indices, self.names
            yield tuple(x[i : i + 16] for x in parts)


@pytest.fixture(scope="module")
def net():
    return trained_like(to_train())


class Bad(dict):
    names = {"/x/<u>.jpg": "no <image>"}


def reviewed(net, images, folder, *options):
    """A `Review` after an evaluation, and the score."""
    (folder / "w.keras").touch()
    arguments = [f"--output_dir={folder}", f"--model.weights={folder / 'w.keras'}", "--eval"]
    config = parse([*SMALL, *arguments, *options])
    engine = Engine()
    made = review.review_of(config, engine, SimpleNamespace(**vars(images), class_names=NAMES))
    judge = several_labels.evaluate if images.several else evaluation.evaluate
    score = judge(engine.forward(net), images, engine, NAMES, observers=made.observers)
    return made, score


def test_the_report_of_an_evaluation(net, tmp_path):
    images = Images(net)
    made, score = reviewed(net, images, tmp_path)
    weights = "runs/it's <mine>.keras"
    made.report(tmp_path / "r.html", score, net, weights, Bad())
    read = assert_stands_alone((tmp_path / "r.html").read_text("utf-8"))
    assert {"w.keras", "r.html"} == {path.name for path in tmp_path.iterdir()}
    kept, answers = images.indices >= 0, images.answers
    wrong = np.flatnonzero(kept & (answers.argmax(axis=1) != images.labels))
    for words in (*NAMES, weights, "/x/<u>.jpg: no <image>", "keras-smlp predict"):
        assert words in read.text
    assert f"{100 * (1 - len(wrong) / kept.sum()):.2f}%" in read.text
    assert "Curves" not in read.text and "trained on" not in read.text
    # the worst errors
    pictures = [x["src"] for tag, x in read.elements if tag == "img"]
    assert len(pictures) == 2 * len(wrong) == 40
    shifted = np.exp(answers - answers.max(axis=1, keepdims=True))
    losses = -np.log(shifted[np.arange(64), images.labels] / shifted.sum(axis=1))
    worst = sorted(wrong, key=lambda i: -losses[i])
    names = [read.text.index(f'/d/it\'s "{i}" <b>.png') for i in worst]
    assert names == sorted(names)
    pixels = images.pixels[worst]
    assert page.data_uri(page.enlarged(pixels[0]), False) == pictures[0]
    # where the network looked, in a larger size than that of `explain`
    heat = explain.grad_cam(net, pixels, answers[worst].argmax(axis=1))
    found = made.looked_at(net)
    assert found.shape == (20, 128, 128)
    np.testing.assert_allclose(found.reshape(20, 16, 8, 16, 8).mean((2, 4)), heat, atol=0.15)
    assert np.corrcoef(found[:, 4::8, 4::8].ravel(), heat.ravel())[0, 1] > 0.98


def test_a_calibrated_network_answers_with_its_logits_divided(tmp_path):
    own = trained_like(to_train())
    images = Images(own)
    made, score = reviewed(own, images, tmp_path, "--eval.calibrate=true")
    sentence = made.calibrate(own, network.with_probabilities(own))
    assert sentence.startswith("eval.calibrate: temperature ")
    assert sentence.endswith(f"; saved as {tmp_path}/calibrated.keras")
    saved = keras.saving.load_model(tmp_path / "calibrated.keras")
    expected = images.answers / made.fitted.temperature
    expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answer(saved, images.pixels), expected, rtol=1e-5, atol=1e-6)
    assert (tmp_path / "classes.json").read_text() == json.dumps(NAMES)
    made.report(tmp_path / "r.html", score, own, "w.keras", Bad())
    read = assert_stands_alone((tmp_path / "r.html").read_text("utf-8"))
    assert f"Fitted: {made.fitted}." in read.text
    assert f"{made.fitted.nll[0]:.4f}{made.fitted.nll[1]:.4f}" in read.text
    assert f"--weights {tmp_path}/calibrated.keras" in read.text


@pytest.mark.quick_each
def test_the_report_and_the_temperature_of_several_labels(tmp_path):
    own = trained_like(to_train())
    # as its answers, a third of them otherwise; the class that is named least has no image
    answers = Images(own).answers
    labels = (answers >= 0) ^ (np.random.default_rng(1).random((64, 4)) < 0.3)
    missing = int(answers.mean(axis=0).argmin())
    labels[:, missing] = False
    images = Images(own, labels=labels.astype("uint8"))
    options = ("--train.loss=sigmoid", "--eval.calibrate=true")
    made, score = reviewed(own, images, tmp_path, *options)
    before = made.findings.of_classes
    saved = network.with_probabilities(own, "sigmoid")
    sentence = made.calibrate(own, saved)
    assert " binary cross entropy " in sentence
    found = keras.saving.load_model(tmp_path / "calibrated.keras")
    expected = sigmoid(images.answers / made.fitted.temperature)
    np.testing.assert_allclose(answer(found, images.pixels), expected, rtol=1e-5, atol=1e-6)
    made.report(tmp_path / "r.html", score, own, "w.keras", Bad())
    read = assert_stands_alone((tmp_path / "r.html").read_text("utf-8"))
    kept, p = images.indices >= 0, sigmoid(images.answers)
    assert before()[0].tolist() == labels[kept].sum(axis=0).tolist()
    for words in (f"mAP{score.map:.2f}%", f"F1 at 0.5{score.f1:.2f}%", "classes in the mAP3"):
        assert words in read.text
    loss = cross_entropy(p[kept], labels[kept])
    assert f"loss (binary cross entropy){loss:.4f}" in read.text
    bins = findings.reliability(p[kept].ravel(), labels[kept].ravel())
    error = findings.expected_calibration_error(bins)
    assert f"calibration error{100 * error:.2f}%" in read.text
    assert f"Fitted: {made.fitted}." in read.text and "There is no confusion matrix" in read.text
    assert f"Without an image, and not in this table: {NAMES[missing]}." in read.text
    losses = -np.where(labels, np.log(p), np.log(1 - p))
    wrong = ((p >= 0.5) != labels) & kept[:, None]
    worst = sorted(np.flatnonzero(wrong.any(axis=1)), key=lambda i: -losses[i].mean())
    assert f"24 of {len(worst)} errors, images with a label that is wrong or missing" in read.text
    names = [read.text.index(f'/d/it\'s "{i}" <b>.png') for i in worst[:24]]
    assert names == sorted(names) and read.text.count("<b>.png") == 24
    # where the network looked, for the class with the largest loss
    heat = explain.grad_cam(own, images.pixels[worst[:24]], losses[worst[:24]].argmax(axis=1))
    maps = made.looked_at(own)
    assert np.corrcoef(maps[:, 4::8, 4::8].ravel(), heat.ravel())[0, 1] > 0.98
    assert f"--weights {tmp_path}/calibrated.keras" in read.text


@pytest.mark.once
def test_of_right_labels_alone_there_is_no_error(net, tmp_path):
    labels = (Images(net).answers >= 0).astype("uint8")
    made, score = reviewed(net, Images(net, labels=labels), tmp_path, "--train.loss=sigmoid")
    made.report(tmp_path / "r.html", score, net, "w.keras", Bad())
    read = assert_stands_alone((tmp_path / "r.html").read_text("utf-8"))
    assert "Worst errors" not in read.text and "F1 at 0.5100.00%" in read.text


@pytest.mark.once
def test_other_classes_in_the_folder_are_refused(net, tmp_path):
    (tmp_path / "classes.json").write_text('["cat"]')
    made, _ = reviewed(net, Images(net), tmp_path, "--eval.calibrate=true")
    with pytest.raises(ValueError, match=r"^output_dir: .*classes.json names other classes, allo"):
        made.calibrate(net, net)
    (tmp_path / "classes.json").write_text("[")
    with pytest.raises(
        ValueError, match=r"^output_dir: .*classes.json is no JSON .*another folder"
    ):
        made.calibrate(net, net)
    assert not (tmp_path / "calibrated.keras").exists()


@pytest.mark.once
def test_without_an_error_there_is_no_temperature(net, tmp_path):
    made, score = reviewed(net, Images(net, wrong=0), tmp_path, "--eval.calibrate=true")
    sentence = made.calibrate(net, net)
    assert sentence == (
        "eval.calibrate: no temperature is best for these images: every image is judged rightly: "
        "the lower it is, the better"
    )
    assert made.fitted is None and not (tmp_path / "calibrated.keras").exists()
    made.report(tmp_path / "r.html", score, net, "w.keras", Bad())
    read = assert_stands_alone((tmp_path / "r.html").read_text("utf-8"))
    assert sentence in read.text and "No image was judged wrongly." in read.text
    assert "Worst errors" not in read.text


@pytest.mark.once
@pytest.mark.parametrize("weights", ["imagenet", "it's mine.keras"])
def test_the_commands_are_those_of_the_weights(weights):
    arguments = ["--model.variant=small", "--model.dim=null", "--model.depths=null"]
    arguments += ["--model.input_size=224", "--data.resize_size=null"]
    config = parse([*arguments, "--data.exif_orientation=true"])
    program = review.uses(config, weights, 224)
    text = html.unescape(program)
    name = shlex.quote(weights)
    variant = " --variant small" * (weights == "imagenet")
    view = " --resize-size 256 --exif-orientation"
    assert f"keras-smlp predict photo.jpg --weights {name}{variant}{view}" in text
    options = f"{variant}{view} --format onnx --out model.onnx"
    assert f"keras-smlp export {name}{options}" in text
    load = "SMLPNetSmall(weights=" if variant else 'load_model("it\'s mine.keras")'
    assert f"model = keras_smlp.{load}" in text
    assert 'load_image("photo.jpg", 224, 256, exif_orientation=True)' in text
    text = html.unescape(review.uses(config, weights, 192, 10))
    assert 'resize_weights(model, (224, 224, 3))\nmodel.save("resized.keras")' in text
    assert "keras-smlp predict photo.jpg --weights resized.keras --classes classes.json" in text
