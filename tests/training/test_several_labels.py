"""Several labels an image: the score against scikit-learn and NumPy, the loss, a run."""

import csv
import json
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.html_pages import assert_stands_alone
from helpers.training import SMALL, Run, refused
from keras import ops
from sklearn import metrics

from keras_smlp.analysis import several as several_findings
from keras_smlp.deploy.export.meaning import meaning
from keras_smlp.training import evaluation, losses, several_labels
from keras_smlp.training.parsing import parse

ENGINE = SimpleNamespace(sum=lambda values: values, gather=lambda rows: rows, is_main=True)
CLASSES = ("a", "b", "c", "d")
LINE = re.compile(r"^\* mAP (\d+\.\d{3}) F1 (\d+\.\d{3}) loss (\d+\.\d{4})$", re.MULTILINE)


class Batches:
    """Logits instead of images: 10 of them in batches of 4, the last one filled up."""

    def __init__(self, labels=None):
        rng = np.random.default_rng(0)
        self.logits = np.round(rng.normal(size=(12, 4)), 1).astype("float32")  # some are equal
        self.labels = (rng.random((12, 4)) < 0.4).astype("int32") if labels is None else labels
        self.indices = np.where(np.arange(12) < 10, np.arange(12), -1)
        self.names = np.array([f"{i}.jpg".encode() for i in range(12)])

    def as_numpy_iterator(self):
        for i in (0, 4, 8):
            yield tuple(x[i : i + 4] for x in (self.logits, self.labels, self.indices, self.names))


def evaluate(batches, **options):
    return several_labels.evaluate(lambda x: x, batches, ENGINE, CLASSES, **options)


def cross_entropy(logits, truth):
    probabilities = 1 / (1 + np.exp(-logits.astype("float64")))
    return -np.where(truth, np.log(probabilities), np.log(1 - probabilities))


# ---- the score ----------------------------------------------------------------------------------


@pytest.mark.once
def test_the_score_is_that_of_scikit_learn():
    batches = Batches()
    batches.labels[:10, 2] = 0  # a class without an image
    score = evaluate(batches)
    logits, truth = batches.logits[:10], batches.labels[:10]
    kept = [0, 1, 3]
    expected = metrics.average_precision_score(truth[:, kept], logits[:, kept], average="macro")
    assert score.map == pytest.approx(100 * expected) and 10 < score.map < 100
    f1 = metrics.f1_score(truth, logits >= 0, average="micro")
    assert score.f1 == pytest.approx(100 * f1)
    assert score.loss == pytest.approx(cross_entropy(logits, truth).mean())
    assert (score.images, score.judged, score.classes) == (10, 3, 4)
    assert str(score) == f"* mAP {score.map:.3f} F1 {score.f1:.3f} loss {score.loss:.4f}"
    assert score.facts() == {"classes in the mAP": "3 of 4, those with an image"}


@pytest.mark.once
def test_the_average_precision_by_hand():
    """Of four images, ranked by their scores, the first and the third are of the class."""
    truth, scores = np.array([[1], [0], [1], [0]]), np.array([[4.0], [3.0], [2.0], [1.0]])
    assert several_labels.mean_average_precision(truth, scores) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.once
def test_one_row_per_image(tmp_path):
    batches = Batches()
    batches.logits[1] = [1, -1, 2, -3]
    batches.labels[:2] = [[0, 0, 0, 0], [1, 1, 0, 0]]
    evaluate(batches, predictions=tmp_path / "p.csv")
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == list(range(10))
    assert rows[0]["labels"] == "" and rows[1]["name"] == "1.jpg"
    assert (rows[1]["labels"], rows[1]["predicted"]) == ("a;b", "c;a")
    found = [float(x) for x in rows[1]["probabilities"].split(";")]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-batches.logits[1])), atol=1e-6)


@pytest.mark.once
def test_no_label_is_an_error():
    with pytest.raises(ValueError, match="^data: no validation image has a label, allowed"):
        evaluate(Batches(np.zeros((12, 4), "int32")))


@pytest.mark.once
def test_one_label_each_by_a_sigmoid(tmp_path):
    """Accuracy as ever; loss and probabilities are those of the sigmoid."""
    batches = Batches()
    batches.labels = batches.labels.argmax(axis=1)
    scores = [
        evaluation.evaluate(lambda x: x, batches, ENGINE, CLASSES, None, tmp_path / loss, loss)
        for loss in ("softmax", "sigmoid")
    ]
    assert scores[0].top1 == scores[1].top1 and scores[0].balanced == scores[1].balanced
    logits, truth = batches.logits[:10], np.eye(4)[batches.labels[:10]]
    assert scores[1].loss == pytest.approx(cross_entropy(logits, truth).mean())
    rows = list(csv.DictReader((tmp_path / "sigmoid").read_text().splitlines()))
    found = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits.max(axis=1))), atol=1e-6)


# ---- the loss -----------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_images_and_classes():
    config = parse(["--train.loss=sigmoid"])
    loss = losses.loss_of(config, None, 3)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 3)).astype("float32") * 3
    logits[0] = [60, -60, 0]  # large ones neither overflow nor are cut off
    targets = rng.random((5, 3)).astype("float32")
    targets[0] = [0, 1, 1]
    x, t = logits.astype("float64"), targets.astype("float64")
    expected = np.mean(np.logaddexp(0, x) - t * x)
    found = loss(ops.convert_to_tensor(targets), ops.convert_to_tensor(logits))
    assert float(ops.convert_to_numpy(found)) == pytest.approx(expected, rel=1e-5)
    assert several_findings.binary_crossentropy(logits, targets).mean() == pytest.approx(expected)


