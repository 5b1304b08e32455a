"""The same network in another precision."""

import keras
import numpy as np
import pytest
from helpers.nets import SMALL, answer, net, pixels, quantized

import keras_smlp
from keras_smlp.deploy.precision import leaves, with_precision
from reference.stand_in import relative

pytestmark = pytest.mark.quick_once


def dtypes(model):
    """What the layers compute in, and what their weights are stored in."""
    layers = [layer for layer in model.layers if layer.name != "avg_pool"]
    stored = {v.path: v.dtype for v in model.weights}
    return stored, {layer.name: layer.compute_dtype for layer in layers}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "bfloat16", "float16"])
def test_it_is_the_network_built_with_that_dtype(policy, precision):
    model = net(dtype=policy)
    changed = with_precision(model, precision)
    built = keras_smlp.SMLPNet(**SMALL, classifier_activation=None, dtype=precision)
    assert dtypes(changed) == dtypes(built)
    assert type(changed) is keras_smlp.PortableModel
    expected = answer(net(), pixels())
    found = answer(changed, pixels())
    exact = {policy, precision} <= {"float32", "mixed_bfloat16"}
    assert relative(found, expected) < (1e-6 if exact else 0.05)


def test_what_has_the_precision_is_given_back():
    model = net()
    assert with_precision(model, "float32") is model
    half = with_precision(keras_smlp.fold(model), "bfloat16")
    assert with_precision(half, "bfloat16") is half and not half.trainable
    assert half.get_layer("stem").compute_dtype == "float32"  # it takes raw pixels
    assert half.get_layer("stage2_downsample").compute_dtype == "bfloat16"
    assert with_precision(quantized(), "float32").layers


def test_a_head_of_ones_own_stays():
    body = net(include_top=False, pooling="avg")
    head = keras.layers.Dense(2, name="mine")
    whole = keras_smlp.PortableModel(body.input, head(body.output))
    changed = with_precision(whole, "bfloat16")
    assert changed.get_layer("mine").compute_dtype == "float32"
    assert changed.get_layer("norm").compute_dtype == "bfloat16"
    np.testing.assert_array_equal(changed.get_layer("mine").kernel, head.kernel)


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["plain", "sequential", "twice"])
def test_a_network_that_is_a_layer_changes_too(kind, precision):
    network = net(dtype="mixed_bfloat16")
    inputs = keras.Input(SMALL["input_shape"])
    plain = keras.Model(network.input, network.output)  # its own policy is the global one
    if kind == "plain":
        model = keras.Model(inputs, plain(inputs))
    elif kind == "sequential":
        model = keras.Sequential([inputs, network])
    else:
        inner = keras.Sequential([keras.Input(SMALL["input_shape"]), plain])
        model = keras.Model(inputs, keras.layers.Identity()(inner(inputs)))
    changed = with_precision(model, precision)
    computes = {x.name: x.compute_dtype for x in leaves(changed)}
    assert computes["norm"] == computes["stage1_block1_token_mixing"] == precision
    assert computes["preprocessing"] == computes["predictions"] == "float32"
    exact = precision == "float32"
    assert relative(answer(changed, pixels()), answer(net(), pixels())) < (1e-6 if exact else 0.05)


def test_a_network_within_a_class_of_ones_own_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.network = net(dtype="mixed_bfloat16")

        def call(self, x):
            return self.network(x)

        def get_config(self):
            return {"name": "own"}

    inputs = keras.Input(SMALL["input_shape"])
    with pytest.raises(ValueError, match="^`model` must be a graph .*'own' of type Own$"):
        with_precision(keras.Model(inputs, Own()(inputs)), "float32")
