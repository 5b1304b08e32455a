"""Findings on several labels an image: against scikit-learn and loops; their sections of a page."""

import re

import numpy as np
import pytest
from helpers.html_pages import Page, assert_stands_alone

pytest.importorskip("PIL.Image", reason="encodes the pictures")
metrics = pytest.importorskip("sklearn.metrics", reason="computes the average precision")

from keras_smlp.analysis import findings, page, several_page  # noqa: E402 - asked for
from keras_smlp.analysis.several import Batch, Findings, Mistake  # noqa: E402 - asked for first

pytestmark = pytest.mark.once

CLASSES, COUNT = 5, 200
ODD = ("<script>alert(1)</script>", "a \"quoted\" & 'name'", "\udcff\n", "x" * 300, "plain")


def data():
    """Logits, some of them equal or 0, and labels; the last class has no image."""
    rng = np.random.default_rng(0)
    logits = np.round(2 * rng.normal(size=(COUNT, CLASSES)), 1).astype("float32")
    labels = (rng.random((COUNT, CLASSES)) < 1 / (1 + np.exp(-logits / 2))).astype("uint8")
    labels[:, 4] = 0
    return logits, labels


def batch(indices):
    logits, labels = (x[indices] for x in data())
    names = np.array([f"{i}.png".encode() for i in indices], object)
    pixels = np.array([np.full((2, 2, 3), i % 99, "uint8") for i in indices])
    return Batch(indices, names, pixels, logits, labels, (logits >= 0) == labels)


@pytest.fixture(scope="module")
def found():
    """Two processes, in batches of different sizes; a third has no image."""
    parts = [Findings(), Findings(), Findings()]
    for i in range(0, COUNT, 20):
        parts[0].add(batch(np.arange(i, i + 20, 2)))
        parts[1].add(batch(np.arange(i + 1, i + 20, 2)))
    theirs = [[x[i] for x in parts[1].parts] for i in (0, 1)]
    theirs += [parts[1].worst, [parts[1].errors]]
    return parts[0].gather(lambda rows: rows + theirs.pop(0))


def order(found):
    """Which image each row is of."""
    logits, _ = data()
    return [int(np.flatnonzero((logits == row).all(axis=1))[0]) for row in found.logits]


def test_each_class_is_judged_as_in_scikit_learn(found):
    logits, labels = data()
    assert sorted(order(found)) == list(range(COUNT))
    images, precisions, f1, named = found.of_classes()
    assert np.isnan(precisions[4])
    for k in range(CLASSES):
        truth, predicted = labels[:, k], logits[:, k] >= 0
        assert (images[k], named[k]) == (truth.sum(), predicted.sum())
        assert f1[k] == pytest.approx(metrics.f1_score(truth, predicted))
        if k < 4:
            expected = metrics.average_precision_score(truth, logits[:, k])
            assert precisions[k] == pytest.approx(expected) and 0.3 < expected < 1


