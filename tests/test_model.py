"""The constructors: what Keras users expect of one, and what is refused."""

import inspect

import keras
import numpy as np
import pytest
from helpers.nets import SMALL, answer, build, drop_path_states, pixels, published
from keras import ops

import keras_smlp
from keras_smlp.preprocessing import MEAN, STD
from reference import stand_in

pytestmark = pytest.mark.quick_once


def network(**arguments):
    return keras_smlp.SMLPNet(**{**SMALL, **arguments})


@pytest.fixture(scope="module")
def small():
    return network()


@pytest.fixture
def like_small(small):
    """A function that builds a small network with other arguments and the weights of `small`."""

    def like_small(**arguments):
        model = network(**arguments)
        model.set_weights(small.get_weights()[: len(model.weights)])
        return model

    return like_small


def normalized(images):
    return ((images / 255 - np.array(MEAN)) / np.array(STD)).astype("float32")


# ---- signature and table ------------------------------------------------------------------------
def test_signature_is_that_of_keras_applications():
    keras_own = inspect.signature(keras.applications.ConvNeXtTiny).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in keras_own}
    defaults |= {"weights": None, "drop_path_rate": None}
    del defaults["name"]
    for name in ("SMLPNet", "SMLPNetTiny", "SMLPNetSmall", "SMLPNetBase"):
        function = getattr(keras_smlp, name)
        parameters = dict(inspect.signature(function).parameters)
        assert list(parameters)[-2:] == ["name", "dtype"]
        for key, default in defaults.items():
            assert parameters[key].default == default
        assert function.__name__ == name
        for key in parameters:
            assert f"\n    {key}: " in inspect.getdoc(function), (name, key)
    first = " ".join(list(inspect.signature(keras_smlp.SMLPNet).parameters)[:4])
    assert first == "dim depths expansion patch_size"


def test_table_of_variants():
    assert keras_smlp.list_models() == ["tiny", "small", "base"] == list(keras_smlp.VARIANTS)
    assert keras_smlp.list_models(pretrained=True) == ["small", "base"]
    with pytest.raises(TypeError):
        keras_smlp.VARIANTS["tiny"] = None
    with pytest.raises(AttributeError):
        keras_smlp.VARIANTS["tiny"].dim = 1


@pytest.mark.parametrize("name", keras_smlp.list_models())
def test_named_variants(name):
    variant = keras_smlp.VARIANTS[name]
    model = published(name)
    assert model.name == f"smlpnet_{name}"
    assert (model.input_shape, model.output_shape) == ((None, 224, 224, 3), (None, 1000))
    assert drop_rates(model)[-1] == variant.drop_path_rate
    counts = [(v.name, int(np.prod(v.shape))) for v in model.trainable_variables]
    assert sum(count for _, count in counts) == variant.parameters
    decayed = sum(count for name, count in counts if name not in ("bias", "gamma", "beta"))
    assert decayed == {"tiny": 24_048_212, "small": 48_425_476, "base": 65_726_052}[name]


def drop_rates(model):
    blocks = [x for x in model.layers if x.name.endswith(("token_mixing", "channel_mixing"))]
    return [layer.drop_path.rate for layer in blocks]


def test_drop_path_grows_linearly_with_the_block():
    model = build(drop_path_rate=0.3)
    expected = [0.3 * k / 6 for k in range(7) for _ in range(2)]
    np.testing.assert_allclose(drop_rates(model), expected)
    assert drop_rates(model)[0] == 0.0 and drop_rates(model)[-1] == 0.3
    assert drop_rates(keras_smlp.SMLPNet(8, (1,), drop_path_rate=0.3)) == [0.0, 0.0]
    seeds = list(map(tuple, drop_path_states(model)))
    assert len(set(seeds)) == len(seeds) == 12


def test_drop_path_acts_in_training_only():
    model, x = network(drop_path_rate=0.9), pixels(8, 16, 32, 3)
    np.testing.assert_array_equal(answer(model, x), answer(model, x))
    first, second = (ops.convert_to_numpy(model(x, training=True)) for _ in range(2))
    assert (first != second).any()


# ---- names --------------------------------------------------------------------------------------
def test_layers_are_named_after_their_place_whatever_was_built_before(small):
    names = [layer.name for layer in small.layers]
    assert " ".join(names) == (
        "images preprocessing stem stage1_block1_token_mixing stage1_block1_channel_mixing "
        "stage2_downsample stage2_block1_token_mixing stage2_block1_channel_mixing "
        "norm avg_pool predictions"
    )
    again = network()
    assert [layer.name for layer in again.layers] == names
    assert [v.path for v in again.weights] == [v.path for v in small.weights]


# ---- inputs -------------------------------------------------------------------------------------
@pytest.mark.quick_each
def test_preprocessing_normalizes_rgb(small):
    x = pixels()
    part = keras.Model(small.input, small.get_layer("preprocessing").output)
    for images in (x, x.astype("float32")):
        np.testing.assert_allclose(answer(part, images), normalized(x), atol=1e-6)
    np.testing.assert_array_equal(answer(small, x), answer(small, x.astype("float32")))


