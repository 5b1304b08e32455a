"""What an evaluation found on images with several labels each, or none: `findings` of those."""

from typing import NamedTuple

import numpy as np

from keras_smlp.analysis.findings import BINS, WORST, reliability, worst_of

THRESHOLD = 0.5  # from this probability on an image counts as of a class


class Batch(NamedTuple):
    """The images of one step that were decoded.

    Attributes:
        indices: int64 array `(n,)`, their places in the split.
        names: Sequence of `n` bytes, their names.
        pixels: uint8 array `(n, height, width, channels)`, as the network saw them.
        logits: float32 array `(n, classes)`.
        labels: uint8 array `(n, classes)`, 1 where an image is of a class.
        right: Boolean array `(n, classes)`, where the network decides as the labels say.
    """

    indices: np.ndarray
    names: np.ndarray
    pixels: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    right: np.ndarray


class Mistake(NamedTuple):
    """An image with a class that was named wrongly, or missed.

    Attributes:
        loss: Its binary cross entropy, the mean over the classes, by which the worst are chosen.
        place: Its index in the split.
        name: Its name, bytes.
        labels: uint8 array `(classes,)`, 1 where it is of a class.
        probabilities: float64 array `(classes,)`.
        shown_class: The class that was judged wrongly with the largest loss; it is shown where the
            network looked for it.
        pixels: uint8 array `(height, width, channels)`, as the network saw it.
    """

    loss: float
    place: int
    name: bytes
    labels: np.ndarray
    probabilities: np.ndarray
    shown_class: int
    pixels: np.ndarray

    def classes(self, is_label, is_predicted):
        """The classes with this label and this prediction, the likeliest first."""
        chosen = (self.labels == is_label) & (is_named(self.probabilities) == is_predicted)
        order = np.argsort(-self.probabilities, kind="stable")
        return order[chosen[order]].tolist()


class Findings:
    """Collects what a report says, batch by batch: logits, labels and the worst errors.

    Attributes:
        logits: float32 array `(images, classes)`, of all processes after `gather`.
        labels: uint8 array of that shape.
        errors: Number of images with a class that was judged wrongly.
        worst: List of `Mistake`, the worst first.
    """

    def __init__(self):
        self.parts, self.worst, self.errors = [], [], 0
        self.logits = self.labels = np.zeros((0, 0))

    def add(self, batch):
        """Takes the images of a `Batch`."""
        self.parts.append((batch.logits, batch.labels))
        losses = class_losses(batch.logits, batch.labels)
        means, wrong = losses.mean(axis=1), np.flatnonzero(~batch.right.all(axis=1))
        self.errors += len(wrong)
        for i in wrong[np.argsort(-means[wrong], kind="stable")[:WORST]]:
            found = Mistake(
                float(means[i]),
                int(batch.indices[i]),
                bytes(batch.names[i]),
                batch.labels[i].copy(),
                sigmoid(batch.logits[i]),
                int(np.where(batch.right[i], -1, losses[i]).argmax()),
                batch.pixels[i].copy(),
            )
            self.worst.append(found)
        self.worst = worst_of(self.worst)

    def gather(self, gather):
        """Brings the findings of all processes together; `gather` is `Engine.gather`."""
        logits, labels = (gather([pair[i] for pair in self.parts]) for i in (0, 1))
        self.logits, self.labels = np.concatenate(logits), np.concatenate(labels)
        self.worst, self.errors = worst_of(gather(self.worst)), sum(gather([self.errors]))
        self.parts = []
        return self

    def of_classes(self):
        """What was found of each class.

        Returns:
            A float64 array `(4, classes)`: the number of its images; the average precision, NaN
            without an image; the F1 at a probability of 0.5; how many images were named so.
        """
        named, is_label = is_named(sigmoid(self.logits)), self.labels == 1
        images, predicted = is_label.sum(axis=0), named.sum(axis=0)
        hits = (named & is_label).sum(axis=0)
        f1 = 2 * hits / np.maximum(images + predicted, 1)
        return np.stack([images, average_precisions(self.labels, self.logits), f1, predicted])

    def reliability(self):
        """The `findings.reliability` of the probabilities of all classes."""
        bins = np.zeros((3, BINS))
        for logits, labels in zip(self.logits, self.labels, strict=True):
            bins += reliability(sigmoid(logits), labels)
        return bins


def is_named(probabilities):
    """Whether an image counts as of a class."""
    return probabilities >= THRESHOLD


def sigmoid(logits):
    """The probability of each class by itself, in float64."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, "float64")))


def class_losses(logits, truth):
    """The binary cross entropy of each image and class, in float64."""
    logits = np.asarray(logits, "float64")
    return np.logaddexp(0, logits) - logits * truth


def binary_crossentropy(logits, truth):
    """The mean over the classes of the binary cross entropy, for each image, in float64."""
    return class_losses(logits, truth).mean(axis=-1)


def average_precisions(truth, scores):
    """Scikit-learn's average precision of each class: the mean precision over the recall's steps.

    Args:
        truth: Array of zeros and ones `(images, classes)`.
        scores: Array `(images, classes)`, larger where an image is likelier of a class.

    Returns:
        A float64 array `(classes,)` in `[0, 1]`, NaN for classes without an image.
    """
    from sklearn.metrics import average_precision_score

    found = np.full(truth.shape[1], np.nan)
    for k in np.flatnonzero(truth.any(axis=0)):
        found[k] = average_precision_score(truth[:, k], scores[:, k])
    return found