def test_calibration_is_of_all_classes(found):
    logits, labels = data()
    p = 1 / (1 + np.exp(-logits.astype("float64")))
    total = 0.0
    for i in range(15):
        inside = (p > i / 15) & (p <= (i + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(p[inside].mean() - labels[inside].mean())
    bins = found.reliability()
    assert bins[0].sum() == COUNT * CLASSES
    assert findings.expected_calibration_error(bins) == pytest.approx(total)


def test_the_worst_errors_have_the_largest_binary_cross_entropy(found):
    logits, labels = data()
    p = 1 / (1 + np.exp(-logits.astype("float64")))
    losses = -np.where(labels, np.log(p), np.log(1 - p))
    wrong = (p >= 0.5) != labels
    assert found.errors == wrong.any(axis=1).sum() < COUNT
    means = np.where(wrong.any(axis=1), losses.mean(axis=1), -1)
    assert [x.place for x in found.worst] == np.argsort(-means, kind="stable")[:24].tolist()
    for x in found.worst:
        i = x.place
        assert x.loss == pytest.approx(means[i]) and x.name == f"{i}.png".encode()
        assert (x.pixels == i % 99).all() and x.labels.tolist() == labels[i].tolist()
        assert x.shown_class == losses[i].argmax() and wrong[i, x.shown_class]
        kinds = {(a, b): x.classes(a, b) for a in (False, True) for b in (False, True)}
        for (is_label, is_named), own in kinds.items():
            expected = np.flatnonzero((labels[i] == is_label) & ((p[i] >= 0.5) == is_named))
            assert sorted(own) == expected.tolist()
            assert p[i, own].tolist() == sorted(p[i, own], reverse=True)


def rows_of(content):
    return [
        [re.sub("<[^>]*>", "", cell).strip() for cell in re.findall("<td>(.*?)</td>", row)]
        for row in re.findall("<tbody>(.*?)</tbody>", content)[0].split("</tr>")[:-1]
    ]


def test_the_classes_are_sorted_from_the_worst(found):
    logits, labels = data()
    content = several_page.classes(found, list("abcde"))
    text = Page(content).text
    assert "not in this table: e." in text and "There is no confusion matrix: " in text
    expected = []
    for k in range(4):
        truth, predicted = labels[:, k], logits[:, k] >= 0
        ap, f1 = (
            metrics.average_precision_score(truth, logits[:, k]),
            metrics.f1_score(truth, predicted),
        )
        row = ["abcd"[k], f"{truth.sum()}", f"{predicted.sum()}", f"{ap:.1%}", f"{f1:.1%}"]
        expected.append((ap, row))
    assert rows_of(content) == [row for _, row in sorted(expected)]


def test_names_are_text_everywhere(found, tmp_path):
    pixels = np.zeros((8, 8, 3), "uint8")
    probabilities = np.array([0.9, 0.8, 0.1, 0.0001, 0.6])
    worst = [
        Mistake(3.0, 0, b"/d/<b>.png", np.array([1, 0, 0, 1, 0]), probabilities, 3, pixels),
        Mistake(2.0, 1, b"1.png", np.array([0, 0, 0, 0, 0]), probabilities, 0, pixels),
    ]
    maps = np.ones((2, *page.display_size(pixels)))
    sections = [
        ("Classes", several_page.classes(found, ODD)),
        ("Calibration", several_page.calibration(found, hint="<tt>")),
        ("Worst", several_page.mistakes(worst, maps, ODD)),
    ]
    page.write(tmp_path / "a.html", "title", "subtitle", sections)
    read = assert_stands_alone((tmp_path / "a.html").read_text("utf-8"))
    for words in (ODD[0], ODD[1], "\\udcff\\n", "<tt>", "/d/<b>.png"):
        assert words in read.text
    assert not {"tt", "script"} & {tag for tag, _ in read.elements}
    first = f"rightly named: {ODD[0]} 90.0%wrongly named: {ODD[1]} 80.0%, plain 60.0%missed: xxx"
    assert first in read.text and f"map: {'x' * 20}" in read.text
    assert f"wrongly named: {ODD[0]} 90.0%, {ODD[1]} 80.0%, plain 60.0%map: {ODD[0]}" in read.text
    assert "<0.1%" in read.text
    without = several_page.mistakes(worst, None, ODD)
    assert "map:" not in without and without.count("<img") == 2


def test_of_many_wrong_classes_five_are_named():
    probabilities, pixels = np.linspace(0.6, 0.9, 8), np.zeros((8, 8, 3), "uint8")
    found = Mistake(1.0, 0, b"a", np.zeros(8, "uint8"), probabilities, 7, pixels)
    words = Page(several_page.caption(found, False, list("abcdefgh"))).text
    assert words.startswith("wrongly named: h 90.0%, g 85.7%,") and words.endswith(" and 3 more")
    assert "c" not in words.replace("wrongly named", "")
