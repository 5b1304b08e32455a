"""Checks of arguments: one sentence that says what is allowed and what was received."""

import keras

DEFAULT_SHAPE = (224, 224, 3)
# not float64: under it Keras multiplies matrices in float32 all the same on PyTorch, and computes
# everything in float32 on JAX
FLOATS = ("float32", "float16", "bfloat16")

# characters of a name from outside in a message
SHOWN = 200


def shown(value, most=SHOWN):
    """A name from outside (a file's, a tensor's, a class's) for a message or a terminal.

    Args:
        value: Anything; its `str` is shown.
        most: Positive integer. Characters of which more are cut out of the middle; `None` for all.

    Returns:
        A string of printable characters, the others escaped as in `repr`; of a long one the
        beginning and the end.
    """
    text = str(value)
    if most is not None and len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return "".join(x if x.isprintable() else repr(x)[1:-1] for x in text)


def is_positive_integer(value):
    """Whether it is an integer above zero, not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_rate(value):
    """Whether it is a number in [0, 1), as a probability of dropping must be."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def check_positive_integer(name, value):
    """Refuses an argument that is not a positive integer."""
    if not is_positive_integer(value):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")


def check_architecture(dim, depths, expansion, patch_size):
    """Refuses sizes that are not positive integers; `depths` must be a tuple of at least one."""
    if not isinstance(depths, tuple) or not depths or not all(map(is_positive_integer, depths)):
        raise ValueError(
            f"`depths` must be a sequence of positive integers. Received: depths={depths!r}"
        )
    for name, value in {"dim": dim, "expansion": expansion, "patch_size": patch_size}.items():
        check_positive_integer(name, value)


def check_head(include_top, pooling, classes, classifier_activation):
    """Refuses a head that cannot be built."""
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}")
    if not include_top:
        return
    check_positive_integer("classes", classes)
    try:
        keras.activations.get(classifier_activation)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "`classifier_activation` must be None, the name of a Keras activation or a callable. "
            f"Received: classifier_activation={classifier_activation!r}"
        ) from error


def check_drop_path_rate(rate):
    """Refuses a rate outside [0, 1)."""
    if not is_rate(rate):
        raise ValueError(
            "`drop_path_rate` must be None or a number in [0, 1). "
            f"Received: drop_path_rate={rate!r}"
        )


def check_policy(dtype):
    """The dtype policy that `dtype` means, the global one for `None`; refuses what is unusable."""
    if dtype is None:
        return keras.config.dtype_policy()
    if isinstance(dtype, keras.dtype_policies.DTypePolicyMap):
        raise ValueError("`dtype` must be one policy for the model. Received: a DTypePolicyMap")
    if isinstance(dtype, (str, keras.dtype_policies.DTypePolicy)):
        try:
            policy = keras.dtype_policies.get(dtype)
        except (ValueError, TypeError):
            policy = None
        if policy and policy.quantization_mode is None and policy.compute_dtype in FLOATS:
            return policy
    raise ValueError(
        "`dtype` must be None or an unquantized dtype policy that computes in one of "
        f"{FLOATS}, such as 'mixed_bfloat16'. Received: dtype={dtype!r}"
    )


def check_input(input_tensor, input_shape, stride, rgb):
    """The symbolic input of a network: the given tensor, or a new `keras.Input`.

    Args:
        input_tensor: Symbolic tensor or `None`.
        input_shape: `(height, width, channels)` or `None` for the published one.
        stride: What height and width must be multiples of.
        rgb: Boolean. Whether there must be three channels.

    Returns:
        A `keras.KerasTensor`, `(batch, height, width, channels)`.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "keras_smlp is written for image_data_format 'channels_last'. "
            f"Received: keras.config.image_data_format()={keras.config.image_data_format()!r}"
        )
    if input_tensor is None:
        name, shape = "input_shape", (DEFAULT_SHAPE if input_shape is None else input_shape)
    elif not isinstance(input_tensor, keras.KerasTensor):
        raise ValueError(
            "`input_tensor` must be a symbolic Keras tensor, such as keras.Input(...) returns. "
            f"Received: input_tensor of type {type(input_tensor).__name__}"
        )
    else:
        name, shape = "input_tensor", input_tensor.shape[1:]
        if input_shape is not None and (
            not isinstance(input_shape, (list, tuple)) or tuple(input_shape) != tuple(shape)
        ):
            raise ValueError(
                "`input_shape` must be the shape of `input_tensor` where both are given. "
                f"Received: input_shape={input_shape!r}, input_tensor.shape={input_tensor.shape}"
            )
    if (
        not isinstance(shape, (list, tuple))
        or len(shape) != 3
        or not all(map(is_positive_integer, shape))
        or any(side % stride for side in shape[:2])
        or (rgb and shape[2] != 3)
    ):
        channels = "3 channels (`include_preprocessing=True` takes RGB)" if rgb else "channels"
        raise ValueError(
            f"`{name}` must be (height, width, channels) with a height and a width that are known "
            f"multiples of {stride}, and {channels}. Received: {name} with the shape {shape!r}"
        )
    if input_tensor is not None:
        return input_tensor
    return keras.Input(tuple(shape), name="images")


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
