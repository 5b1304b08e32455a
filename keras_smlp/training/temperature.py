"""A temperature for the probabilities of a network, fitted on half of the validation images."""

from dataclasses import dataclass

import numpy as np

from keras_smlp.analysis.findings import BINS, expected_calibration_error, reliability
from keras_smlp.analysis.several import binary_crossentropy, sigmoid
from keras_smlp.deploy.calibration import minimum, slopes

# in words, by `train.loss`
LOSSES = {"softmax": "NLL", "sigmoid": "binary cross entropy"}


@dataclass(frozen=True)
class Fitted:
    """A temperature, and what it changes on images that it was not fitted on.

    Attributes:
        temperature: Positive float.
        images: Pair of the numbers of images that it was fitted on, and that it was judged on.
        nll: Mean cross entropy on the latter, before and after; with `train.loss: sigmoid` the
            binary one, the mean over images and classes.
        ece: Expected calibration error there, before and after.
        bins: Their `findings.reliability` with the temperature.
        loss_name: What `nll` is.
    """

    temperature: float
    images: tuple[int, int]
    nll: tuple[float, float]
    ece: tuple[float, float]
    bins: np.ndarray
    loss_name: str = LOSSES["softmax"]

    def __str__(self):
        worse = " (worse: too few images)" if self.nll[1] > self.nll[0] else ""
        return (
            f"temperature {self.temperature:.4g}, from {self.images[0]} validation images; on the "
            f"other {self.images[1]} {self.loss_name} {self.nll[0]:.4f} -> {self.nll[1]:.4f}"
            f"{worse}, ECE {100 * self.ece[0]:.2f}% -> {100 * self.ece[1]:.2f}%"
        )


class Logits:
    """Keeps the logits of this process's images, in float32 as the network gives them.

    Args:
        loss: The `train.loss` of the configuration. Defaults to `"softmax"`.
    """

    def __init__(self, loss="softmax"):
        self.loss, self.parts = loss, []

    def add(self, batch):
        """Takes the images of a `findings.Batch` or a `several.Batch`."""
        labels, logits = batch.labels, batch.logits.astype("float32")
        classes = labels if labels.ndim == 1 else labels.argmax(axis=1)
        if self.loss == "sigmoid" and labels.ndim == 1:  # as the network learned it
            labels = (labels[:, None] == np.arange(logits.shape[1])).astype("uint8")
        images = np.stack([batch.indices, classes], axis=1)
        self.parts.append((images, labels, batch.right, logits))

    def fit(self, engine, seed):
        """Fits a temperature on one half of the images and judges it on the other.

        Args:
            engine: The `engines.Engine`.
            seed: Integer, by which the halves are drawn.

        Returns:
            A `Fitted`, the same in all processes.

        Raises:
            ValueError: If no temperature is best.
        """
        parts, self.parts = self.parts, []
        own = [images for images, *_ in parts]
        everything = engine.gather(np.concatenate([np.zeros((0, 2), "int64"), *own]))
        chosen = half(everything, seed)
        count = len(everything) - len(chosen)
        if not count:
            raise ValueError("there is a single one, and no other half")
        fitting, others = (
            [
                tuple(x[np.isin(images[:, 0], chosen) == is_chosen] for x in part)
                for images, *part in parts
            ]
            for is_chosen in (True, False)
        )

        def slope(inverse):
            own = [slopes(logits, labels, inverse) for labels, _, logits in fitting]
            return engine.sum(np.sum([np.zeros(2), *own], axis=0))

        def judged(temperature):
            own = [measured(part, temperature) for part in others]
            loss, *bins = engine.sum(np.sum([np.zeros(1 + 3 * BINS), *own], axis=0))
            return loss / count, np.reshape(bins, (3, BINS))

        temperature = minimum(slope)
        (nll, bins), (nll_after, bins_after) = judged(1.0), judged(temperature)
        ece, ece_after = map(expected_calibration_error, (bins, bins_after))
        images, pairs = (len(chosen), count), ((nll, nll_after), (ece, ece_after))
        return Fitted(temperature, images, *pairs, bins_after, LOSSES[self.loss])


def half(images, seed):
    """The indices of every second image of each class, in a random order.

    Args:
        images: int64 array `(n, 2)`: the index and the class of each; of several labels the first.
        seed: Integer. Another one draws another half.
    """
    images = images[np.argsort(images[:, 0])]
    images = images[np.random.default_rng(seed).permutation(len(images))]
    return images[np.argsort(images[:, 1], kind="stable"), 0][::2]


def measured(part, temperature):
    """The summed cross entropy at a temperature, and its `findings.reliability`, as one vector.

    That of several labels is of all classes, that of one label of the likeliest class.
    """
    labels, right, logits = part
    rows = logits.astype("float64") / temperature
    if labels.ndim == 2:
        loss, probabilities = binary_crossentropy(rows, labels).sum(), sigmoid(rows)
        if right.ndim == 2:
            return np.append(loss, reliability(probabilities.ravel(), labels.ravel()))
        return np.append(loss, reliability(probabilities.max(axis=1), right))
    rows -= rows.max(axis=1, keepdims=True)
    logs = np.log(np.exp(rows).sum(axis=1))
    loss = (logs - rows[np.arange(len(rows)), labels]).sum()
    return np.append(loss, reliability(np.exp(-logs), right))
