"""What a model takes and what it answers with, read off its graph.

Only what the graph shows is claimed. Layers before and after the network are ignored if they change
nothing. Whether they do, and whether one is a softmax or a sigmoid, is found by calling it on a few
numbers at inference, whatever its class or name is. Models used as layers are looked into.
"""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_smlp import naming
from keras_smlp.checks import check_choice
from keras_smlp.layers.initializers import TorchUniform
from keras_smlp.layers.patches import PatchConv
from keras_smlp.preprocessing import is_normalization

PIXELS, NORMALIZED, UNKNOWN = "pixels", "normalized", "unknown"
PROBABILITIES, SIGMOID, LOGITS = "probabilities", "sigmoid", "logits"
INPUTS = (PIXELS, NORMALIZED, UNKNOWN)
OUTPUTS = (PROBABILITIES, SIGMOID, LOGITS, UNKNOWN)
AUTO = "auto"
SAME = "same"  # what a layer that changes nothing computes


class Meaning(NamedTuple):
    """What a model takes and what it answers with.

    Attributes:
        inputs: `"pixels"` (in [0, 255], RGB if there are three channels), `"normalized"` (by
            ImageNet's mean and deviation) or `"unknown"`.
        outputs: `"probabilities"` (a softmax over the classes), `"sigmoid"` (a probability of each
            class by itself), `"logits"` or `"unknown"`.
    """

    inputs: str
    outputs: str


def meaning(model, inputs=AUTO, outputs=AUTO):
    """Decides what a model takes and what it answers with.

    The inputs are pixels where every reader of them is the package's own normalization, also if it
    is folded into the stem, and normalized where it is the stem of a network without one. The
    outputs are logits where the model ends in the head of the network itself, without an activation
    and for at least two classes. Everything else but a softmax and a sigmoid is unknown.

    Args:
        model: A model of one input, images, and one output, `(batch, classes)`.
        inputs: One of `INPUTS` where the user says it. Defaults to `"auto"`: see above.
        outputs: One of `OUTPUTS`, as `inputs`.

    Returns:
        A `Meaning`.

    Raises:
        ValueError: If one is no such string, or contradicts what is sure of the model.
    """
    said = {"inputs": (inputs, INPUTS), "outputs": (outputs, OUTPUTS)}
    for name, (value, allowed) in said.items():
        check_choice(name, value, (AUTO, *allowed))
    graph = read(model)
    takes = readers(graph, graph.start) if graph else {UNKNOWN}
    takes = takes.pop() if len(takes) == 1 else UNKNOWN
    answers = end(graph) if graph else UNKNOWN
    takes, answers = (UNKNOWN if x == SAME else x for x in (takes, answers))
    classes = model.outputs[0].shape[-1]
    if inputs == NORMALIZED and takes == PIXELS:
        raise ValueError(
            f"`inputs` must not be 'normalized' for a model that normalizes the pixels itself. "
            f"Received: inputs={inputs!r}"
        )
    if outputs == LOGITS and (answers in (PROBABILITIES, SIGMOID) or classes == 1):
        why = "of one output" if classes == 1 else f"that ends in {ACTIVATIONS[answers]}"
        raise ValueError(
            f"`outputs` must not be 'logits' for a model {why}. Received: outputs={outputs!r}"
        )
    if answers == LOGITS and classes == 1:  # the softmax of one number is always 1
        answers = UNKNOWN
    return Meaning(takes if inputs == AUTO else inputs, answers if outputs == AUTO else outputs)


ACTIVATIONS = {PROBABILITIES: "a softmax", SIGMOID: "a sigmoid"}


# ---- the graph ----------------------------------------------------------------------------------
class Call(NamedTuple):
    """A call of an operation in a graph.

    Attributes:
        operation: A Keras layer, model or operation.
        args: Positional arguments, symbolic tensors among them.
        kwargs: Keyword arguments.
        sources: The list of these tensors.
        outputs: The list of the tensors that it returns.
    """

    operation: Any
    args: tuple
    kwargs: dict
    sources: list
    outputs: list


class Graph(NamedTuple):
    """The calls of a model of one input and one output, and where it begins and ends.

    Attributes:
        calls: List of `Call`, each after those whose tensors it takes.
        start: The symbolic tensor that is the input.
        end: The one that is the output.
    """

    calls: list
    start: keras.KerasTensor
    end: keras.KerasTensor


class Seen(keras.layers.Layer):
    """Takes the place of a call while a graph is read: from any tensors to some of given shapes."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes = shapes

    def compute_output_spec(self, tensors):
        return [keras.KerasTensor(shape, dtype) for shape, dtype in self.shapes]


@functools.cache
def functional():
    """Keras' class of models that are a graph."""
    x = keras.Input((1,))
    return type(keras.Model(x, keras.layers.Identity()(x)))


def is_graph(operation):
    """Whether it is a model of one input and output that answers what its graph computes."""
    if not isinstance(operation, (functional(), keras.Sequential)) or not operation.built:
        return False
    own = (functional().call, keras.Sequential.call)
    return type(operation).call in own and len(operation.inputs) == len(operation.outputs) == 1


