"""The accuracy of a network: every image once, whatever the number of devices."""

import csv
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from keras_smlp.analysis import findings
from keras_smlp.analysis.several import binary_crossentropy
from keras_smlp.checks import read_text, shown
from keras_smlp.saving import replacing

TOP = 5
MAX_LABELS = 64 << 20  # bytes of a file of labels; ReaL's has a few million


@dataclass(frozen=True)
class Score:
    """What an evaluation found, over the images of all processes.

    Attributes:
        images: Number of images that were decoded.
        top1: Accuracy in percent.
        top5: Part of the images in percent whose label is among the five likeliest classes.
        loss: Mean cross entropy, without label smoothing; of a network that was trained with
            `sigmoid` the binary one, the mean over images and classes.
        balanced: Mean of the accuracies of the classes in percent, of those with an image.
    """

    images: int
    top1: float
    top5: float
    loss: float
    balanced: float

    best_by: ClassVar[str] = "top1"

    def __str__(self):
        """The official code's line."""
        return f"* Acc@1 {self.top1:.3f} Acc@5 {self.top5:.3f} loss {self.loss:.3f}"

    def columns(self):
        """The columns of `history.csv` without their prefix."""
        return {"loss": self.loss, "accuracy": self.top1 / 100, "top5": self.top5 / 100}

    def facts(self):
        """What else there is to say, by its name."""
        return {"balanced accuracy": f"{self.balanced:.3f}, the mean over the classes"}


def evaluate(
    forward,
    batches,
    engine,
    class_names,
    real_labels=None,
    predictions=None,
    loss="softmax",
    observers=(),
):
    """Evaluates a network on the validation images.

    Args:
        forward: Function from uint8 images to logits `(n, classes)`, NumPy both
            (`Engine.forward`).
        batches: `tf.data.Dataset` of `pipeline.validation_batches`, this process's part.
        engine: The `engines.Engine`.
        class_names: The name of each class.
        real_labels: Several labels per image, see `read_real`; images without any are left
            out. Then the loss is that of the original label. Defaults to `None`: the label.
        predictions: Path of a CSV file for one row per image. Defaults to `None`: none.
        loss: The `train.loss` of the configuration. Defaults to `"softmax"`.
        observers: Objects whose `add` is called with a `findings.Batch` of the images that were
            judged. Defaults to none.

    Returns:
        A `Score`.

    Raises:
        ValueError: If there is no image to judge by.
    """
    # of each class: images, and those that were judged rightly; of all: hits among the best, losses
    of_classes, totals, rows = np.zeros((2, len(class_names))), np.zeros(2), []
    for pixels, labels, indices, names in batches.as_numpy_iterator():
        logits = np.asarray(forward(pixels), "float64")
        kept = indices >= 0
        logits, labels, indices, names = logits[kept], labels[kept], indices[kept], names[kept]
        log_probabilities = logits - logits.max(axis=-1, keepdims=True)
        log_probabilities -= np.log(np.exp(log_probabilities).sum(axis=-1, keepdims=True))
        losses = -log_probabilities[np.arange(len(labels)), labels]
        if loss == "sigmoid":
            log_probabilities = -np.logaddexp(0, -logits)
            losses = binary_crossentropy(logits, labels[:, None] == np.arange(len(class_names)))
        best = np.argsort(-logits, axis=-1, kind="stable")[:, :TOP]
        hits, judged = best == labels[:, None], np.ones(len(labels), bool)
        if real_labels is not None:
            truths = [labels_of(os.fsdecode(name), real_labels) for name in names]
            judged = np.array([len(truth) > 0 for truth in truths], bool)
            hits = np.array([np.isin(*pair) for pair in zip(best, truths, strict=True)], bool)
            hits = hits.reshape(best.shape)  # also of no image
        for row, counted in zip(of_classes, (judged, judged & hits[:, 0]), strict=True):
            row += np.bincount(labels[counted], minlength=len(class_names))
        totals += [x[judged].sum() for x in (hits.any(axis=1), losses)]
        for observer in observers:
            values = indices, names, pixels[kept], logits, log_probabilities, labels, best[:, 0]
            observer.add(findings.Batch(*(x[judged] for x in (*values, hits[:, 0]))))
        if predictions is not None:
            for i, first in enumerate(best[:, 0]):
                rows.append(
                    (
                        int(indices[i]),
                        os.fsdecode(names[i]),
                        class_names[labels[i]],
                        class_names[first],
                        f"{np.exp(log_probabilities[i, first]):.6f}",
                        " ".join(class_names[k] for k in best[i]),
                    )
                )
    *sums, among, total = engine.sum(np.append(of_classes, totals))
    images, right = np.reshape(sums, of_classes.shape)
    count, first = images.sum(), right.sum()
    rows = engine.gather(rows)
    if not count:
        raise ValueError("data: no validation image could be judged by, allowed: at least one")
    if predictions is not None and engine.is_main:
        head = ("index", "name", "label", "predicted", "probability", "top5")
        write_predictions(predictions, head, rows)
    percent = 100 * first / count, 100 * among / count
    return Score(int(count), *percent, total / count, balanced(right, images))


def balanced(right, images):
    """The mean of the accuracies of the classes in percent, of those with an image.

    Args:
        right: Array `(classes,)`. Images of each class that were judged rightly.
        images: Array `(classes,)`. Images of each class.

    Returns:
        Float.
    """
    return 100 * np.mean(right[images > 0] / images[images > 0])


def write_predictions(path, head, rows):
    """A CSV file: the names of the columns, and one row per image, in the data set's order."""
    # names of files and classes need not be UTF-8
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(sorted(rows))


def read_real(path, classes):
    """Several labels per image, as [ReaL](https://arxiv.org/abs/2006.07159) publishes them.

    Args:
        path: Path of a JSON file: a list of lists of class indices, for image `i` of
            `ILSVRC2012_val_{i + 1:08d}.JPEG`, or a dict of them by file name.
        classes: Positive integer. How many classes there are.

    Returns:
        A dict from file name, or from number as a string, to a list of class indices.

    Raises:
        ValueError: If it is no such file.
    """
    try:
        labels = json.loads(read_text(path, MAX_LABELS))
        if isinstance(labels, list):
            labels = {str(i): found for i, found in enumerate(labels, start=1)}
        if all(type(k) is int and 0 <= k < classes for found in labels.values() for k in found):
            return labels
    except (ValueError, OSError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"`real_labels`: {path} ({error}), allowed: ReaL's JSON") from error
    raise ValueError(f"`real_labels`: {path}, allowed: lists of indices of {classes} classes")


def labels_of(name, real_labels):
    """The labels of one image."""
    name = Path(name).name
    number = re.search(r"(\d{8})\.\w+$", name)
    key = name if name in real_labels else str(int(number[1])) if number else name
    if key not in real_labels:
        raise ValueError(
            f"`real_labels`: nothing for {shown(name)}, allowed: labels for every image"
        )
    return real_labels[key]
