"""`probe` for images with several labels each: k-NN and a linear probe, judged by the mAP."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_smlp.training import probe, several_labels


@dataclass(frozen=True)
class Found:
    """How well a classifier on the features judges the validation images.

    Attributes:
        name: The classifier, in words.
        map: Mean average precision in percent, see `several_labels.Score`.
        seconds: The time that it took.
    """

    name: str
    map: float
    seconds: float

    def __str__(self):
        return f"{self.name}: mAP {self.map:.3f}, {self.seconds:.1f} s"


def looks(
    train: np.ndarray, labels: np.ndarray, validation: np.ndarray, truth: np.ndarray, seed: int
) -> Iterator[Found]:
    """Fits both classifiers on the training images, and judges them by the validation images.

    Args:
        train: float32 array `(images, channels)`, the features of the training images.
        labels: Array of zeros and ones `(images, classes)`, theirs.
        validation: float32 array `(others, channels)`.
        truth: Array of zeros and ones `(others, classes)`, not all zeros.
        seed: Integer. Chooses the training images by which the penalty is chosen.

    Returns:
        An iterator over two `Found`, k-NN first.
    """
    for judge in (nearest, linear):
        began = time.perf_counter()
        name, scores = judge(train, labels, validation, seed)
        score = 100 * several_labels.mean_average_precision(truth, scores)
        yield Found(name, score, time.perf_counter() - began)


def nearest(train, labels, validation, seed):
    """Of each class the part of the neighbors' votes, which weigh as in `probe.nearest`."""
    parts = []
    for near, weights in probe.neighbors_of(train, validation):
        # a neighbor at a time, as the votes of all of them may not fit into the memory
        votes = sum(weights[:, [k]] * labels[near[:, k]] for k in range(near.shape[1]))
        parts.append(votes / weights.sum(axis=1, keepdims=True))
    return f"k-NN, {min(probe.NEIGHBORS, len(train))} neighbors", np.concatenate(parts)


def linear(train, labels, validation, seed):
    """A logistic regression for each class, of one penalty: the best on images held out."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    train, validation = scaler.transform(train), scaler.transform(validation)
    fitted, held = probe.held_out(labels.argmax(axis=1), seed)
    best = probe.STRENGTHS[0]
    if labels[held].any():
        tried = {
            c: several_labels.mean_average_precision(
                labels[held], scores(train[fitted], labels[fitted], train[held], c)[0]
            )
            for c in probe.STRENGTHS
        }
        best = max(probe.STRENGTHS, key=lambda c: tried[c])  # of equal ones the strongest penalty
    found, converged = scores(train, labels, validation, best)
    missed = f", not converged in {probe.ITERATIONS} iterations" * (not converged)
    return f"linear probe, C {best:g}{missed}", found


def scores(x, labels, others, strength):
    """The logits of other images by one regression for each class, and whether all converged."""
    found, converged = np.zeros((len(others), labels.shape[1])), True
    for k, own in enumerate(labels.T):
        if 0 < own.sum() < len(own):  # a class of all images or none orders nothing
            model, did = probe.regression(x, own, strength)
            found[:, k], converged = model.decision_function(others), converged and did
    return found, converged