@pytest.mark.quick_each
def test_preprocessing_inside_equals_normalized_images_outside(small, like_small):
    bare, x = like_small(include_preprocessing=False), pixels()
    np.testing.assert_allclose(answer(bare, normalized(x)), answer(small, x), atol=1e-5)


@pytest.mark.quick_each
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_preprocessing_stays_in_float32(policy):
    model = network(dtype=policy)
    x = np.random.default_rng(0).uniform(0, 255, (1, *model.input_shape[1:])).astype("float32")
    y = answer(keras.Model(model.input, model.get_layer("preprocessing").output), x)
    assert y.dtype == "float32"
    np.testing.assert_allclose(y, normalized(x), atol=1e-5)


def test_other_channels_without_preprocessing():
    model = network(input_shape=(16, 16, 5), include_preprocessing=False)
    assert answer(model, np.zeros((3, 16, 16, 5), "float32")).shape == (3, 5)


def test_input_tensor(small, like_small):
    inputs, x = keras.Input((16, 32, 3), name="mine"), pixels()
    model = like_small(input_tensor=inputs, input_shape=None)
    assert model.input is inputs
    np.testing.assert_array_equal(answer(model, x), answer(small, x))


def test_intermediate_input_tensor_keeps_what_is_before_it(small, like_small):
    inputs = keras.Input((32, 32, 3), name="mine")
    x = keras.layers.AveragePooling2D((2, 1), name="before")(inputs)
    model = like_small(input_tensor=x, input_shape=None)
    assert model.input is inputs and model.layers[1].name == "before"
    images = pixels(2, 32, 32, 3, dtype="float32")
    pooled = images.reshape(2, 16, 2, 32, 3).mean(2)
    np.testing.assert_allclose(answer(model, images), answer(small, pooled), atol=1e-5)
    two = keras.layers.Average(name="both")([keras.Input((16, 32, 3)), keras.Input((16, 32, 3))])
    assert len(network(input_tensor=two, input_shape=None).inputs) == 2


def test_weights_reach_a_model_behind_other_layers(tmp_path, small):
    small.save_weights(tmp_path / "w.weights.h5")
    inputs = keras.Input((16, 32, 3))
    x = keras.layers.Conv2D(3, 1, padding="same", name="adapter")(inputs)
    model = network(input_tensor=x, input_shape=None, weights=tmp_path / "w.weights.h5")
    for name in ("stem", "norm", "predictions"):
        weights = (net.get_layer(name).get_weights() for net in (model, small))
        for found, expected in zip(*weights, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_nested_model_trains_and_reloads(tmp_path, small):
    inputs, x = keras.Input((16, 32, 3)), pixels()
    model = keras.Model(inputs, keras.layers.Dense(2)(small(inputs)))
    model.save(tmp_path / "nested.keras")
    loaded = keras.saving.load_model(tmp_path / "nested.keras")
    np.testing.assert_array_equal(answer(loaded, x), answer(model, x))


# ---- head ---------------------------------------------------------------------------------------
@pytest.mark.quick_each
def test_without_top(small, like_small):
    x = pixels()
    maps, average, largest = (
        answer(like_small(include_top=False, pooling=pooling), x)
        for pooling in (None, "avg", "max")
    )
    assert maps.shape == (3, 2, 4, 16)
    np.testing.assert_allclose(average, maps.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(largest, maps.max((1, 2)), atol=1e-6)
    kernel, bias = small.get_weights()[-2:]
    logits = maps.mean((1, 2)) @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(answer(small, x), expected, atol=1e-5)


def test_classifier_activation(small, like_small):
    x = pixels()
    logits = answer(like_small(classifier_activation=None), x)
    # equal but for one number per image
    shift = logits - np.log(answer(small, x))
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-4)
    for activation in ("sigmoid", keras.activations.tanh):
        expected = keras.activations.get(activation)(ops.convert_to_tensor(logits))
        found = answer(like_small(classifier_activation=activation), x)
        np.testing.assert_allclose(found, ops.convert_to_numpy(expected), atol=1e-5)


# ---- training -----------------------------------------------------------------------------------
@pytest.mark.quick_each
def test_every_trainable_variable_gets_a_gradient():
    """With plain SGD of rate 1, what moved had a gradient."""
    model = network(classifier_activation=None)
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.compile(keras.optimizers.SGD(1.0), keras.losses.CategoricalCrossentropy(from_logits=True))
    targets = np.random.default_rng(0).dirichlet(np.ones(5), 3)
    model.train_on_batch(pixels(), targets)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert (ops.convert_to_numpy(variable) != old).any(), variable.path
    moved = [v for v in model.non_trainable_variables if v.name.startswith("moving")]
    assert len(moved) == 2 * (2 * 2 + 1)
    assert all(not np.isin(ops.convert_to_numpy(v), (0, 1)).all() for v in moved)


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("mixed_bfloat16", marks=pytest.mark.quick_each),
        "mixed_float16",
        pytest.param("bfloat16", marks=pytest.mark.deep),
    ],
)
def test_low_precision_runs(policy, small, like_small):
    model, x = like_small(dtype=policy, drop_path_rate=0.1), pixels()
    assert model.dtype_policy.name == policy
    probabilities = answer(model, x)
    assert probabilities.dtype == "float32"
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    assert stand_in.relative(probabilities, answer(small, x)) < 0.02
    assert answer(network(dtype=policy, classifier_activation=None), x).dtype == "float32"


