"""Folding: the same answers from fewer operations, and what cannot be folded is refused."""

import keras
import numpy as np
import pytest
from helpers.nets import SMALL, answer, build, net, pixels

import keras_smlp
from keras_smlp.layers import Affine
from keras_smlp.training.engines.base import batch_norms
from reference import stand_in
from reference.stand_in import relative

pytestmark = pytest.mark.quick_once

BLOCKS = (
    "norm1 -> a factor and a summand, norm2 -> conv, in 2 token mixings",
    "scale and shift of norm -> dense1, in 2 channel mixings",
)
PIXELS, HEAD = "preprocessing -> stem", "norm -> predictions"
NORM = "norm -> a factor and a summand"


def fold(model, x=None):
    """The folded model, which must answer the same."""
    folded, x = keras_smlp.fold(model), pixels() if x is None else x
    answers = (keras.tree.flatten(answer(net, x)) for net in (folded, model))
    for found, expected in zip(*answers, strict=True):
        assert max(map(relative, found, expected)) < 1e-5  # of each image
    return folded


SIZES = {"expansion": 2, "patch_size": 2, "drop_path_rate": 0.2}
CASES = {
    "whole": ({}, (PIXELS, HEAD, *BLOCKS)),
    "softmax": ({"classifier_activation": "softmax"}, (PIXELS, HEAD, *BLOCKS)),
    "normalized images": ({"include_preprocessing": False}, (HEAD, *BLOCKS)),
    "other sizes": (SIZES, (PIXELS, HEAD, *BLOCKS)),
    "last map": ({"include_top": False}, (PIXELS, *BLOCKS, NORM)),
    "avg": ({"include_top": False, "pooling": "avg"}, (PIXELS, *BLOCKS, NORM)),
    "max": ({"include_top": False, "pooling": "max"}, (PIXELS, *BLOCKS, NORM)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_folded_network_answers_the_same_with_less(case):
    arguments, lines = CASES[case]
    model = net(**arguments)
    folded = fold(model)
    assert folded.folding == lines
    assert batch_norms(model) and not batch_norms(folded)
    assert len(folded.variables) < len(model.variables)
    assert folded.trainable_variables == [] and not folded.compiled
    assert type(folded) is keras_smlp.PortableModel and folded.name == model.name


def test_a_folded_network_equals_the_official_code(checkpoint):
    folded = keras_smlp.fold(build(weights=checkpoint("micro")))
    logits = answer(folded, stand_in.images("micro"))
    assert relative(logits, stand_in.golden("micro")["logits"]) < 1e-5


def test_every_statistic_matters():
    """What was not drawn, or not folded, would be seen above: here each norm moves the output."""
    model, x = net(), pixels()
    folded = keras_smlp.fold(model)
    for layer in batch_norms(model):
        for variable in layer.variables:
            value = np.array(variable)
            variable.assign(value + 0.5)
            assert relative(answer(model, x), answer(folded, x)) > 1e-3
            variable.assign(value)


def test_the_model_that_was_folded_is_as_before():
    model, x = net(), pixels()
    before, weights = answer(model, x), model.get_weights()
    keras_smlp.fold(model).get_layer("stem").kernel.assign(0 * model.get_layer("stem").kernel)
    np.testing.assert_array_equal(answer(model, x), before)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_images_of_any_type(dtype):
    """Also where the input itself is declared as integers."""
    inputs = keras.Input((16, 32, 3), dtype=dtype)
    model = net(input_tensor=inputs, input_shape=None)
    x = pixels(dtype=dtype)
    folded = fold(model, x)
    assert relative(keras.ops.convert_to_numpy(folded(x)), answer(model, x)) < 1e-5


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_under_16_bits_the_pixels_are_normalized_in_float32(policy):
    full, model = net(), net(dtype=policy)
    folded = keras_smlp.fold(model)
    assert folded.folding == (HEAD, *BLOCKS)
    assert folded.get_layer("preprocessing").compute_dtype == "float32"
    assert folded.dtype_policy.name == policy
    x = pixels()
    expected = answer(full, x)
    error = relative(answer(folded, x), expected)
    assert error < 0.03 and error < 2 * relative(answer(model, x), expected) + 1e-3


# ---- other graphs -------------------------------------------------------------------------------
def test_a_head_of_ones_own_takes_the_last_norm():
    body = net(include_top=False, pooling="avg")
    dense = keras.layers.Dense(4, use_bias=False, activation="tanh", name="mine")
    folded = fold(keras_smlp.PortableModel(body.input, dense(body.output)))
    assert "norm -> mine" in folded.folding


def test_a_norm_that_something_else_reads_stays():
    """Layers called twice, a second output, a dropout before the dense layer: nothing is merged."""
    whole = net()
    dropped = keras.layers.Dropout(0.1)(whole.get_layer("avg_pool").output)
    norm, dense = whole.get_layer("norm"), whole.get_layer("predictions")
    models = [
        keras.Model(whole.input, [whole.output, norm(norm.input)]),
        keras.Model(whole.input, [whole.output, dense(norm.input)]),
        keras.Model(whole.input, [whole.output, norm.output]),
        keras.Model(whole.input, [whole.output, whole.get_layer("avg_pool").output]),
        keras.Model(whole.input, keras.layers.Dense(2)(dropped)),
    ]
    for model in models:
        folded = fold(model)
        assert folded.folding == (PIXELS, *BLOCKS, NORM)
        assert isinstance(folded.get_layer("norm"), Affine)


def test_pixels_that_something_else_reads_stay_normalized():
    whole = net()
    normalized = whole.get_layer("preprocessing").output
    model = keras.Model(whole.input, [whole.output, keras.ops.mean(normalized, (1, 2))])
    assert fold(model).folding == (HEAD, *BLOCKS)


def test_features_of_a_folded_network():
    model, x = net(), pixels()
    maps = keras_smlp.feature_extractor(model)
    expected = answer(maps, x)
    one = keras_smlp.feature_extractor(keras_smlp.fold(model))
    assert one.pyramid_level_inputs == fold(maps).pyramid_level_inputs
    for level, y in answer(one, x).items():
        assert relative(y, expected[level]) < 1e-5
    expected = keras_smlp.intermediate(model, x)
    for name, y in keras_smlp.intermediate(keras_smlp.fold(model), x).items():
        assert relative(y, expected[name]) < 1e-5, name


# ---- files --------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["whole", "max"])
def test_a_folded_file_loads(case, tmp_path):
    folded, x = keras_smlp.fold(net(**CASES[case][0])), pixels()
    folded.save(tmp_path / "folded.keras")
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    assert relative(answer(loaded, x), answer(folded, x)) < 1e-6
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in folded.layers]
    assert loaded.trainable_variables == []


def test_folded_weights_are_not_a_networks(tmp_path):
    folded = keras_smlp.fold(net())
    folded.save(tmp_path / "folded.keras")
    with pytest.raises(ValueError, match="`weights` do not fit the model.*missing: .*norm2"):
        keras_smlp.SMLPNet(**SMALL, weights=tmp_path / "folded.keras")
    with pytest.raises(ValueError, match="`model` must not be folded"):
        keras_smlp.save_official(folded, tmp_path / "folded.pth")


def test_a_folded_network_does_not_train():
    folded, x = keras_smlp.fold(net()), pixels()
    with pytest.raises(ValueError, match="`training` must not be true for a folded network"):
        folded(x, training=True)
    folded.compile("sgd", "mse")
    assert np.isfinite(folded.evaluate(x, np.zeros((3, 5)), verbose=0))
    with pytest.raises(ValueError, match="for inference"):
        folded.fit(x, np.zeros((3, 5)), verbose=0)
