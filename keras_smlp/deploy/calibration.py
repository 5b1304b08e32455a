"""Temperature scaling: probabilities as sure as they are right, without another prediction."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_smlp.checks import check_array, check_model, check_positive_number, received
from keras_smlp.deploy.export import meaning

ROWS = 1024  # of logits in float64 at a time


def calibrate(model: keras.Model, temperature: float) -> None:
    """Divides the logits of a classifier by a temperature, in the weights of its head.

    Kernel and bias of the last dense layer are divided, so that files, folded copies and exports
    have it too. The likeliest class stays the same; above 1 the probabilities become less sure,
    below 1 surer. Called again, it divides again.

    Args:
        model: A classifier that ends in a dense layer, alone or with a softmax or sigmoid (its
            activation, or a layer after it). It is changed.
        temperature: Positive finite number, such as `fit_temperature` returns.

    Raises:
        ValueError: If the model does not end so, its head is quantized or has LoRA, or the
            temperature is out of range.

    Reference:
        [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599), section 4.2.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> keras_smlp.calibrate(model, 1.5)
    """
    check_model(model)
    temperature = check_positive_number("temperature", temperature)
    head = head_of(model)
    if head is None:
        raise ValueError(
            "`model` must end in a dense layer, alone or with a softmax or sigmoid. "
            f"Received: {received('model', model.name)}"
        )
    if head.quantization_mode or head.lora_enabled:
        state = "quantized (calibrate before)" if head.quantization_mode else "adapted by LoRA"
        raise ValueError(
            f"`model` must have a head of plain weights. Received: {head.name!r}, {state}"
        )
    for variable in head.weights:
        value = ops.convert_to_numpy(variable).astype("float64") / temperature
        variable.assign(value.astype("float32"))


def head_of(model, is_activated=False):
    """The dense layer whose outputs are the logits of a model; `None` if it does not end so.

    Args:
        model: A Keras model.
        is_activated: Boolean. Whether a softmax or sigmoid follows it. Defaults to `False`.
    """
    graph = meaning.read(model)
    if graph is None:
        return None
    tensor = graph.end
    for call in reversed(graph.calls):
        if not any(x is tensor for x in call.outputs):
            continue
        layer, shape = call.operation, tensor.shape[1:]
        if len(call.sources) != 1:
            return None
        if meaning.is_graph(layer):
            return head_of(layer, is_activated)
        is_dense = isinstance(layer, keras.layers.Dense)
        function = layer.activation if is_dense else lambda x, call=call: meaning.run(call, x)
        computed = meaning.computed(function, shape)
        if computed != meaning.SAME:
            if is_activated or computed == meaning.UNKNOWN:
                return None
            is_activated = True
        if is_dense:
            return layer
        tensor = call.sources[0]
    return None


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature with which a classifier's probabilities fit labels best.

    It minimizes the mean cross entropy of `softmax(logits / temperature)`, or with several labels
    an image the binary one of `sigmoid(logits / temperature)`. Both are convex in
    `1 / temperature`: by Newton's method, in float64, always with the same result. Take images that
    the network was not trained on.

    Args:
        logits: Array `(n, classes)` of finite numbers, at least two classes. For a softmax,
            logarithms of probabilities will do.
        labels: Integer array `(n,)`, the class of each image; or `(n, classes)` of zeros and ones,
            1 where an image is of a class.

    Returns:
        A positive float. Divide the logits by it, or call `keras_smlp.calibrate`.

    Raises:
        ValueError: If an argument is none of these, or there is no best temperature: everything is
            judged rightly (the lower the better), or the network is no better than chance (the
            higher the better).

    Reference:
        [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599), section 4.2.

    Example:

    >>> logits = [[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]]
    >>> round(keras_smlp.fit_temperature(logits, [0, 0, 0, 1]), 2)  # three of four are right
    3.64
    """
    rows, truths = check_array("logits", logits), check_array("labels", labels)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2 or rows.dtype.kind not in "fiu":
        raise ValueError(
            "`logits` must be (n, classes) numbers, at least one row and two classes. "
            f"Received: logits of the shape {rows.shape}, {rows.dtype}"
        )
    if not np.isfinite(rows).all():
        raise ValueError("`logits` must be finite. Received: logits with others among them")
    kinds = "iub" if truths.ndim == 2 else "iu"
    if truths.shape not in (rows.shape, rows.shape[:1]) or truths.dtype.kind not in kinds:
        raise ValueError(
            f"`labels` must be {len(rows)} integers, one for each row of `logits`, or zeros and "
            f"ones {rows.shape}. Received: labels of the shape {truths.shape}, {truths.dtype}"
        )
    allowed, most = "the classes of `logits`", rows.shape[1] - 1
    if truths.ndim == 2:
        allowed, most = "for the classes of each row", 1
    if not ((truths >= 0) & (truths <= most)).all():
        raise ValueError(
            f"`labels` must be from 0 to {most}, {allowed}. "
            f"Received: labels from {truths.min()} to {truths.max()}"
        )
    try:
        return minimum(lambda inverse: slopes(rows, truths, inverse))
    except ValueError as error:
        raise ValueError(
            f"`logits` must have a best temperature. Received: logits where {error}"
        ) from error


