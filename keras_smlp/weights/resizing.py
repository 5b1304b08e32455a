"""Trained axial kernels resampled to another input size: they do the same to smooth maps."""

import re

import keras
import numpy as np

from keras_smlp import naming
from keras_smlp.checks import check_choice, check_model
from keras_smlp.shapes import check_input
from keras_smlp.weights.stored import Stored

METHODS = ("cubic", "linear", "nearest")
# the path of an axial weight in a TokenMixing
AXIAL = re.compile(r".*/mix/(width|height)/(kernel|bias)")
# positions along an axis of a file that is resampled: images of 16,384 pixels in patches of 4
MOST = 4096


def resize_weights(
    model: keras.Model, input_shape: tuple[int, int, int], method: str = "cubic"
) -> keras.Model:
    """A model for images of another size, with the weights of a trained one.

    Only the axial kernels depend on the input size. A kernel maps `m` positions along an axis to
    `m`; for `n` positions it becomes `U @ kernel @ D`, where `D` interpolates the `n` inputs at the
    `m` places the kernel knows, and `U` its `m` answers (and the bias) at the `n` new places. The
    rows of both sum to 1, so that what was a constant signal's answer is again one, interpolated;
    the same holds for signals smooth enough to be interpolated well. Everything else is copied.

    The further from the trained size, the lower the accuracy (docs/results.md has figures for each
    method); some epochs of fine-tuning at the new size make up for it.

    Args:
        model: A model that `keras_smlp.SMLPNet` made, with or without layers of your own after it.
        input_shape: `(height, width, channels)` of the new images: the model's own channels, height
            and width multiples of what the stages divide by, in general 32.
        method: `"cubic"` (a = -0.5), `"linear"` or `"nearest"`. How to interpolate. Defaults to
            `"cubic"`.

    Returns:
        A new model; the given one stays as it is. It is compiled if that is, with a new
        optimizer.

    Raises:
        ValueError: If the model has no axial kernels or has LoRA layers, or the shape or the
            method is invalid.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=10)
    >>> keras_smlp.resize_weights(model, (40, 48, 3)).input_shape
    (None, 40, 48, 3)
    """
    method = check_choice("method", method, METHODS)
    naming.mixings(check_model(model))  # refuses what is no sMLPNet
    sizes = [v.shape[0] for v in model.weights if v.path.endswith("/mix/height/kernel")]
    if any(v.name.startswith("lora_kernel") for v in model.weights):
        raise ValueError(
            "`model` must not be adapted by LoRA, for its weights are sums (call "
            f"keras_smlp.merge_lora first). Received: {model.name!r}"
        )
    _, height, _, channels = model.input_shape
    images = check_input(None, input_shape, stride=height // min(sizes))
    if images.shape[-1] != channels:
        raise ValueError(
            f"`input_shape` must have the model's {channels} channels. "
            f"Received: input_shape={input_shape!r}"
        )
    resized = keras.models.clone_model(model, input_tensors=images)
    if not model.trainable:  # what is trainable in it stands in the layers' configs
        resized.trainable = False
    for old, new in zip(model.weights, resized.weights, strict=True):
        if new.shape != old.shape and not AXIAL.fullmatch(old.path):
            raise ValueError(
                f"`model` must depend on the size by its axial kernels alone. Received: {old.path} "
                f"as {tuple(old.shape)}, at the new size {tuple(new.shape)}"
            )
        # a copy: JAX would share the array, and lose it for both when one is trained
        value = np.array(keras.ops.convert_to_numpy(old))
        new.assign(resampled(value, new.shape, method))
    return resized


def fitted(expected, tensors):
    """A file's tensors, the axial ones resampled where a model's have another size.

    Args:
        expected: As `strict.assign` takes it.
        tensors: Dict of `stored.Stored` by name.

    Returns:
        A dict of `stored.Stored` by name; what fits, and what cannot be made to, as it was.
    """
    fitting = dict(tensors)
    for name, (variable, _) in expected.items():
        tensor = tensors.get(name)
        if tensor is None or not AXIAL.fullmatch(variable.path):
            continue
        rank = len(variable.shape)
        # the official files have two more axes, of length 1
        ones = (1,) * (len(tensor.shape) - rank)
        if tensor.shape == tensor.shape[:1] * rank + ones and tensor.shape[0] <= MOST:
            fitting[name] = fitting_one(tensor, tuple(variable.shape), ones)
    return fitting


def fitting_one(tensor, shape, ones):
    """A `Stored` axial tensor that is resampled to another shape once it is read."""

    def read():
        plain = tensor.read().reshape(tensor.shape[: len(shape)])
        return resampled(plain, shape, "cubic").reshape(shape + ones)

    return Stored(shape + ones, tensor.dtype, read)


def resampled(tensor, shape, method):
    """A kernel `(m, m)` or a bias `(m,)` for `shape[0]` positions."""
    if tensor.shape == tuple(shape):
        return tensor
    [n], [m] = set(shape), set(tensor.shape)
    x = interpolation(n, m, method) @ tensor.astype("float64")
    if tensor.ndim == 2:
        x = x @ interpolation(m, n, method)
    return x.astype(tensor.dtype)


def interpolation(n, m, method):
    """The matrix `(n, m)` that takes a signal from `m` to `n` places of the same interval.

    The places are the middles of equal parts; beyond the ends the outermost values go on.
    """
    places = (np.arange(n)[:, None] + 0.5) * m / n - 0.5
    neighbors = np.floor(places) + np.arange(-1, 3)
    if method == "nearest":
        weights = (np.abs(neighbors - places - 1e-6) < 0.5).astype("float64")
    elif method == "linear":
        weights = np.maximum(1 - np.abs(neighbors - places), 0)
    else:
        weights = cubic(np.abs(neighbors - places))
    matrix = np.zeros((n, m))
    columns = np.clip(neighbors, 0, m - 1).astype(int)
    np.add.at(matrix, (np.arange(n)[:, None], columns), weights)
    return matrix


def cubic(x):
    """Keys' cubic kernel, a = -0.5."""
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))