# quick tests train in 16 bits too: test_step.py in mixed_float16, test_train.py in mixed_bfloat16
@pytest.mark.deep
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_low_precision_trains(policy, like_small):
    model, x = like_small(dtype=policy, drop_path_rate=0.1), pixels(4, 16, 32, 3)
    model.compile(keras.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy")
    scaled = type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert scaled == (policy == "mixed_float16")
    losses = [float(model.train_on_batch(x, np.arange(4))) for _ in range(4)]
    assert np.isfinite(losses).all()
    assert policy == "bfloat16" or min(losses[1:]) < losses[0]
    assert all(np.isfinite(ops.convert_to_numpy(v).astype("float32")).all() for v in model.weights)


def test_global_policy_is_taken_where_none_is_given():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("stem").compute_dtype == "bfloat16"
    assert answer(model, pixels()).dtype == "float32"


@pytest.mark.quick_each
@pytest.mark.parametrize("pattern", [False, True])
def test_a_quantized_network_is_built_again_from_a_map_by_paths(pattern):
    """As KerasHub saves what is quantized: the paths of the layers in the whole model."""
    model, x = network(), pixels()
    paths = keras_smlp.quantize(model)
    policy = keras.dtype_policies.get("int8_from_float32")
    keys = ["predictions", ".*/(fuse|dense1|dense2)"] if pattern else [*paths, "other/layers"]
    policies = keras.dtype_policies.DTypePolicyMap("float32", dict.fromkeys(keys, policy))
    given = keras.dtype_policies.serialize(policies) if pattern else policies
    again = network(dtype=given)
    again.set_weights(model.get_weights())
    assert {v.path: v.dtype for v in again.weights} == {v.path: v.dtype for v in model.weights}
    np.testing.assert_array_equal(answer(again, x), answer(model, x))
    assert again.dtype_policy.name == "float32"


def test_a_map_gives_a_layer_its_own_policy():
    keys = {"stem": "bfloat16", "stage2_block1_token_mixing": "mixed_bfloat16"}
    policies = keras.dtype_policies.DTypePolicyMap("float32", {**keys})
    keras.config.set_dtype_policy(policies)
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    found = {x.name: x.dtype_policy.name for x in model.layers[1:]}  # but for the input
    found = {name: policy for name, policy in found.items() if policy != "float32"}
    assert found == keys == dict(policies)
    assert model.get_layer("stage2_block1_token_mixing").mix.fuse.compute_dtype == "bfloat16"


# ---- what is refused ----------------------------------------------------------------------------
BAD_VALUES = {
    "dim": [0, "80"],
    "depths": [(), 2, (1, 0)],
    "expansion": [0, 3.0],
    "patch_size": [-4],
    # unknown, empty, of two, channels first, a number
    "input_shape": [(None, None, 3), (), (64, 64), (3, 64, 64), 64],
    "input_tensor": [np.zeros((1, 16, 32, 3))],
    "classes": [0, "10"],
    "classifier_activation": ["softmaxx"],
    "drop_path_rate": [1.0, -0.1, "0.1"],
    "dtype": ["float31", "int8", "float64", "int8_from_float32", "float8_from_mixed_bfloat16", 16],
    "weights": ["imagenette", 3],
}
POLICIES = keras.dtype_policies.DTypePolicyMap("float32", {"stem": "float64"})
INPUT = {"input_tensor": keras.Input((16, 32, 3))}
BAD = [({name: value}, name) for name, values in BAD_VALUES.items() for value in values]
BAD += [
    ({"input_shape": (36, 64, 3)}, "input_shape.*multiples of 8"),
    ({"input_shape": (64, 64, 0)}, "input_shape.*multiples of 8"),
    ({**INPUT, "input_shape": np.array([16, 32, 5])}, "input_shape"),
    ({**INPUT, "input_shape": (32, 32, 3)}, "input_shape"),
    ({"include_top": False, "pooling": "mean"}, "pooling"),
    ({"dtype": POLICIES}, "`dtype` must be unquantized for 'stem'.*float64"),
    ({"weights": "model.onnx"}, "weights.*safetensors"),
    ({"weights": "imagenet"}, "weights.*never published"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        network(**arguments)
    assert "Received" in str(caught.value) or "never published" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_weights_file():
    with pytest.raises(FileNotFoundError, match="weights.*nothing.pth"):
        network(weights="nothing.pth")


def test_unknown_argument():
    with pytest.raises(TypeError, match="include_tops"):
        network(include_tops=True)
