"""The loss of a training."""

import keras
import numpy as np
from keras import ops


def loss_of(config, labels, classes):
    """The loss of a configuration, for logits.

    Args:
        config: A `config.Config`.
        labels: The labels of the training images; only `data.balance: weights` needs them.
        classes: Positive integer.

    Returns:
        A `keras.losses.Loss`. That of `train.loss: sigmoid` is the mean over the classes, as timm's
        `BinaryCrossEntropy`, and not the sum.
    """
    if config.train.loss == "sigmoid":
        return keras.losses.BinaryCrossentropy(from_logits=True)
    if config.data.balance == "weights":
        return WeightedCrossentropy(class_weights(labels, classes))
    return keras.losses.CategoricalCrossentropy(from_logits=True)


def class_weights(labels, classes):
    """One over the number of a class' images, times a factor: its mean over the images is 1.

    Args:
        labels: Integer array, the class of each training image.
        classes: Positive integer.

    Returns:
        float32 array `(classes,)`, 0 for classes without an image.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0).astype("float32")


class WeightedCrossentropy(keras.losses.Loss):
    """Cross entropy of logits, each class' part of it times the weight of the class.

    Mixed targets count by each of their classes, as in `torch.nn.CrossEntropyLoss(weight)`; the
    mean is over the images of a batch, whatever their weights.

    Args:
        weights: float32 array `(classes,)`.
        **kwargs: Keyword arguments of `keras.losses.Loss`.
    """

    def __init__(self, weights, name="weighted_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.weights = np.asarray(weights, "float32")

    def call(self, y_true, y_pred):
        log_probabilities = ops.log_softmax(y_pred, axis=-1)
        weights = ops.convert_to_tensor(self.weights, log_probabilities.dtype)
        targets = ops.cast(y_true, log_probabilities.dtype)
        return -ops.sum(weights * targets * log_probabilities, axis=-1)
