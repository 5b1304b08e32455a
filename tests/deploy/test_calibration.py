"""A fitted temperature against a search; a calibrated model against its logits divided."""

import keras
import numpy as np
import pytest
from helpers import nets
from helpers.nets import answer, net, pixels

import keras_smlp

pytestmark = pytest.mark.quick_once


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def loss(logits, labels, temperature):
    """The mean cross entropy, the plain way."""
    return -np.log(softmax(logits / temperature)[np.arange(len(labels)), labels]).mean()


# ---- the temperature ----------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize("scale", [0.01, 0.3, 1, 7, 300])
def test_the_temperature_is_the_one_of_the_least_loss(scale):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 3000)
    logits = rng.normal(size=(3000, 5))
    logits[np.arange(3000), labels] += 1
    found = keras_smlp.fit_temperature((logits * scale).astype("float32"), labels)
    # what generated the labels is a softmax of these logits at the temperature 1
    assert found == pytest.approx(scale, rel=0.06)
    around = [loss(logits * scale, labels, found * x) for x in (0.99, 1, 1.01)]
    assert around[1] < min(around[0], around[2])
    again = keras_smlp.fit_temperature((logits * scale).astype("float32"), labels)
    assert again == found


@pytest.mark.once
def test_of_two_classes_it_is_that_of_the_odds():
    logits = np.array([[4.0, 0]] * 4)
    found = keras_smlp.fit_temperature(logits, [0, 0, 0, 1])
    assert found == pytest.approx(4 / np.log(3), rel=1e-9)


@pytest.mark.once
@pytest.mark.parametrize("scale", [0.01, 0.3, 1, 7, 300])
def test_of_several_labels_it_is_that_of_the_least_binary_cross_entropy(scale):
    optimize = pytest.importorskip("scipy.optimize", reason="searches")
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(2500, 4))  # more rows than are computed at a time
    labels = rng.random((2500, 4)) < 1 / (1 + np.exp(-logits))
    found = keras_smlp.fit_temperature((logits * scale).astype("float32"), labels)
    # what generated the labels is a sigmoid of these logits at the temperature 1
    assert found == pytest.approx(scale, rel=0.06)

    def loss(inverse):
        p = 1 / (1 + np.exp(-logits * scale * inverse))
        return -np.log(np.where(labels, p, 1 - p)).sum()

    best = optimize.minimize_scalar(loss, (0.5 / scale, 2 / scale)).x
    assert found == pytest.approx(1 / best, rel=1e-6)
    rows = logits[:, :1] * [[1, 0]] * scale  # a single class, and one that says nothing
    truth = np.stack([labels[:, 0], labels[:, 1]], axis=1).astype(int)
    odds = np.concatenate([rows[:, :1], np.zeros_like(rows[:, :1])], axis=1)
    pair = keras_smlp.fit_temperature(odds, 1 - truth[:, 0])  # a softmax of two is a sigmoid
    assert keras_smlp.fit_temperature(rows, truth) == pytest.approx(pair, rel=1e-9)


@pytest.mark.once
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0, 0]], [0], "every image is judged rightly: the lower it is, the better"),
        ([[1.0, 0]], [1], "the network is no better than chance: the higher it is, the better"),
        ([[np.inf, 0]], [1], "`logits` must be finite"),
        (np.zeros((0, 2)), np.zeros(0, int), "at least one row and two classes"),
        ([[1.0, 0]], [2], "`labels` must be from 0 to 1, the classes of `logits`. Received: lab"),
        ([[1.0, 0]], [0.0], "`labels` must be 1 integers, one for each row"),
        ([[1.0, -1]], [[1, 0]], "every image is judged rightly: the lower it is, the better"),
        ([[1.0, -1]], [[0, 1]], "the network is no better than chance: the higher it is"),
        ([[1.0, 0]], [[0, 2]], "`labels` must be from 0 to 1, for the classes of each row. Rec"),
        ([[1.0, 0]], [[0]], "or zeros and ones (1, 2). Received: labels of the shape (1, 1)"),
    ],
)
def test_no_temperature(logits, labels, message):
    with pytest.raises(ValueError) as caught:
        keras_smlp.fit_temperature(logits, labels)
    assert message in str(caught.value)


# ---- the model ----------------------------------------------------------------------------------


def with_softmax():
    return net(classifier_activation="softmax")


def with_a_layer_after():
    """As train.py saves it."""
    model = net()
    softmax = keras.layers.Softmax(name="probabilities", dtype="float32")
    return keras_smlp.PortableModel(model.input, softmax(model.output))


def with_own_head():
    body = net(include_top=False, pooling="avg")
    outputs = keras.layers.Dense(3, activation="softmax", name="mine")(body.output)
    return keras_smlp.PortableModel(body.input, outputs)


def inside_another():
    model = net()
    inputs = keras.Input(model.input_shape[1:])
    return keras.Model(inputs, keras.layers.Activation("softmax")(model(inputs)))


def folded():
    return keras_smlp.fold(with_softmax())


MODELS = [net, with_softmax, with_a_layer_after, with_own_head, inside_another, folded]


@pytest.mark.quick_each
@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_logits_are_divided(build, tmp_path):
    model, images = build(), pixels()
    before = answer(model, images).astype("float64")
    logits = before if build is net else np.log(before)
    keras_smlp.calibrate(model, 2.5)
    model.save(tmp_path / "calibrated.keras")
    for found in (model, keras_smlp.load_model(tmp_path / "calibrated.keras")):
        expected = logits / 2.5 if build is net else softmax(logits / 2.5)
        np.testing.assert_allclose(answer(found, images), expected, rtol=3e-6, atol=1e-6)
    np.testing.assert_array_equal(answer(model, images).argmax(-1), before.argmax(-1))


def test_folding_keeps_the_temperature():
    first, second = net(), net()
    keras_smlp.calibrate(first, 3)
    folded = keras_smlp.fold(second)
    keras_smlp.calibrate(folded, 3)
    one, other = answer(keras_smlp.fold(first), pixels()), answer(folded, pixels())
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def quantized_head():
    model = nets.net()
    keras_smlp.quantize(model)
    return model


def softmax_twice():
    model = with_softmax()
    return keras_smlp.PortableModel(model.input, keras.layers.Softmax()(model.output))


def something_after():
    model = net()
    return keras_smlp.PortableModel(model.input, keras.layers.Rescaling(2.0)(model.output))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: net(include_top=False), "must end in a dense layer, alone or with a softmax or"),
        (softmax_twice, "must end in a dense layer"),
        (something_after, "must end in a dense layer"),
        (quantized_head, "must have a head of plain weights. Received: 'predictions', quantized"),
    ],
)
def test_what_has_no_logits_to_divide_is_refused_and_not_changed(build, message):
    model = build()
    before = model.get_weights()
    with pytest.raises(ValueError, match="^`model` ") as caught:
        keras_smlp.calibrate(model, 2)
    assert message in str(caught.value)
    np.testing.assert_equal(model.get_weights(), before)
