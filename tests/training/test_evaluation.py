"""Accuracy and loss of an evaluation against NumPy; predictions; several labels per image."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest

from keras_smlp.training import evaluation

pytestmark = pytest.mark.once

ENGINE = SimpleNamespace(sum=lambda values: values, gather=lambda rows: rows, is_main=True)
CLASSES = tuple(f"class {i}" for i in range(7))


class Batches:
    """Logits instead of images: 10 of them in batches of 4, the last one filled up."""

    def __init__(self, left_out=()):
        rng = np.random.default_rng(0)
        self.logits = rng.normal(size=(12, 7)) * 3
        self.labels = rng.integers(0, 7, 12)
        self.indices = np.where(np.arange(12) < 10, np.arange(12), -1)
        self.indices[list(left_out)] = -1
        self.names = np.array([f"d/ILSVRC2012_val_{i + 1:08}.JPEG".encode() for i in range(12)])

    def as_numpy_iterator(self):
        for i in (0, 4, 8):
            yield tuple(x[i : i + 4] for x in (self.logits, self.labels, self.indices, self.names))


def evaluate(batches, **options):
    return evaluation.evaluate(lambda x: x, batches, ENGINE, CLASSES, **options)


@pytest.mark.parametrize("left_out", [(), (0, 5)])
def test_every_image_counts_once_and_padding_never(left_out):
    batches = Batches(left_out)
    score = evaluate(batches)
    kept = batches.indices >= 0
    logits, labels = batches.logits[kept], batches.labels[kept]
    ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert score.images == 10 - len(left_out)
    assert score.top1 == pytest.approx(100 * (ranks < 1).mean())
    assert score.top5 == pytest.approx(100 * (ranks < 5).mean())
    assert score.loss == pytest.approx(loss)
    of_classes = [(ranks[labels == k] < 1).mean() for k in set(labels.tolist())]
    assert score.balanced == pytest.approx(100 * np.mean(of_classes))


def test_the_official_line():
    score = evaluation.Score(50000, 83.0999, 96.2, 0.70004, 80.0)
    assert str(score) == "* Acc@1 83.100 Acc@5 96.200 loss 0.700"


def test_one_row_per_image(tmp_path):
    batches, path = Batches(left_out=(3,)), tmp_path / "p.csv"
    score = evaluate(batches, predictions=path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    right = [row["label"] == row["predicted"] for row in rows]
    assert 100 * np.mean(right) == pytest.approx(score.top1)
    best = batches.logits[4].argmax()
    assert rows[3]["name"].endswith("ILSVRC2012_val_00000005.JPEG")
    assert rows[3]["predicted"] == CLASSES[best] and rows[3]["top5"].startswith(CLASSES[best])
    expected = np.exp(batches.logits[4, best]) / np.exp(batches.logits[4]).sum()
    assert float(rows[3]["probability"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("form", [list, dict])
def test_several_labels_per_image(tmp_path, form):
    batches = Batches()
    best = batches.logits.argmax(axis=1)
    labels = [[int(k)] for k in best[:10]]
    labels[0], labels[1], labels[2] = [], [int(best[1]), 0], [int(batches.logits[2].argmin())]
    named = {f"ILSVRC2012_val_{i + 1:08}.JPEG": found for i, found in enumerate(labels)}
    (tmp_path / "real.json").write_text(json.dumps(labels if form is list else named))
    real = evaluation.read_real(tmp_path / "real.json", 7)
    score = evaluate(batches, real_labels=real)
    assert score.images == 9  # one has no label
    assert score.top1 == pytest.approx(100 * 8 / 9) and score.top5 == pytest.approx(100 * 8 / 9)


@pytest.mark.parametrize(
    "content", ["no json", "3", '[["cat"]]', "[1, 2]", "[[7]]", "[[-1]]", "[[true]]"]
)
def test_other_files_of_labels_are_refused(tmp_path, content):
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(ValueError, match="^`real_labels`: "):
        evaluation.read_real(tmp_path / "real.json", 7)


def test_an_image_without_labels_in_the_file_is_an_error():
    with pytest.raises(ValueError, match="nothing for ILSVRC2012_val_00000002.JPEG, allowed"):
        evaluate(Batches(), real_labels={"1": [0]})


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="no validation image"):
        evaluate(Batches(left_out=range(12)))
