"""`freeze_batch_norm`: all of a model's batch normalizations, wherever they are."""

import keras
import numpy as np
import pytest

import keras_smlp

pytestmark = pytest.mark.quick_once


def network(**arguments):
    return keras_smlp.SMLPNet(8, (1, 2), input_shape=(32, 32, 3), **arguments)


def flat():
    body = network(include_top=False, pooling="avg")
    return keras_smlp.PortableModel(body.input, keras.layers.Dense(2)(body.output))


def nested():
    inputs = keras.Input((32, 32, 3))
    return keras.Model(inputs, keras.layers.Dense(2)(network(classes=3)(inputs)))


def sequential():
    return keras.Sequential([nested(), keras.layers.BatchNormalization()])


@keras.saving.register_keras_serializable(package="tests")
class Own(keras.layers.Layer):
    """A user's layer with batch normalizations in a list and in a dictionary."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [keras.layers.BatchNormalization() for _ in range(2)]
        self.named = {"last": keras.layers.BatchNormalization()}

    def call(self, x):
        for part in (*self.parts, self.named["last"]):
            x = part(x)
        return x


BUILDERS = {flat: 7, nested: 7, sequential: 8, Own: 3}


@pytest.mark.parametrize("builder", BUILDERS)
def test_every_batch_normalization_is_found_and_no_other_layer(builder):
    model = builder()
    model(np.zeros((1, 32, 32, 3), "float32"))
    before = {v.path for v in model.trainable_variables}
    found = keras_smlp.freeze_batch_norm(model)
    assert len({id(x) for x in found}) == len(found) == BUILDERS[builder]
    assert all(isinstance(x, keras.layers.BatchNormalization) and not x.trainable for x in found)
    frozen = {v.path for x in found for v in (x.gamma, x.beta)}
    assert {v.path for v in model.trainable_variables} == before - frozen
    for layer in found:
        layer.trainable = True
    assert {v.path for v in model.trainable_variables} == before


@pytest.mark.quick_each
def test_frozen_ones_stay_in_training_and_the_rest_is_trained():
    keras.utils.set_random_seed(0)
    model = flat()
    found = keras_smlp.freeze_batch_norm(model)
    before = [layer.get_weights() for layer in found]
    kernel = np.array(model.layers[-1].get_weights()[0])
    model.compile("sgd", "mse")
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3))
    model.fit(images, np.ones((4, 2)), epochs=1, verbose=0)
    for old, layer in zip(before, found, strict=True):
        for value, now in zip(old, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(now, value)
    assert np.abs(model.layers[-1].get_weights()[0] - kernel).max() > 0


def test_a_frozen_network_folds_to_the_same_outputs():
    model = network(classes=3)
    keras_smlp.freeze_batch_norm(model)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    folded = keras_smlp.fold(model)
    np.testing.assert_allclose(
        folded.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5
    )
    with pytest.raises(ValueError, match="^`model` must have a batch normalization, which a fol"):
        keras_smlp.freeze_batch_norm(folded)


def test_a_layer_that_holds_a_circle_is_walked_through_once():
    model, circle = flat(), {}
    circle["self"] = [circle]
    object.__setattr__(model.layers[-1], "circle", circle)
    assert len(keras_smlp.freeze_batch_norm(model)) == BUILDERS[flat]


@pytest.mark.parametrize("model", [None, "model", [flat]])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ValueError, match=r"^`model` must be a keras\.Model or layer\. Received: "):
        keras_smlp.freeze_batch_norm(model)
