"""Rematerialization: the backward pass computes a layer again, whose results are not kept."""

import contextvars

import keras
from keras import ops

from keras_smlp.layers import backend


def rematerialized(layer, x):
    """`layer(x, training=True)`, of whose results nothing is kept for the backward pass but `x`.

    `keras.RematScope` would not do: computed twice, a layer would move its statistics twice and
    draw other masks. Here the variables are arguments, and what the first pass has made of them is
    assigned once.

    Args:
        layer: A built layer with an attribute `remat`, which is false while this function calls it.
        x: Tensor.

    Returns:
        A tensor.
    """
    variables = layer.variables
    changing = [v for v in layer.non_trainable_variables if is_changed_by_training(v)]

    def compute(x, values):
        layer.remat = False
        try:
            # by `__call__`: the backward pass runs outside of the autocast scope of this one
            state = keras.StatelessScope(list(zip(variables, values, strict=True)))
            with state as scope, backend.updating_statistics([]):  # which works in place
                y = layer(x, training=True)
        finally:
            layer.remat = True
        return y, *map(scope.get_current_value, changing)

    # PyTorch computes again in a thread of the device, which does not know this one's context
    context = contextvars.copy_context()

    def pure(x, *values):
        return context.copy().run(compute, x, values)

    ids = set(map(id, changing))
    # copies: PyTorch changes random states in place
    values = [ops.copy(v.value) if id(v) in ids else backend.tensor(v, x) for v in variables]
    y, *changed = keras.remat(pure)(x, *values)
    for variable, value in zip(changing, changed, strict=True):
        variable.assign(value)
    return y


def is_changed_by_training(variable):
    """Whether it is a moving statistic or the state of a random generator."""
    is_float = keras.backend.is_float_dtype(variable.dtype)
    return variable.name.startswith("moving_") or not is_float
