"""A first look at weights without training: k-NN and a linear probe on the features of a body.

The features are what the head gets, the mean over the positions, of images as an evaluation shows
them. They are all in memory: with copies about 12 bytes for each image and channel, 10 kB for an
image of sMLPNet-Small.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_smlp import naming
from keras_smlp.saving import PortableModel
from keras_smlp.training import evaluation

# of the k-NN classifier of DINO (https://arxiv.org/abs/2104.14294, its eval_knn.py)
NEIGHBORS, TEMPERATURE = 20, 0.07
CHUNK = 1 << 26  # similarities in memory at a time
# of the linear probe: the inverse strengths of the L2 penalty that are tried, the images that this
# is done with at most, of how many images of a class one is held out, and the most iterations
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
TRIED, HELD_OUT, ITERATIONS = 10_000, 5, 1000


@dataclass(frozen=True)
class Found:
    """How well a classifier on the features judges the validation images.

    Attributes:
        name: The classifier, in words.
        accuracy: In percent.
        balanced: Mean of the accuracies of the classes in percent, of those with an image.
        seconds: The time that it took.
    """

    name: str
    accuracy: float
    balanced: float
    seconds: float

    def __str__(self):
        return (
            f"{self.name}: accuracy {self.accuracy:.3f}, balanced accuracy {self.balanced:.3f}, "
            f"{self.seconds:.1f} s"
        )


def body_of(network: keras.Model) -> keras.Model:
    """The part of a network before its head, over the same layers: images to features."""
    return PortableModel(network.input, network.get_layer(naming.AVG_POOL).output)


def features(forward: Callable, batches: Any) -> tuple[np.ndarray, np.ndarray]:
    """The features and the labels of the images that can be decoded.

    Args:
        forward: Function from uint8 images to features `(n, channels)`, NumPy both.
        batches: `tf.data.Dataset` of `pipeline.validation_batches`.

    Returns:
        float32 array `(images, channels)` and int32 array `(images,)`, or `(images, classes)` of
        several labels each, in the order of the split.

    Raises:
        ValueError: If there is no image.
    """
    found, labels = [], []
    for pixels, label, indices, _ in batches.as_numpy_iterator():
        kept = indices >= 0
        found.append(np.asarray(forward(pixels))[kept].astype("float32"))
        labels.append(label[kept])
    if not sum(map(len, labels)):
        raise ValueError("data: no image of a split can be decoded, allowed: at least one")
    return np.concatenate(found), np.concatenate(labels)


def looks(
    train: np.ndarray,
    labels: np.ndarray,
    validation: np.ndarray,
    truth: np.ndarray,
    seed: int,
) -> Iterator[Found]:
    """Fits both classifiers on the training images, and judges them by the validation images.

    Args:
        train: float32 array `(images, channels)`, the features of the training images.
        labels: Integer array `(images,)`, theirs.
        validation: float32 array `(others, channels)`.
        truth: Integer array `(others,)`.
        seed: Integer. Chooses the training images by which the penalty is chosen.

    Returns:
        An iterator over two `Found`, k-NN first.
    """
    began, classes = time.perf_counter(), max(labels.max(), truth.max()) + 1
    predicted = nearest(train, labels, validation, classes)
    name = f"k-NN, {min(NEIGHBORS, len(train))} neighbors"
    yield judged(name, predicted, truth, classes, began)
    began = time.perf_counter()
    name, predicted = linear(train, labels, validation, seed)
    yield judged(name, predicted, truth, classes, began)


def judged(name, predicted, truth, classes, began):
    """The `Found` of some predictions."""
    images = np.bincount(truth, minlength=classes)
    right = np.bincount(truth[predicted == truth], minlength=classes)
    accuracy, balanced = 100 * right.sum() / images.sum(), evaluation.balanced(right, images)
    return Found(name, accuracy, balanced, time.perf_counter() - began)


# ---- k-NN ---------------------------------------------------------------------------------------
def nearest(
    train: np.ndarray,
    labels: np.ndarray,
    validation: np.ndarray,
    classes: int,
    neighbors: int = NEIGHBORS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """The class that most of the nearest training images vote for, as in DINO.

    Near is what has a large cosine similarity; a vote weighs `exp(similarity / temperature)`.

    Args:
        train: float32 array `(images, channels)`.
        labels: Integer array `(images,)`.
        validation: float32 array `(others, channels)`.
        classes: Positive integer.
        neighbors: Positive integer. How many vote, or all images if there are fewer. Defaults to
            `20`.
        temperature: Positive float. Defaults to `0.07`.

    Returns:
        Integer array `(others,)`.
    """
    predicted = []
    for near, weights in neighbors_of(train, validation, neighbors, temperature):
        votes = np.zeros((len(near), classes))
        np.add.at(votes, (np.arange(len(near))[:, None], labels[near]), weights)
        predicted.append(votes.argmax(axis=1))
    return np.concatenate(predicted)


def neighbors_of(train, validation, neighbors=NEIGHBORS, temperature=TEMPERATURE):
    """The nearest training images of some validation images at a time, and their weights.

    Args:
        train: float32 array `(images, channels)`, the features of the training images.
        validation: float32 array `(others, channels)`.
        neighbors: Positive integer, at most as many as there are training images.
        temperature: Positive number. Divides the cosine similarity in the weights.

    Returns:
        An iterator over pairs of arrays `(some, neighbors)`: indices and weights.
    """
    neighbors = min(neighbors, len(train))
    train, validation = normalized(train).T, normalized(validation)
    size = max(1, CHUNK // train.shape[1])
    for start in range(0, len(validation), size):
        similarity = validation[start : start + size] @ train
        near = np.argpartition(-similarity, neighbors - 1, axis=1)[:, :neighbors]
        # the largest similarity is 1: nothing overflows
        yield near, np.exp((np.take_along_axis(similarity, near, axis=1) - 1) / temperature)


def normalized(x):
    """The rows, each divided by its length."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


