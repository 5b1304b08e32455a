"""Batch and layer normalization with PyTorch's constants, computed as in `layers/backend`."""

import keras

from keras_smlp.checks import check_unquantized
from keras_smlp.layers import backend

# PyTorch's defaults; its momentum of 0.1 is 0.9 in Keras' terms
EPSILON = 1e-5
MOMENTUM = 0.9


@keras.saving.register_keras_serializable(package="keras_smlp")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, whose momentum and epsilon default to PyTorch's.

    It has Keras' name, because Keras' weights files call a layer by the name of its class.

    Attributes:
        parts: Positive integer. On JAX, into how many parts the batch is divided in training, each
            of which is normalized by its own statistics.
    """

    parts = 1

    def __init__(self, momentum=MOMENTUM, epsilon=EPSILON, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        check_unquantized(self)

    def call(self, x, training=None):
        return backend.batch_norm(self, x, training)


class LayerNorm(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` with the official network's epsilon."""

    def __init__(self, **kwargs):
        super().__init__(epsilon=EPSILON, **kwargs)
        check_unquantized(self)

    def call(self, x, training=None):
        return backend.layer_norm(self, x, training)


def freeze_batch_norm(model: keras.Layer) -> list[keras.layers.BatchNormalization]:
    """Freezes every batch normalization of a model: its statistics, scale and shift stay.

    Fine-tuning in small batches, or on few images, is often better so. `model.layers` shows only
    one of the `2 * blocks + 1` batch normalizations of an sMLPNet, the last one: two are inside
    each token mixing. This function finds them all, also in models and layers within others.

    Call it before `compile`: a model that is compiled already must be compiled again.

    Args:
        model: A `keras.Model` or layer. It is changed: `trainable` of each
            `keras.layers.BatchNormalization` in it becomes false, so that the layer normalizes by
            its moving statistics in training too, and does not update them.

    Returns:
        The list of these layers, in the order in which they were found. Set their `trainable` to
        true to undo it.

    Raises:
        ValueError: If `model` is no layer, or has no batch normalization, as after
            `keras_smlp.fold`.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> len(keras_smlp.freeze_batch_norm(model))
    5
    >>> any("norm1" in v.path for v in model.trainable_variables)
    False
    """
    if not isinstance(model, keras.Layer):
        raise ValueError(
            f"`model` must be a keras.Model or layer. Received: {type(model).__name__}"
        )
    found = [x for x in layers_within(model) if isinstance(x, keras.layers.BatchNormalization)]
    if not found:
        raise ValueError(
            "`model` must have a batch normalization, which a folded one has not. "
            f"Received: {model.name!r}"
        )
    for layer in found:
        layer.trainable = False
    return found


def layers_within(layer):
    """A layer and all layers within it, at any depth, each once."""
    seen, waiting = {}, [layer]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not isinstance(value, (keras.Layer, dict, list, tuple)):
            continue
        seen[id(value)] = value
        if isinstance(value, keras.Layer):
            value = vars(value)  # Keras' own list of sublayers is among them
        waiting += reversed(list(value.values() if isinstance(value, dict) else value))
    return [value for value in seen.values() if isinstance(value, keras.Layer)]
