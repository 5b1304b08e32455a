"""Checks of arguments: one function for each meaning, which gives the value back in plain Python.

Where a number is meant, NumPy's are taken too; where a path is, `pathlib`'s; where a sequence is, a
list, a tuple or an array of one axis. What comes back is Python's own type, so that it can stand in
a config. An invalid value is refused in one sentence: the argument, what is allowed, what was
received. `none=True` takes `None` as well.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

# not float64: under it Keras multiplies matrices in float32 all the same on PyTorch, and computes
# everything in float32 on JAX
FLOATS = ("float32", "float16", "bfloat16")
# the largest size and the largest seed that every backend takes
MOST = 2**31 - 1
# of one name in a path
MOST_BYTES = 255
# characters of a name from outside in a message
SHOWN = 200


# ---- messages -----------------------------------------------------------------------------------
def shown(value, most=SHOWN):
    """A name from outside (a file's, a tensor's, a class's) for a message or a terminal.

    Args:
        value: Anything; its `str` is shown.
        most: Positive integer. Longest text that is shown whole; the middle of a longer one is
            replaced by ` ... `. `None`: never shortened.

    Returns:
        A string of printable characters, the others escaped as in `repr`; of a long one the
        beginning and the end.
    """
    text = str(value)
    if most is not None and len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 2 :]}"
    return "".join(x if x.isprintable() else repr(x)[1:-1] for x in text)


def read_text(path, most):
    """The text of a small file, such as a configuration.

    Args:
        path: Path of the file.
        most: Integer. Bytes above which it is refused.

    Returns:
        A string.

    Raises:
        ValueError: If it is larger or not UTF-8; `OSError` if it cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"more than {most} bytes")
    return data.decode("utf-8")


def received(name, value):
    """What an argument was, for a message: `"dim='8'"`; of some objects the type."""
    try:
        text = repr(value)
    except Exception:  # an object's own, or an integer of more digits than Python writes
        text = ""
    # not the address of an object in memory
    known = text and " at 0x" not in text
    return f"{name}={shown(text)}" if known else f"{name} of type {type(value).__name__}"


def refusal(name, value, allowed, none=False):
    """The error for an argument, to raise.

    Args:
        name: String. Name of the argument.
        value: What was received.
        allowed: String. What the argument must be.
        none: Boolean. Whether `None` is allowed too. Defaults to `False`.

    Returns:
        A `ValueError`.
    """
    allowed = f"None or {allowed}" if none else allowed
    return ValueError(f"`{name}` must be {allowed}. Received: {received(name, value)}")


# ---- numbers and booleans -----------------------------------------------------------------------
def plain(value):
    """A NumPy scalar, or an array without axes, as Python's own value; anything else as it is."""
    is_scalar = isinstance(value, (np.generic, np.ndarray)) and value.shape == ()
    return value.item() if is_scalar else value


def is_positive_integer(value):
    """Whether it is an integer above zero that every backend takes, not a boolean."""
    value = plain(value)
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


def check_integer(name, value, low, high, none=False):
    """An integer from `low` to `high`."""
    number = plain(value)
    if none and number is None:
        return None
    is_integer = isinstance(number, int) and not isinstance(number, bool)
    if not is_integer or not low <= number <= high:
        raise refusal(name, value, f"an integer from {low} to {high}", none)
    return int(number)  # of a subclass too, such as an enumeration


def check_positive_integer(name, value):
    """A positive integer."""
    if not is_positive_integer(value):
        number = plain(value)
        limit = f" below {MOST + 1}" if isinstance(number, int) and number > MOST else ""
        raise refusal(name, value, f"a positive integer{limit}")
    return int(plain(value))


def check_seed(seed):
    """The seed of a random generator."""
    return check_integer("seed", seed, -MOST - 1, MOST, none=True)


def check_number(name, value, allowed, holds, none=False):
    """A number in a range.

    Args:
        name: String. Name of the argument.
        value: What was received.
        allowed: String. The range, for people.
        holds: Function of a float: whether it is in the range.
        none: Boolean. Whether `None` is allowed too. Defaults to `False`.

    Returns:
        A float.
    """
    if none and value is None:
        return None
    number = plain(value)
    try:
        if isinstance(number, (int, float, np.floating)) and not isinstance(number, bool):
            number = float(number)
            if holds(number):
                return number
    except OverflowError:  # an integer that no float holds
        pass
    raise refusal(name, value, allowed, none)


def check_rate(name, value, none=False):
    """A probability of dropping."""
    return check_number(name, value, "a number in [0, 1)", lambda x: 0 <= x < 1, none)


def check_positive_number(name, value, none=False):
    """A finite number above zero."""
    return check_number(name, value, "a positive number", lambda x: 0 < x < math.inf, none)


