"""Class activation maps within a model: what each position of the last map adds to each logit."""

import keras
from keras import ops

from keras_smlp import naming
from keras_smlp.deploy.export.meaning import is_graph


class ClassMaps(keras.layers.Layer):
    """The head at each position, before the mean over the positions and the activation.

    For the export alone: it shares the head's kernel, and no file could hold it.

    Args:
        head: The layer `predictions`.
        use_bias: Boolean. Whether the bias is added. The mean over the positions is then the logit.
    """

    def __init__(self, head, use_bias):
        super().__init__(name="maps", dtype="float32")
        self.head, self.use_bias = head, use_bias

    def call(self, features):
        _, height, width, channels = features.shape
        # of two axes, so that it is the same kind of product as the head itself
        logits = ops.matmul(ops.reshape(features, (-1, channels)), self.head.kernel)
        if self.use_bias:
            logits = ops.add(self.head.bias, logits)
        return ops.reshape(logits, (-1, height, width, self.head.units))


def ends(model):
    """The layers `avg_pool` and `predictions` that a model ends in; `None` if it does not.

    After them there may be layers without weights, as the softmax of a trained network.
    """
    if not is_graph(model) or not naming.is_network(model):
        return None
    layers = {layer.name: layer for layer in model.layers}
    pool, head = layers.get(naming.AVG_POOL), layers.get(naming.HEAD)
    if (
        not isinstance(pool, keras.layers.GlobalAveragePooling2D)
        or not isinstance(head, keras.layers.Dense)
        or head.input is not pool.output
        or head.output.shape != model.outputs[0].shape
        or any(layer.weights for layer in model.layers[model.layers.index(head) + 1 :])
    ):
        return None
    return pool, head


def size(model):
    """The pair (rows, columns) of a model's maps, or `None` if it has none."""
    found = ends(model)
    return list(found[0].input.shape[1:3]) if found else None


def of(model):
    """The maps `(batch, rows, columns, classes)` of a model that has them, a symbolic tensor.

    A folded model has the final norm in its head: what the norm adds is then in the bias, which
    therefore belongs to the maps.
    """
    pool, head = ends(model)
    return ClassMaps(head, use_bias=naming.is_folded(model))(pool.input)