# ---- linear -------------------------------------------------------------------------------------
def linear(
    train: np.ndarray, labels: np.ndarray, validation: np.ndarray, seed: int
) -> tuple[str, np.ndarray]:
    """Logistic regression on standardized features.

    The penalty is the one of `STRENGTHS` that is best on a fifth of (at most 10,000 of) the
    training images, which is held out for that; then all of them are fitted.

    Args:
        train: float32 array `(images, channels)`.
        labels: Integer array `(images,)`.
        validation: float32 array `(others, channels)`.
        seed: Integer. Chooses these images.

    Returns:
        A pair: the classifier in words, with the chosen strength; and what it predicts, an integer
        array `(others,)`.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    train, validation = scaler.transform(train), scaler.transform(validation)
    fitted, held = held_out(labels, seed)
    accuracies = [0.0] * len(STRENGTHS)
    if len(held) and len(set(labels[fitted])) > 1:
        for i, strength in enumerate(STRENGTHS):
            model, _ = regression(train[fitted], labels[fitted], strength)
            accuracies[i] = model.score(train[held], labels[held])
    best = STRENGTHS[int(np.argmax(accuracies))]  # of equal ones the strongest penalty
    name = f"linear probe, C {best:g}"
    if len(set(labels)) == 1:
        return name, np.full(len(validation), labels[0])
    model, converged = regression(train, labels, best)
    name += f", not converged in {ITERATIONS} iterations" * (not converged)
    return name, model.predict(validation)


def held_out(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of images to fit and of others to judge by, drawn, of each class a fifth."""
    order = np.random.default_rng(seed).permutation(len(labels))[:TRIED]
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    held = (np.arange(len(order)) - np.repeat(starts, counts)) % HELD_OUT == HELD_OUT - 1
    return order[~held], order[held]


def regression(x, labels, strength):
    """A fitted logistic regression, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the line says it
        model.fit(x, labels)
    return model, bool(model.n_iter_.max() < ITERATIONS)
