"""What an evaluation found, against loops over the images."""

import numpy as np
import pytest

from keras_smlp.analysis import findings
from keras_smlp.analysis.findings import Batch, Findings

pytestmark = pytest.mark.once

CLASSES, COUNT = 6, 200


def batch(indices, sharpness=3):
    """Some images, the same ones for the same indices."""
    rows = []
    for i in indices:
        rng = np.random.default_rng(int(i))
        rows.append((rng.normal(size=CLASSES) * sharpness, rng.integers(CLASSES), rng.integers(99)))
    logits = np.array([row[0] for row in rows])
    labels = np.array([row[1] for row in rows])
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    names = np.array([f"{i}.png".encode() for i in indices], object)
    pixels = np.array([np.full((2, 2, 3), row[2], "uint8") for row in rows])
    predicted = logits.argmax(axis=1)
    right = predicted == labels
    return Batch(indices, names, pixels, logits, logs, labels, predicted, right)


@pytest.fixture(scope="module")
def whole():
    return batch(np.arange(COUNT))


@pytest.fixture(scope="module")
def found():
    """Two processes, in batches of different sizes."""
    parts = [Findings(), Findings()]
    for i in range(0, COUNT, 20):
        parts[0].add(batch(np.arange(i, i + 20, 2)))
        parts[1].add(batch(np.arange(i + 1, i + 20, 2)))

    def gather(rows):
        other = parts[1].worst if isinstance(rows, list) else np.concatenate(parts[1].parts)
        return rows + other if isinstance(rows, list) else np.concatenate([other, rows])

    return parts[0].gather(gather)


def test_each_image_is_there_once_in_its_order(found, whole):
    assert found.images["index"].tolist() == list(range(COUNT))
    assert found.images["label"].tolist() == whole.labels.tolist()
    own = np.exp(whole.log_probabilities).max(axis=1)
    np.testing.assert_allclose(found.images["confidence"], own)


def test_classes_and_confusions(found, whole):
    pairs = list(zip(whole.labels.tolist(), whole.predicted.tolist(), strict=True))
    images, right = found.of_classes(CLASSES)
    for k in range(CLASSES):
        assert images[k] == sum(a == k for a, _ in pairs)
        assert right[k] == sum(a == b == k for a, b in pairs)
    confusions = found.confusions()
    assert {(a, b): n for a, b, n in confusions} == {
        pair: pairs.count(pair) for pair in set(pairs) if pair[0] != pair[1]
    }
    counts = [n for *_, n in confusions]
    assert counts == sorted(counts, reverse=True)


def test_the_worst_errors_are_those_of_the_largest_loss_with_their_own_pixels(found, whole):
    losses = -whole.log_probabilities[np.arange(COUNT), whole.labels]
    wrong = np.flatnonzero(~whole.right)
    expected = sorted(wrong.tolist(), key=lambda i: -losses[i])[: findings.WORST]
    assert len(wrong) > findings.WORST
    assert [x.place for x in found.worst] == expected
    for x in found.worst:
        assert x.name == f"{x.place}.png".encode()
        assert (x.label, x.predicted) == (whole.labels[x.place], whole.predicted[x.place])
        np.testing.assert_array_equal(x.pixels, whole.pixels[x.place])
        assert x.probability == pytest.approx(np.exp(-losses[x.place]))


def test_reliability_and_calibration_error_against_the_definition(found):
    confidences, right = found.images["confidence"], found.images["right"]
    error = 0
    for m in range(1, 16):
        among = (confidences > (m - 1) / 15) & (confidences <= m / 15)
        bins = found.reliability()[:, m - 1]
        expected = among.sum(), confidences[among].sum(), right[among].sum()
        np.testing.assert_allclose(bins, expected)
        if among.any():
            gap = abs(right[among].mean() - confidences[among].mean())
            error += among.sum() / COUNT * gap
    found_error = findings.expected_calibration_error(found.reliability())
    assert found_error == pytest.approx(error) and error > 0.01


def test_the_ends_of_the_bins():
    bins = findings.reliability(np.array([1.0, 1 / 15, 1e-9, 0.5]), np.ones(4, bool))
    assert bins[0].tolist() == [2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]


def test_nothing_wrong_and_nothing_at_all():
    nothing = Findings().gather(lambda rows: rows)
    assert nothing.confusions() == [] and nothing.of_classes(2).tolist() == [[0, 0], [0, 0]]
    assert findings.expected_calibration_error(nothing.reliability()) == 0
