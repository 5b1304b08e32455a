"""Checks of a network's and a layer's shapes; each refuses an invalid one in one sentence."""

import keras

from keras_smlp.checks import integers, received, refusal

DEFAULT_SHAPE = (224, 224, 3)
# of an sMLPNet: a stage halves the sides, so that with more of them no size would be left
MOST_STAGES = 31
MOST_BLOCKS = 10_000


def check_depths(depths):
    """The blocks of each stage, as a tuple."""
    checked = integers(depths, MOST_STAGES)
    if not checked or max(checked) > MOST_BLOCKS:
        few = "" if checked is None else f", at most {MOST_STAGES} of up to {MOST_BLOCKS}"
        raise refusal("depths", depths, f"a sequence of positive integers{few}")
    return checked


def check_input(input_tensor, input_shape, stride, name="input_shape"):
    """The symbolic input of a network: the given tensor, or a new `keras.Input`.

    Args:
        input_tensor: Symbolic tensor or `None`.
        input_shape: `(height, width, channels)` or `None` for the published one.
        stride: What height and width must be multiples of.
        name: String. What the caller calls `input_shape`. Defaults to `"input_shape"`.

    Returns:
        A `keras.KerasTensor`, `(batch, height, width, channels)`.
    """
    given = DEFAULT_SHAPE if input_shape is None else input_shape
    if input_tensor is None:
        shape = given
    elif not isinstance(input_tensor, keras.KerasTensor):
        raise ValueError(
            "`input_tensor` must be a symbolic Keras tensor, such as keras.Input(...) returns. "
            f"Received: input_tensor of type {type(input_tensor).__name__}"
        )
    else:
        name, shape = "input_tensor", input_tensor.shape[1:]
        if input_shape is not None and integers(given, 3) != tuple(shape):
            raise ValueError(
                "`input_shape` must be the shape of `input_tensor` where both are given. "
                f"Received: {received('input_shape', given)}, "
                f"input_tensor.shape={input_tensor.shape}"
            )
    sides = integers(shape, 3)
    if sides is None or len(sides) != 3 or any(side % stride for side in sides[:2]):
        allowed = (
            "(height, width, channels) with a height and a width that are known multiples of "
            f"{stride}, and channels"
        )
        raise refusal(name, shape, allowed)
    if input_tensor is not None:
        return input_tensor
    return keras.Input(sides, dtype="float32", name="images")


def check_map(layer, input_shape, *static):
    """The sizes of a feature map `(batch, height, width, channels)`; refuses another shape.

    Args:
        layer: The layer that is being built, for the message.
        input_shape: Shape that `build` received.
        *static: Which of `"height"`, `"width"` and `"channels"` must be known.

    Returns:
        The tuple `(height, width, channels)`.
    """
    if len(input_shape) != 4:
        raise ValueError(
            f"`{type(layer).__name__}` takes a map (batch, height, width, channels). "
            f"Received: input_shape={tuple(input_shape)}"
        )
    for axis, name in enumerate(("height", "width", "channels"), start=1):
        if name in static and input_shape[axis] is None:
            raise ValueError(
                f"`{type(layer).__name__}` needs a {name} that is known when it is built. "
                f"Received: input_shape={tuple(input_shape)}"
            )
    return tuple(input_shape[1:])


def check_channels(layer, input_shape):
    """The channels of an input, which must be known."""
    if input_shape[-1] is None:
        raise ValueError(
            f"`{type(layer).__name__}` needs channels that are known when it is built. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    return input_shape[-1]
