"""What an evaluation found, image by image: accuracies, confusions, calibration, worst errors."""

from typing import NamedTuple

import numpy as np

BINS = 15  # of the confidences, as in the paper that `expected_calibration_error` names
WORST = 24  # errors that are kept with their pixels
# what is kept of every image: 25 bytes
IMAGE = np.dtype(
    [
        ("index", "int64"),
        ("label", "int32"),
        ("predicted", "int32"),
        ("confidence", "float64"),
        ("right", "bool"),
    ]
)


class Batch(NamedTuple):
    """The images of one step that were decoded and judged.

    Attributes:
        indices: int64 array `(n,)`, their places in the split.
        names: Sequence of `n` bytes, their names.
        pixels: uint8 array `(n, height, width, channels)`, as the network saw them.
        logits: float64 array `(n, classes)`.
        log_probabilities: float64 array `(n, classes)`.
        labels: int array `(n,)`.
        predicted: int array `(n,)`, the likeliest classes.
        right: Boolean array `(n,)`.
    """

    indices: np.ndarray
    names: np.ndarray
    pixels: np.ndarray
    logits: np.ndarray
    log_probabilities: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    right: np.ndarray


class Mistake(NamedTuple):
    """An image that was judged wrongly.

    Attributes:
        loss: Its cross entropy, by which the worst are chosen.
        place: Its index in the split.
        name: Its name, bytes.
        label: Its class.
        predicted: The likeliest class.
        confidence: The probability of that class.
        pixels: uint8 array `(height, width, channels)`, as the network saw it.
    """

    loss: float
    place: int
    name: bytes
    label: int
    predicted: int
    confidence: float
    pixels: np.ndarray

    @property
    def probability(self):
        """The probability of its own class."""
        return float(np.exp(-self.loss))

    @property
    def shown_class(self):
        """The class for which it is shown where the network looked."""
        return self.predicted


class Findings:
    """Collects what a report says, batch by batch.

    Of an image a few numbers are kept, not its logits; of the `WORST` errors (those of the largest
    loss) the pixels too, so that no file has to be read again.

    Attributes:
        images: Array of the dtype `IMAGE`; complete, and sorted by index, after `gather`.
        worst: List of `Mistake`, the worst first.
    """

    def __init__(self):
        self.images, self.worst = np.zeros(0, IMAGE), []
        self.parts = []

    def add(self, batch):
        """Takes the images of a `Batch`."""
        rows = np.arange(len(batch.labels))
        part = np.zeros(len(rows), IMAGE)
        part["index"], part["label"], part["right"] = batch.indices, batch.labels, batch.right
        part["predicted"] = batch.predicted
        part["confidence"] = np.exp(batch.log_probabilities[rows, batch.predicted])
        self.parts.append(part)
        losses = -batch.log_probabilities[rows, batch.labels]
        # with labels of their own, an image may count as wrong that is taken for its class
        wrong = rows[~batch.right & (batch.predicted != batch.labels)]
        for i in wrong[np.argsort(-losses[wrong], kind="stable")[:WORST]]:
            index, label, predicted, confidence, _ = part[i].item()
            name, pixels = bytes(batch.names[i]), batch.pixels[i].copy()
            loss = float(losses[i])
            found = Mistake(loss, index, name, label, predicted, confidence, pixels)
            self.worst.append(found)
        self.worst = worst_of(self.worst)

    def gather(self, gather):
        """Brings the findings of all processes together; `gather` is `Engine.gather`."""
        images = gather(np.concatenate([np.zeros(0, IMAGE), *self.parts]))
        self.images = images[np.argsort(images["index"], kind="stable")]
        self.worst = worst_of(gather(self.worst))
        self.parts = []
        return self

    @property
    def errors(self):
        """Number of images that were judged wrongly."""
        return int((~self.images["right"]).sum())

    def of_classes(self, classes):
        """Of each class the number of images, and of those judged rightly: int array `(2, n)`."""
        labels, right = self.images["label"], self.images["right"]
        return np.stack([np.bincount(x, minlength=classes) for x in (labels, labels[right])])

    def confusions(self):
        """The pairs of classes that were confused, the most frequent first.

        Returns:
            A list of `(label, predicted, count)`.
        """
        taken_for_others = self.images["predicted"] != self.images["label"]
        wrong = self.images[~self.images["right"] & taken_for_others]
        pairs = np.stack([wrong["label"], wrong["predicted"]], axis=1)
        pairs, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(*pairs[i].tolist(), int(counts[i])) for i in order]

    def reliability(self):
        """The `reliability` of the likeliest classes."""
        return reliability(self.images["confidence"], self.images["right"])


def worst_of(mistakes):
    """The worst errors, the worst first; the same whatever their order was."""
    return sorted(mistakes, key=lambda x: (-x.loss, x.place))[:WORST]


# ---- calibration --------------------------------------------------------------------------------
def reliability(confidences, right, bins=BINS):
    """How often predictions are right, by how sure the network is of them.

    Args:
        confidences: Array `(n,)`, the probability of each image's likeliest class.
        right: Boolean array `(n,)`.
        bins: Positive integer. Parts of equal width that `(0, 1]` is divided into, each with its
            upper end. Defaults to `15`.

    Returns:
        A float64 array `(3, bins)`: number of images, sum of their confidences, how many are right.
    """
    place = np.clip(np.ceil(np.asarray(confidences) * bins).astype(int) - 1, 0, bins - 1)
    values = (np.ones(len(place)), confidences, right)
    return np.stack([np.bincount(place, weights=x, minlength=bins) for x in values])


def expected_calibration_error(bins):
    """The mean distance of confidence and accuracy, over the images, in bins.

    Args:
        bins: What `reliability` returns, or the sum of several.

    Returns:
        A float in `[0, 1]`.

    Reference:
        [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599), equation 3.
    """
    counts, confidences, right = bins
    return float(np.abs(right - confidences).sum() / max(counts.sum(), 1))