def read(model):
    """The `Graph` of a model; `None` if it is none, or cannot be read."""
    if not is_graph(model):
        return None
    calls = []

    def seen(operation, *args, **kwargs):
        sources = [x for x in keras.tree.flatten((args, kwargs)) if is_tensor(x)]
        found = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
        outputs = Seen(tuple((x.shape, x.dtype) for x in found))(sources)
        calls.append(Call(operation, args, kwargs, sources, outputs))
        return outputs

    # Keras walks through the graph; no layer is called, none is copied
    try:
        copy = keras.models.clone_model(
            keras.Model(model.inputs, model.outputs),
            clone_function=lambda operation: operation,
            call_function=seen,
        )
    except Exception:  # a layer of the user's own that does not tell its output's shape
        return None
    return Graph(calls, copy.inputs[0], copy.outputs[0])


def is_tensor(x):
    """Whether it is a symbolic tensor."""
    return isinstance(x, keras.KerasTensor)


# ---- its ends -----------------------------------------------------------------------------------
def end(graph):
    """What a graph ends in: one of `OUTPUTS`, or `SAME` if it changes nothing of its input."""
    tensor = graph.end
    for call in reversed(graph.calls):
        if any(x is tensor for x in call.outputs):
            found = last(call)
            if found != SAME:
                return found
            tensor = call.sources[0]
    return SAME


def last(call):
    """What the last call of a graph makes its output, or `SAME`."""
    layer = call.operation
    if len(call.sources) != 1:
        return UNKNOWN
    if inner := read(layer):
        return end(inner)
    if type(layer) in (keras.layers.Dense, keras.layers.EinsumDense):
        found = computed(layer.activation, call.outputs[0].shape[1:])
        if found == SAME:
            return LOGITS if is_own_head(layer) else UNKNOWN
        return found
    return computed(lambda x: run(call, x), call.sources[0].shape[1:])


def is_own_head(layer):
    """Whether it is the head that `keras_smlp.SMLPNet` makes, not a user's of the same name."""
    return layer.name == naming.HEAD and isinstance(layer.kernel_initializer, TorchUniform)


def readers(graph, tensor):
    """What a tensor is taken for by all that read it, a set; `SAME` is in it for an output."""
    found = {SAME} if tensor is graph.end else set()
    for call in graph.calls:
        if any(x is tensor for x in call.sources):
            taken = first(call)
            found |= taken - {SAME}
            if SAME in taken:
                found |= readers(graph, call.outputs[0])
    return found


def first(call):
    """What a call takes its input for; `SAME` is among it where the output is the input."""
    layer = call.operation
    if naming.is_gray_to_rgb(layer) and len({id(x) for x in call.sources}) == 1:
        return {SAME}  # the same image, three times
    if len(call.sources) != 1:
        return {UNKNOWN}
    if inner := read(layer):
        return readers(inner, inner.start)
    if is_normalization(layer):
        return {PIXELS}
    if isinstance(layer, PatchConv) and layer.name == naming.STEM:
        return {PIXELS if layer.use_bias else NORMALIZED}  # `fold` puts the normalization there
    return {SAME if is_same(call) else UNKNOWN}


# ---- what a call computes -----------------------------------------------------------------------
def run(call, x):
    """The call at inference, with `x` in the place of its tensor."""

    args, kwargs = keras.tree.map_structure(
        lambda argument: x if is_tensor(argument) else argument, (call.args, call.kwargs)
    )
    if isinstance(call.operation, keras.Layer):
        kwargs["training"] = False
    return call.operation(*args, **kwargs)


def computed(function, shape):
    """What a function makes of rows: a softmax, a sigmoid, `SAME` or something unknown."""
    if len(shape) != 1 or shape[0] is None:
        return UNKNOWN
    # numbers that 16 bits hold as they are: small ones, and some that a clipping would change
    small = np.random.default_rng(0).integers(-127, 128, (8, *shape)).astype("float32") / 16
    x = np.concatenate([small, small * 1024])
    y, tolerance = attempt(function, x)
    exponentials = np.exp(small)
    known = {
        PROBABILITIES: exponentials / exponentials.sum(-1, keepdims=True),
        SIGMOID: 1 / (1 + 1 / exponentials),
    }
    if np.array_equal(x, y):
        return SAME
    if y.shape == x.shape:
        for name, values in known.items():
            if np.allclose(y[:8], values, rtol=0, atol=tolerance):
                return name
    return UNKNOWN


def is_same(call):
    """Whether a call leaves images as they are."""
    shape = call.sources[0].shape[1:]
    if None in shape:
        return False
    x = np.random.default_rng(0).integers(-255, 256, (2, *shape)).astype("float32")
    return np.array_equal(x, attempt(lambda x: run(call, x), x)[0])


def attempt(function, x):
    """What a function answers, in float32, and how exact that is; an empty array if it fails."""
    try:
        y = function(ops.convert_to_tensor(x))
        tolerance = 1e-5 if keras.backend.standardize_dtype(y.dtype) == "float32" else 1e-2
        return ops.convert_to_numpy(ops.cast(y, "float32")), tolerance
    except Exception:  # it takes something else
        return np.zeros(0, "float32"), 0