@pytest.mark.once
def test_what_does_not_go_together_is_refused(capsys, tmp_path):
    start = "train.py: error: "
    error = refused(capsys, "--train.loss=sigmoid", "--data.balance=weights")
    assert error == start + (
        "data.balance: weights with train.loss sigmoid, allowed: none, sampling\n"
    )
    data = [*several(tmp_path), "--output_dir", str(tmp_path / "out")]
    error = refused(capsys, *SMALL, *data, "--data.balance=sampling")
    assert error == start + ("data.balance: sampling with several labels an image, allowed: none\n")
    (tmp_path / "real.json").write_text("[]")
    (tmp_path / "w.pth").touch()
    real = [
        "--eval",
        f"--model.weights={tmp_path}/w.pth",
        f"--eval.real_labels={tmp_path}/real.json",
    ]
    error = refused(capsys, *SMALL, *data, *real)
    assert error == start + (
        f"eval.real_labels: {tmp_path}/real.json with several labels an image, allowed: null\n"
    )
    error = refused(capsys, *SMALL, *data, "--train.loss=softmax")
    assert "data.dir: train_labels of " in error and "allowed: integers (400,)" in error


# ---- a run --------------------------------------------------------------------------------------


def several(path):
    """Images of 16 x 16 pixels, a quarter of which is bright for each label; the options for it."""
    rng = np.random.default_rng(0)
    labels = (rng.random((480, 4)) < 0.4).astype("uint8")
    bright = np.kron(labels.reshape(-1, 2, 2), np.ones((1, 8, 8), "uint8"))
    images = rng.integers(0, 100, (480, 16, 16), "uint8") + 100 * bright
    np.savez(
        path / "a.npz",
        train_images=images[:400],
        train_labels=labels[:400],
        validation_images=images[400:],
        validation_labels=labels[400:],
        class_names=["ne", "nw", "se", "sw"],
    )
    return ["--data.name=npz", f"--data.dir={path / 'a.npz'}", "--train.loss=sigmoid"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    more = ["--train.epochs=4", "--data.max_shift=0", "--optimizer.ema_decay=0.5"]
    return Run(folder / "out", *several(folder), *more)


@pytest.mark.quick_once
def test_a_run_learns_them_and_says_so(run):
    rows = list(csv.DictReader((run.folder / "history.csv").read_text().splitlines()))
    scores = [*(f"{name}_{x}" for name in ("val", "ema") for x in ("loss", "map", "f1"))]
    assert set(rows[0]) == {"epoch", "learning_rate", "loss", *scores}
    best = max(float(row[key]) for row in rows for key in ("val_map", "ema_map"))
    printed = tuple(map(float, LINE.search(run.out).groups()))
    assert printed[0] == pytest.approx(100 * best, abs=1e-3) and best > 0.9
    assert "val_map 0." in run.out
    summary = (run.folder / "summary.md").read_text()
    assert f"`{LINE.search(run.out)[0]}` on 80 images" in summary
    assert "- classes in the mAP: 4 of 4, those with an image\n" in summary
    read = assert_stands_alone((run.folder / "report.html").read_text("utf-8"))
    shown = re.search(r"mAP(\d+\.\d\d)%F1 at 0.5(\d+\.\d\d)%", read.text).groups()
    assert tuple(map(float, shown)) == pytest.approx(printed[:2], abs=0.006)
    assert f"{run.folder}/report.html says more" in run.out
    drawn = {x["aria-label"] for tag, x in read.elements if tag == "svg"}
    assert any(x.startswith("mAP over the epochs, the best epoch") for x in drawn)
    for words in ("Worst errors", "A batch as it was trained on", "Use it", "loss: sigmoid"):
        assert words in read.text
    assert json.loads((run.folder / "classes.json").read_text()) == ["ne", "nw", "se", "sw"]


@pytest.mark.quick_once
def test_the_saved_model_answers_with_a_sigmoid(run):
    model = keras.models.load_model(run.folder / "best.keras")
    assert meaning(model).outputs == "sigmoid"
    with np.load(run.folder.parent / "a.npz") as file:
        images = np.repeat(file["validation_images"][..., None], 3, axis=-1)
        truth = file["validation_labels"]
    probabilities = model.predict(images, verbose=0)
    found = metrics.average_precision_score(truth, probabilities)
    assert float(LINE.search(run.out)[1]) == pytest.approx(100 * found, abs=1e-2)
    assert not np.allclose(probabilities.sum(axis=1), 1, atol=0.1)


@pytest.mark.once
def test_eval_prints_the_same_line(run, tmp_path):
    # train.loss is that of the weights
    argv = [x for x in run.argv if not x.startswith(("--output_dir", "--train.loss"))]
    weights = [
        f"--model.weights={run.folder / 'best.keras'}",
        f"--eval.predictions={tmp_path}/p.csv",
        f"--eval.report={tmp_path}/r.html",
        "--eval.calibrate=true",
    ]
    again = Run(tmp_path, *argv, "--eval", *weights)
    fitted = re.search(r"eval.calibrate: (temperature .*) -> .*; saved as ", again.out)[1]
    read = assert_stands_alone((tmp_path / "r.html").read_text("utf-8"))
    assert f"Fitted: {fitted}" in read.text and "Curves" not in read.text
    assert LINE.search(again.out)[0] == LINE.search(run.out)[0]
    assert "classes in the mAP: 4 of 4, those with an image\n" in again.out
    assert (tmp_path / "p.csv").read_text().count("\n") == 81


@pytest.mark.once
def test_it_goes_on_where_it_was(run):
    again = Run(run.folder, *[x for x in run.argv if not x.startswith("--output_dir")])
    assert "going on from" in again.out and LINE.search(again.out)[0] == LINE.search(run.out)[0]
