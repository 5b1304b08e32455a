"""A temperature for the probabilities of a network, fitted on half of the validation images."""

from dataclasses import dataclass

import numpy as np

from keras_smlp.analysis.findings import BINS, expected_calibration_error, reliability
from keras_smlp.deploy.calibration import minimum, slopes


@dataclass(frozen=True)
class Fitted:
    """A temperature, and what it changes on images that it was not fitted on.

    Attributes:
        temperature: Positive float.
        images: Pair of the numbers of images that it was fitted on, and that it was judged on.
        nll: Mean cross entropy on the latter, before and after.
        ece: Expected calibration error there, before and after.
        bins: Their `findings.reliability` with the temperature.
    """

    temperature: float
    images: tuple[int, int]
    nll: tuple[float, float]
    ece: tuple[float, float]
    bins: np.ndarray

    def __str__(self):
        worse = " (worse: too few images)" if self.nll[1] > self.nll[0] else ""
        return (
            f"temperature {self.temperature:.4g}, from {self.images[0]} validation images; on the "
            f"other {self.images[1]} NLL {self.nll[0]:.4f} -> {self.nll[1]:.4f}{worse}, ECE "
            f"{100 * self.ece[0]:.2f}% -> {100 * self.ece[1]:.2f}%"
        )


class Logits:
    """Keeps the logits of this process's images, in float32 as the network gives them."""

    def __init__(self):
        self.parts = []

    def add(self, batch):
        """Takes the images of a `findings.Batch`."""
        logits = batch.logits.astype("float32")
        self.parts.append((batch.indices, batch.labels, batch.right, logits))

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
        own = [np.stack([indices, labels], axis=1) for indices, labels, _, _ in parts]
        everything = engine.gather(np.concatenate([np.zeros((0, 2), "int64"), *own]))
        chosen = half(everything, seed)
        count = len(everything) - len(chosen)
        if not count:
            raise ValueError("there is a single one, and no other half")
        fitting, others = (
            [tuple(x[np.isin(part[0], chosen) == is_chosen] for x in part[1:]) for part in parts]
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
        return Fitted(temperature, images, *pairs, bins_after)


def half(images, seed):
    """The indices of every second image of each class, in a random order.

    Args:
        images: int64 array `(n, 2)`: the index and the class of each.
        seed: Integer. Another one draws another half.
    """
    images = images[np.argsort(images[:, 0])]
    images = images[np.random.default_rng(seed).permutation(len(images))]
    return images[np.argsort(images[:, 1], kind="stable"), 0][::2]


def measured(part, temperature):
    """The summed cross entropy at a temperature, and its `findings.reliability`, as one vector."""
    labels, right, logits = part
    rows = logits.astype("float64") / temperature
    rows -= rows.max(axis=1, keepdims=True)
    logs = np.log(np.exp(rows).sum(axis=1))
    loss = (logs - rows[np.arange(len(rows)), labels]).sum()
    return np.append(loss, reliability(np.exp(-logs), right))