def slopes(logits, labels, inverse):
    """First and second derivative of the summed cross entropy by the inverse temperature.

    Args:
        logits: Array `(n, classes)`.
        labels: Integer array `(n,)`; or of zeros and ones `(n, classes)`, for the binary one.
        inverse: Float, 0 and infinity included.

    Returns:
        A float64 array `(2,)`.
    """
    total, of_rows = np.zeros(2), binary if np.ndim(labels) == 2 else categorical
    for i in range(0, len(labels), ROWS):
        rows = np.asarray(logits[i : i + ROWS], "float64")
        total += of_rows(rows, labels[i : i + ROWS], inverse)
    return total


def categorical(rows, labels, inverse):
    """`slopes` of the cross entropy after a softmax."""
    rows = rows - rows.max(axis=1, keepdims=True)
    own = rows[np.arange(len(rows)), labels]
    if np.isinf(inverse):  # all weight on the largest
        return np.array([-own.sum(), 0.0])
    weights = np.exp(inverse * rows)
    weights /= weights.sum(axis=1, keepdims=True)
    means = (weights * rows).sum(axis=1)
    squares = (weights * rows**2).sum(axis=1)
    return np.array([(means - own).sum(), (squares - means**2).sum()])


def binary(rows, labels, inverse):
    """`slopes` of the binary cross entropy after a sigmoid."""
    if np.isinf(inverse):  # each class is sure, or of a logit of 0 neither
        return np.array([(rows * ((rows > 0) - labels.astype("float64"))).sum(), 0.0])
    probabilities = (1 + np.tanh(inverse * rows / 2)) / 2
    spread = probabilities * (1 - probabilities)
    return np.array([(rows * (probabilities - labels)).sum(), (rows**2 * spread).sum()])


def minimum(slopes: Callable[[float], np.ndarray]) -> float:
    """The temperature where `slopes` of the inverse temperature is zero; an error without one."""
    low, high = 0.0, np.inf
    if slopes(high)[0] <= 0:
        raise ValueError("every image is judged rightly: the lower it is, the better")
    if slopes(low)[0] >= 0:
        raise ValueError("the network is no better than chance: the higher it is, the better")
    inverse = 1.0
    for _ in range(200):
        first, second = slopes(inverse)
        low, high = (inverse, high) if first < 0 else (low, inverse)
        following = inverse - first / second if second > 0 else np.inf
        if not low < following < high:  # too far: double it, or halve the interval
            following = min(2 * inverse, (low + high) / 2)
        if abs(following - inverse) <= 1e-12 * inverse:
            break
        inverse = following
    return float(1 / following)
