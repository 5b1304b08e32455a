"""The evaluation of a network on images with several labels each, or none."""

import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_smlp.analysis import several
from keras_smlp.analysis.several import average_precisions, is_named, sigmoid
from keras_smlp.data import labels
from keras_smlp.training.evaluation import write_predictions


@dataclass(frozen=True)
class Score:
    """What an evaluation found, over the images of all processes.

    Attributes:
        images: Number of images that were decoded.
        map: Mean average precision (mAP) in percent: of each class the mean of the precision over
            the steps of the recall, as scikit-learn's `average_precision_score`; the mean over the
            classes with an image.
        f1: Micro F1 in percent: the harmonic mean of precision and recall over all pairs of image
            and class, where a probability of 0.5 counts as a label.
        loss: Binary cross entropy, the mean over images and classes, without label smoothing.
        classes: Number of classes.
        judged: Number of those with an image.
    """

    images: int
    map: float
    f1: float
    loss: float
    classes: int
    judged: int

    best_by: ClassVar[str] = "map"

    def __str__(self):
        """A line like the official code's."""
        return f"* mAP {self.map:.3f} F1 {self.f1:.3f} loss {self.loss:.4f}"

    def columns(self):
        """The columns of `history.csv` without their prefix."""
        return {"loss": self.loss, "map": self.map / 100, "f1": self.f1 / 100}

    def facts(self):
        """What else there is to say, by its name."""
        return {"classes in the mAP": f"{self.judged} of {self.classes}, those with an image"}


def evaluate(forward, batches, engine, class_names, predictions=None, observers=()):
    """Evaluates a network on validation images whose labels are rows of zeros and ones.

    The logits of all images are kept in memory, in float32: the order of the images by their
    logits is what the average precision is about.

    Args:
        forward: Function from uint8 images to logits `(n, classes)`, NumPy both
            (`Engine.forward`).
        batches: `tf.data.Dataset` of `pipeline.validation_batches`, this process's part.
        engine: The `engines.Engine`.
        class_names: The name of each class.
        predictions: Path of a CSV file for one row per image. Defaults to `None`: none.
        observers: Objects whose `add` is called with a `several.Batch` of the images that were
            decoded. Defaults to none.

    Returns:
        A `Score`.

    Raises:
        ValueError: If there is no label to judge by.
    """
    nothing = np.zeros((0, len(class_names)))
    parts, truths, rows = [nothing.astype("float32")], [nothing.astype("uint8")], []
    for pixels, targets, indices, names in batches.as_numpy_iterator():
        kept = indices >= 0
        logits = np.asarray(forward(pixels), "float32")[kept]
        parts.append(logits)
        truth, indices, names = targets[kept].astype("uint8"), indices[kept], names[kept]
        truths.append(truth)
        right = is_named(sigmoid(logits)) == truth
        for observer in observers:
            observer.add(several.Batch(indices, names, pixels[kept], logits, truth, right))
        if predictions is not None:
            for index, name, x, own in zip(indices.tolist(), names, logits, truth, strict=True):
                rows.append((index, os.fsdecode(name), *cells(x, own, class_names)))
    logits, truth = (engine.gather(np.concatenate(x)) for x in (parts, truths))
    rows = engine.gather(rows)
    if not truth.any():
        raise ValueError("data: no validation image has a label, allowed: at least one")
    if predictions is not None and engine.is_main:
        head = ("index", "name", "labels", "predicted", "probabilities")
        write_predictions(predictions, head, rows)
    predicted, is_label = is_named(sigmoid(logits)), truth == 1
    hits = (predicted & is_label).sum()
    return Score(
        images=len(truth),
        map=100 * mean_average_precision(truth, logits),
        f1=float(100 * 2 * hits / (predicted.sum() + is_label.sum())),
        loss=float(several.binary_crossentropy(logits, truth).mean()),
        classes=len(class_names),
        judged=int(is_label.any(axis=0).sum()),
    )


def mean_average_precision(truth, scores):
    """The mean of the average precision over the classes with an image.

    Args:
        truth: Array of zeros and ones `(images, classes)`, not all zeros.
        scores: Array `(images, classes)`, larger where an image is likelier of a class.

    Returns:
        Float in `[0, 1]`.
    """
    return float(np.nanmean(average_precisions(truth, scores)))


def cells(logits, truth, class_names):
    """An image's labels, those predicted (the likeliest first), and all probabilities."""
    probabilities = sigmoid(logits)
    order = np.argsort(-logits, kind="stable")
    predicted = order[is_named(probabilities[order])]
    return (
        labels.in_words(np.flatnonzero(truth), class_names),
        labels.in_words(predicted, class_names),
        labels.SEPARATOR.join(f"{x:.6f}" for x in probabilities),
    )