def check_boolean(name, value):
    """A boolean: no text such as `"no"`, which Python would take for true."""
    boolean = plain(value)
    if not isinstance(boolean, bool):
        raise refusal(name, value, "True or False")
    return boolean


# ---- text and paths -----------------------------------------------------------------------------
def check_choice(name, value, choices, none=False):
    """One of some strings."""
    if none and value is None:
        return None
    # first the type: what cannot be hashed or compared is refused too
    if not isinstance(value, str) or value not in choices:
        raise refusal(name, value, f"one of {tuple(choices)}", none)
    return str(value)


def check_text(name, value, none=False):
    """A string."""
    if none and value is None:
        return None
    if not isinstance(value, str):
        raise refusal(name, value, "a string", none)
    return str(value)


def check_path(name: str, value: Any, allowed: str = "a path (a string or a pathlib.Path)") -> Path:
    """A path that a file system can have, as a `pathlib.Path`."""
    try:
        text = os.fspath(value)
        parts = [os.fsencode(part) for part in Path(text).parts]
    except (TypeError, UnicodeError):  # no path; characters that no file name has
        text, parts = "", []
    if not text or "\0" in text or any(len(part) > MOST_BYTES for part in parts):
        raise refusal(name, value, allowed)
    return Path(text)


# ---- arrays and sequences -----------------------------------------------------------------------
def check_array(name, value):
    """A NumPy array, of whatever shape and dtype."""
    try:
        return np.asarray(value)
    except Exception as error:  # lists of unequal lengths, tensors of another device
        raise refusal(name, value, "an array") from error


def items(value):
    """The items of a list, a tuple, another sequence or an array of one axis.

    Args:
        value: What was received.

    Returns:
        A sequence; `None` for anything else: text, a set or a dict, which have no order or keys
        besides, a generator, which could be read once only.
    """
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim == 1 else None
    is_text = isinstance(value, (str, bytes, bytearray, memoryview))
    return value if isinstance(value, Sequence) and not is_text else None


def integers(value, most):
    """A sequence of at most so many positive integers as a tuple; `None` for anything else."""
    numbers = items(value)
    if numbers is None or len(numbers) > most or not all(map(is_positive_integer, numbers)):
        return None
    return tuple(int(plain(x)) for x in numbers)


def check_names(name, value, allowed="a sequence of strings"):
    """Strings, at least one, as a tuple."""
    names = items(value)
    if not names or not all(isinstance(x, str) for x in names):
        raise refusal(name, value, allowed)
    return tuple(map(str, names))


def check_pair(name, value):
    """A size `(height, width)`; one integer stands for both."""
    sides = (value, value) if is_positive_integer(value) else value
    pair = integers(sides, 2)
    if pair is None or len(pair) != 2:
        raise refusal(name, value, "a positive integer or a pair (height, width) of them")
    return pair


# ---- what Keras knows ---------------------------------------------------------------------------
def check_activation(name, value):
    """An activation, as it was received."""
    try:
        keras.activations.get(value)
    except Exception as error:  # of any type, by what it is that is none
        allowed = "the name of a Keras activation or a callable"
        raise refusal(name, value, allowed, none=True) from error
    return value


def check_initializer(name, value):
    """A Keras initializer, or `None`."""
    try:
        return keras.initializers.get(plain(value))  # a NumPy scalar would pass for a tensor
    except Exception as error:
        allowed = "a Keras initializer, its name or its config"
        raise refusal(name, value, allowed, none=True) from error


def check_model(model):
    """A Keras model."""
    if not isinstance(model, keras.Model):
        raise refusal("model", model, "a Keras model")
    return model


def check_policy(dtype):
    """The dtype policy that `dtype` means, the global one for `None`; refuses what is unusable.

    Args:
        dtype: What Keras' layers take: a policy, its name or its config, or a `DTypePolicyMap` by
            the paths of layers, of which only the default policy is checked here.

    Returns:
        A `keras.DTypePolicy`, which may be a `DTypePolicyMap`.
    """
    try:
        policy = keras.dtype_policies.get(dtype)
    except Exception:  # of any type, by what it is that is none
        policy = None
    # not `if policy`: a map without entries is false
    if policy is not None and policy.quantization_mode is None and policy.compute_dtype in FLOATS:
        return policy
    allowed = (
        f"an unquantized dtype policy that computes in one of {FLOATS}, such as 'mixed_bfloat16'"
    )
    if dtype is None:
        allowed += ", and so must the global one of keras.config be where it is None"
        raise refusal("dtype", policy, allowed)
    raise refusal("dtype", dtype, allowed, none=True)


def check_unquantized(layer):
    """Refuses a layer whose own policy is quantized: only dense layers can be."""
    policy = layer.dtype_policy
    if policy.quantization_mode is not None:
        allowed = f"unquantized for `{type(layer).__name__}`, given or global"
        raise refusal("dtype", policy, allowed)
