"""What a model takes and answers with, by its graph; and that what is exported answers the same."""

import functools

import keras
import numpy as np
import pytest
from helpers.nets import answer, pixels, trained_like
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import keras_smlp
from keras_smlp.deploy.export import runtimes, writing
from keras_smlp.deploy.export.meaning import INPUTS, OUTPUTS, Meaning, meaning

pytestmark = pytest.mark.quick_once

SHAPE = (8, 8, 3)


@functools.cache
def network(activation="softmax", classes=3, preprocessing=True, top=True, name="net"):
    """A trained network, shared."""
    head = {"classes": classes, "classifier_activation": activation} if top else {"pooling": "avg"}
    own = {"input_shape": SHAPE, "include_preprocessing": preprocessing, "include_top": top}
    return trained_like(keras_smlp.SMLPNet(8, (1,), name=name, **head, **own))


# what changes nothing, at the front or at the end of a model
SAME = {
    "identity": layers.Identity,
    "linear": lambda: layers.Activation("linear"),
    "dropout": lambda: layers.Dropout(0.5),
    "noise": lambda: layers.GaussianNoise(0.5),
    "float32": lambda: lambda x: ops.cast(x, "float32"),
    "nothing added": lambda: lambda x: x + 0.0,
    "lambda": lambda: layers.Lambda(lambda x: x),
    "nested": lambda: keras.Sequential([layers.Identity(), layers.Dropout(0.1)]),
}
FRONT = SAME | {
    "flip": lambda: layers.RandomFlip(),
    "rescaling by one": lambda: layers.Rescaling(1.0),
    "from [0, 1]": lambda: layers.Rescaling(255.0),
    "own normalization": lambda: layers.Normalization(mean=3.0, variance=2.0),
    "relu": lambda: layers.ReLU(),
    "blur": lambda: layers.AveragePooling2D(2, 1, "same"),
}
HARMLESS = {*SAME, "flip", "rescaling by one"}
LAST = {
    "none": (lambda x: x, None),
    "softmax layer": (lambda x: layers.Softmax()(x), "probabilities"),
    "softmax activation": (lambda x: layers.Activation("softmax")(x), "probabilities"),
    "ops.softmax": (lambda x: ops.softmax(x), "probabilities"),
    "a softmax of ours": (
        lambda x: layers.Lambda(lambda x: ops.exp(x - ops.logsumexp(x, -1, keepdims=True)))(x),
        "probabilities",
    ),
    "ops.sigmoid": (lambda x: ops.sigmoid(x), "sigmoid"),
    "sigmoid activation": (lambda x: layers.Activation("sigmoid")(x), "sigmoid"),
    "softmax over the batch": (lambda x: ops.softmax(x, axis=0), "unknown"),
    "doubled": (lambda x: x * 2.0, "unknown"),
    "clipped": (lambda x: ops.clip(x, -100, 100), "unknown"),
    "relu": (lambda x: layers.ReLU()(x), "unknown"),
    "temperature": (lambda x: ops.softmax(x / 1.5), "probabilities"),
    "log": (lambda x: ops.log_softmax(x), "unknown"),
}
HEADS = {"softmax": "probabilities", "sigmoid": "sigmoid", "tanh": "unknown", None: "unknown"}
NESTING = ("flat", "layer", "sequential", "sequential in a model", "twice")


def nested(net, nesting):
    """The network as a function of symbolic images."""
    if nesting == "sequential in a model":
        return keras.Sequential([keras.Input(SHAPE), net])
    if nesting == "sequential":
        return keras.Sequential([net])
    if nesting == "twice":
        images = keras.Input(SHAPE)
        return keras.Model(images, net(layers.Identity()(images)))
    return net


WRAPPED = {
    "front": st.lists(st.sampled_from(sorted(FRONT)), max_size=2),
    "tail": st.lists(st.sampled_from(sorted(SAME)), max_size=2),
    "nesting": st.sampled_from(NESTING),
    "preprocessing": st.booleans(),
    "is_own": st.booleans(),
    "activation": st.sampled_from(list(HEADS)),
    "last": st.sampled_from(sorted(LAST)),
    "second": st.sampled_from([None, None, None, "ours", "a user's"]),
}


def wrapped(front, tail, nesting, preprocessing, is_own, activation, last, second):
    """A model around a network, and what it means."""
    net = network(activation if is_own else None, preprocessing=preprocessing, top=is_own)
    x = images = keras.Input(SHAPE)
    if nesting == "flat" and not front:
        images, y = net.input, net.output
    else:
        for name in front:
            x = FRONT[name]()(x)
        y = nested(net, nesting)(x)
    if not is_own:
        y = layers.Dense(3, activation=activation)(y)
    if second == "ours":
        y = layers.Add()([y, network(preprocessing=preprocessing, name="other")(images)])
    elif second:
        y = layers.Add()([y, layers.Dense(3)(layers.GlobalAveragePooling2D()(images))])
    for name in tail:
        y = SAME[name]()(y)
    function, found = LAST[last]
    model = keras.Model(images, function(y))

    is_known = HARMLESS.issuperset(front) and second != "a user's"
    inputs = "unknown" if not is_known else "pixels" if preprocessing else "normalized"
    own = "logits" if is_own and activation is None else HEADS[activation]
    return model, Meaning(inputs, found or ("unknown" if second else own))


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.fixed_dictionaries(WRAPPED))
def test_the_meaning_is_right_and_the_answer_stays(case):
    model, expected = wrapped(**case)
    found = meaning(model)
    assert found == expected
    exported = writing.endpoint(model, found, features=False)
    for images in (pixels(3, *SHAPE, dtype="float32"), np.float32(pixels(3, *SHAPE) / 99 - 1)):
        wanted = answer(model, images)
        if expected.outputs == "logits":
            wanted = keras.ops.convert_to_numpy(ops.softmax(wanted))
        ((name, values),) = answer(exported, images).items()
        assert name == ("outputs" if expected.outputs == "unknown" else "probabilities")
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-6)


def around(net, last=None, first=None):
    """A model with the network as a layer."""
    images = keras.Input(SHAPE, name="photo")
    y = net(first(images) if first else images)
    return keras.Model({"photo": images}, {"classes": last(y) if last else y}, name="images")


CASES = {
    "sigmoid": (lambda: network("sigmoid", 1), "pixels", "sigmoid"),
    "nested": (lambda: around(network(), first=layers.RandomFlip()), "pixels", "probabilities"),
    "foreign": (
        lambda: around(network(top=False), layers.Dense(3), layers.Rescaling(255.0)),
        "unknown",
        "unknown",
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("case", CASES)
def test_a_file_answers_as_the_model(case, tmp_path):
    pytest.importorskip("torch", reason="writes .pt2")
    build, *expected = CASES[case]
    model, images = build(), pixels(2, *SHAPE)
    path = keras_smlp.export(model, tmp_path / "v1.0 *?[a].pt2", "torch")
    found = runtimes.opened(path, "torch")(images)
    given = keras.tree.map_structure(lambda _: images.astype("float32"), model.input)
    (wanted,) = keras.tree.flatten(answer(model, given))
    (values,) = found.values()
    np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-6)
    assert list(meaning(model)) == expected
    assert list(found) == ["outputs" if expected[1] == "unknown" else "probabilities"]
    assert [x.name for x in tmp_path.iterdir()] == [path.name]


def test_folding_keeps_what_is_known():
    for net in (network(), network(preprocessing=False), network(None)):
        assert meaning(keras_smlp.fold(net)) == meaning(net)
    # a user's factor in the stem would look as the package's normalization does
    images = keras.Input(SHAPE)
    own = keras_smlp.SMLPNet(
        8, (1,), input_tensor=layers.Rescaling(2.0)(images), include_preprocessing=False, classes=3
    )
    folded = keras_smlp.fold(own)
    assert meaning(folded) == ("unknown", "probabilities")
    images = pixels(2, *SHAPE, dtype="float32") / 99
    np.testing.assert_allclose(answer(folded, images), answer(own, images), atol=1e-5)


def test_what_a_graph_does_not_show_is_unknown():
    @keras.saving.register_keras_serializable()
    class Doubled(keras_smlp.PortableModel):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training)

    net, images = network(None), pixels(2, *SHAPE, dtype="float32")
    model = Doubled(net.input, net.output)
    assert meaning(model) == meaning(around(model)) == ("unknown", "unknown")
    found = answer(writing.endpoint(model, meaning(model), features=False), images)
    np.testing.assert_allclose(found["outputs"], 2 * answer(net, images), rtol=1e-5)

    class Unsaved(layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def call(self, x):
            return self.function(x)

    assert meaning(around(net, Unsaved(ops.tanh))) == ("pixels", "unknown")
    assert meaning(around(net, Unsaved(lambda x: x[:, :2]))) == ("pixels", "unknown")
    assert meaning(around(net, Unsaved(ops.softmax))) == ("pixels", "probabilities")
    # the softmax of one number is always 1; a head of a user's is not the network's
    assert meaning(network(None, classes=1)) == ("pixels", "unknown")
    named = layers.Dense(3, name="predictions")(network(top=False).output)
    assert meaning(keras.Model(network(top=False).input, named)).outputs == "unknown"


def test_the_user_says_it():
    logits = keras.Model(network(top=False).input, layers.Dense(3)(network(top=False).output))
    for value in INPUTS:
        if value != "normalized":
            assert meaning(logits, inputs=value).inputs == value
    for value in OUTPUTS:
        assert meaning(logits, outputs=value) == ("pixels", value)
    images = pixels(2, *SHAPE, dtype="float32")
    found = writing.endpoint(logits, meaning(logits, outputs="logits"), features=False)
    wanted = ops.convert_to_numpy(ops.softmax(answer(logits, images)))
    np.testing.assert_allclose(answer(found, images)["probabilities"], wanted, rtol=1e-5)
    raw = network(None)
    found = writing.endpoint(raw, meaning(raw, outputs="unknown"), features=False)
    np.testing.assert_allclose(answer(found, images)["outputs"], answer(raw, images), rtol=1e-5)

    refused = {
        r"`inputs` must be one of \('auto', 'pixels'.* inputs='rgb'": {"inputs": "rgb"},
        "`outputs` must be one of .* outputs=None": {"outputs": None},
        "`inputs` must not be 'normalized' for a model that norm": {"inputs": "normalized"},
        "`outputs` must not be 'logits' for a model that ends in a softmax": {"outputs": "logits"},
    }
    for words, arguments in refused.items():
        with pytest.raises(ValueError, match=words):
            meaning(network(), **arguments)
    with pytest.raises(ValueError, match="`outputs` must not be 'logits' for a model of one out"):
        meaning(network(None, classes=1), outputs="logits")
