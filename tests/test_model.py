"""The constructors: what Keras users expect of one, and what is refused."""

import inspect

import keras
import numpy as np
import pytest
from helpers.nets import answer, build, pixels, published
from keras import ops

import keras_smlp
from keras_smlp.preprocessing import MEAN, STD
from reference import stand_in

pytestmark = pytest.mark.quick_once

SMALL = {"dim": 8, "depths": (1, 1), "input_shape": (32, 64, 3), "classes": 5}
SIGNATURE = {
    "include_top": True,
    "weights": None,
    "input_tensor": None,
    "input_shape": None,
    "pooling": None,
    "classes": 1000,
    "classifier_activation": "softmax",
    "include_preprocessing": True,
    "drop_path_rate": None,
}


@pytest.fixture(scope="module")
def small():
    return keras_smlp.SMLPNet(**SMALL)


# ---- signature and table ------------------------------------------------------------------------
def test_signature_is_that_of_keras_applications():
    for name in ("SMLPNet", "SMLPNetTiny", "SMLPNetSmall", "SMLPNetBase"):
        function = getattr(keras_smlp, name)
        parameters = dict(inspect.signature(function).parameters)
        assert list(parameters)[-2:] == ["name", "dtype"]
        for key, default in SIGNATURE.items():
            assert parameters[key].default == default
        assert function.__name__ == name
        for key in parameters:
            assert f"\n        {key}: " in function.__doc__, (name, key)
    assert list(inspect.signature(keras_smlp.SMLPNet).parameters)[:4] == [
        "dim",
        "depths",
        "expansion",
        "patch_size",
    ]


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
    count = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert count == variant.parameters
    assert drop_rates(model)[-1] == variant.drop_path_rate
    decayed = sum(
        int(np.prod(v.shape))
        for v in model.trainable_variables
        if v.name not in ("bias", "gamma", "beta")
    )
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
    seeds = [
        tuple(ops.convert_to_numpy(layer.drop_path.seed_generator.state))
        for layer in model.layers
        if hasattr(layer, "drop_path") and layer.drop_path.rate
    ]
    assert len(set(seeds)) == len(seeds) == 12


def test_drop_path_acts_in_training_only():
    model = keras_smlp.SMLPNet(**SMALL, drop_path_rate=0.9)
    x = pixels(8, 32, 64, 3)
    first, second = (ops.convert_to_numpy(model(x, training=False)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    first, second = (ops.convert_to_numpy(model(x, training=True)) for _ in range(2))
    assert (first != second).any()


# ---- names --------------------------------------------------------------------------------------
def test_layers_are_named_after_their_place_whatever_was_built_before(small):
    names = [layer.name for layer in small.layers]
    assert names == [
        "images",
        "preprocessing",
        "stem",
        "stage1_block1_token_mixing",
        "stage1_block1_channel_mixing",
        "stage2_downsample",
        "stage2_block1_token_mixing",
        "stage2_block1_channel_mixing",
        "norm",
        "avg_pool",
        "predictions",
    ]
    again = keras_smlp.SMLPNet(**SMALL)
    assert [layer.name for layer in again.layers] == names
    assert [v.path for v in again.weights] == [v.path for v in small.weights]


# ---- inputs -------------------------------------------------------------------------------------
@pytest.mark.quick_each
def test_preprocessing_normalizes_rgb(small):
    x = pixels(2, 32, 64, 3)
    part = keras.Model(small.input, small.get_layer("preprocessing").output)
    expected = (x / 255 - np.array(MEAN)) / np.array(STD)
    for images in (x, x.astype("float32")):
        np.testing.assert_allclose(answer(part, images), expected, atol=1e-6)
    np.testing.assert_array_equal(answer(small, x), answer(small, x.astype("float32")))


@pytest.mark.quick_each
def test_preprocessing_inside_equals_normalized_images_outside(small):
    bare = keras_smlp.SMLPNet(**SMALL, include_preprocessing=False)
    bare.set_weights(small.get_weights())
    x = pixels(2, 32, 64, 3)
    normalized = ((x / 255 - np.array(MEAN)) / np.array(STD)).astype("float32")
    np.testing.assert_allclose(answer(bare, normalized), answer(small, x), atol=1e-5)


@pytest.mark.quick_each
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_preprocessing_stays_in_float32(policy):
    model = keras_smlp.SMLPNet(**SMALL, dtype=policy)
    x = np.random.default_rng(0).uniform(0, 255, (1, 32, 64, 3)).astype("float32")
    part = keras.Model(model.input, model.get_layer("preprocessing").output)
    y = answer(part, x)
    assert y.dtype == "float32"
    np.testing.assert_allclose(y, (x / 255 - np.array(MEAN)) / np.array(STD), atol=1e-5)


def test_other_channels_without_preprocessing():
    model = keras_smlp.SMLPNet(
        8, (1, 1), input_shape=(16, 16, 5), include_preprocessing=False, classes=2
    )
    assert answer(model, np.zeros((3, 16, 16, 5), "float32")).shape == (3, 2)


def test_input_tensor(small):
    inputs = keras.Input((32, 64, 3), name="mine")
    model = keras_smlp.SMLPNet(8, (1, 1), input_tensor=inputs, classes=5)
    model.set_weights(small.get_weights())
    assert model.input is inputs
    x = pixels(2, 32, 64, 3)
    np.testing.assert_array_equal(answer(model, x), answer(small, x))


def test_intermediate_input_tensor_keeps_what_is_before_it(small):
    inputs = keras.Input((64, 64, 3), name="mine")
    x = keras.layers.AveragePooling2D((2, 1), name="before")(inputs)
    model = keras_smlp.SMLPNet(8, (1, 1), input_tensor=x, classes=5)
    model.set_weights(small.get_weights())
    assert model.input is inputs and model.layers[1].name == "before"
    images = pixels(2, 64, 64, 3).astype("float32")
    pooled = images.reshape(2, 32, 2, 64, 3).mean(2)
    np.testing.assert_allclose(answer(model, images), answer(small, pooled), atol=1e-5)
    two = keras.layers.Average(name="both")([keras.Input((32, 64, 3)), keras.Input((32, 64, 3))])
    assert len(keras_smlp.SMLPNet(8, (1, 1), input_tensor=two, classes=5).inputs) == 2


def test_weights_reach_a_model_behind_other_layers(tmp_path, small):
    small.save_weights(tmp_path / "w.weights.h5")
    inputs = keras.Input((32, 64, 3))
    x = keras.layers.Conv2D(3, 1, padding="same", name="adapter")(inputs)
    model = keras_smlp.SMLPNet(
        8, (1, 1), input_tensor=x, classes=5, weights=tmp_path / "w.weights.h5"
    )
    for name in ("stem", "norm", "predictions"):
        for found, expected in zip(
            model.get_layer(name).get_weights(), small.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


def test_a_nested_model_trains_and_reloads(tmp_path, small):
    inputs = keras.Input((32, 64, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(small(inputs)))
    model.save(tmp_path / "nested.keras")
    loaded = keras.saving.load_model(tmp_path / "nested.keras")
    x = pixels(2, 32, 64, 3)
    np.testing.assert_array_equal(answer(loaded, x), answer(model, x))


# ---- head ---------------------------------------------------------------------------------------
@pytest.mark.quick_each
def test_without_top(small):
    x = pixels(2, 32, 64, 3)
    bodies = {
        pooling: keras_smlp.SMLPNet(
            8, (1, 1), include_top=False, pooling=pooling, input_shape=(32, 64, 3)
        )
        for pooling in (None, "avg", "max")
    }
    for body in bodies.values():
        body.set_weights(small.get_weights()[:-2])
    maps = answer(bodies[None], x)
    assert maps.shape == (2, 4, 8, 16)
    np.testing.assert_allclose(answer(bodies["avg"], x), maps.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(answer(bodies["max"], x), maps.max((1, 2)), atol=1e-6)
    kernel, bias = small.get_weights()[-2:]
    logits = maps.mean((1, 2)) @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(answer(small, x), expected, atol=1e-5)


def test_classifier_activation(small):
    x = pixels(2, 32, 64, 3)
    for activation in (None, "sigmoid", keras.activations.tanh):
        model = keras_smlp.SMLPNet(**SMALL, classifier_activation=activation)
        model.set_weights(small.get_weights())
        logits = np.log(answer(small, x))
        found = answer(model, x)
        if activation is None:  # logits: equal but for one number per image
            shift = found - logits
            np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-4)
            plain = found
        else:
            expected = keras.activations.get(activation)(ops.convert_to_tensor(plain))
            np.testing.assert_allclose(found, ops.convert_to_numpy(expected), atol=1e-5)


# ---- training -----------------------------------------------------------------------------------
@pytest.mark.quick_each
def test_every_trainable_variable_gets_a_gradient():
    """With plain SGD of rate 1, what moved had a gradient."""
    model = keras_smlp.SMLPNet(**SMALL, classifier_activation=None)
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.compile(keras.optimizers.SGD(1.0), keras.losses.CategoricalCrossentropy(from_logits=True))
    targets = np.random.default_rng(0).dirichlet(np.ones(5), 4)
    model.train_on_batch(pixels(4, 32, 64, 3), targets)
    still = [
        v.path
        for v, old in zip(model.trainable_variables, before, strict=True)
        if (ops.convert_to_numpy(v) == old).all()
    ]
    assert still == []
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
def test_low_precision_runs(policy, small):
    x = pixels(4, 32, 64, 3)
    model = keras_smlp.SMLPNet(**SMALL, dtype=policy, drop_path_rate=0.1)
    model.set_weights(small.get_weights())
    assert model.dtype_policy.name == policy
    probabilities = answer(model, x)
    assert probabilities.dtype == "float32"
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    assert stand_in.relative(probabilities, answer(small, x)) < 0.02
    logits = keras_smlp.SMLPNet(**SMALL, dtype=policy, classifier_activation=None)
    assert answer(logits, x).dtype == "float32"


# quick tests train in 16 bits too: test_step.py in mixed_float16, test_train.py in mixed_bfloat16
@pytest.mark.deep
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_low_precision_trains(policy, small):
    x = pixels(4, 32, 64, 3)
    model = keras_smlp.SMLPNet(**SMALL, dtype=policy, drop_path_rate=0.1)
    model.set_weights(small.get_weights())
    model.compile(keras.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy")
    scaled = type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert scaled == (policy == "mixed_float16")
    labels = np.arange(4)
    losses = [float(model.train_on_batch(x, labels)) for _ in range(4)]
    assert np.isfinite(losses).all()
    assert policy == "bfloat16" or min(losses[1:]) < losses[0]
    assert all(np.isfinite(ops.convert_to_numpy(v).astype("float32")).all() for v in model.weights)


def test_global_policy_is_taken_where_none_is_given():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = keras_smlp.SMLPNet(**SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("stem").compute_dtype == "bfloat16"
    assert answer(model, pixels(1, 32, 64, 3)).dtype == "float32"


# ---- what is refused ----------------------------------------------------------------------------
def network(**arguments):
    return keras_smlp.SMLPNet(**{**SMALL, **arguments})


BAD = {
    "dim 0": ({"dim": 0}, "dim"),
    "dim text": ({"dim": "80"}, "dim"),
    "depths empty": ({"depths": ()}, "depths"),
    "depths number": ({"depths": 2}, "depths"),
    "depths with 0": ({"depths": (1, 0)}, "depths"),
    "expansion": ({"expansion": 0}, "expansion"),
    "expansion float": ({"expansion": 3.0}, "expansion"),
    "patch_size": ({"patch_size": -4}, "patch_size"),
    "shape not divisible": ({"input_shape": (36, 64, 3)}, "input_shape.*multiples of 8"),
    "shape unknown": ({"input_shape": (None, None, 3)}, "input_shape"),
    "shape empty": ({"input_shape": ()}, "input_shape"),
    "shape of two": ({"input_shape": (64, 64)}, "input_shape"),
    "shape channels first": ({"input_shape": (3, 64, 64)}, "input_shape"),
    "gray": ({"input_shape": (64, 64, 1)}, "input_shape.*RGB"),
    "shape number": ({"input_shape": 64}, "input_shape"),
    "input_tensor array": ({"input_tensor": np.zeros((1, 32, 64, 3))}, "input_tensor"),
    "input_tensor and an array": (
        {"input_tensor": "symbolic", "input_shape": np.array([32, 64, 3])},
        "input_shape",
    ),
    "input_tensor shape": ({"input_tensor": "symbolic", "input_shape": (64, 64, 3)}, "input_shape"),
    "pooling": ({"include_top": False, "pooling": "mean"}, "pooling"),
    "classes 0": ({"classes": 0}, "classes"),
    "classes text": ({"classes": "10"}, "classes"),
    "activation": ({"classifier_activation": "softmaxx"}, "classifier_activation"),
    "drop path 1": ({"drop_path_rate": 1.0}, "drop_path_rate"),
    "drop path negative": ({"drop_path_rate": -0.1}, "drop_path_rate"),
    "drop path text": ({"drop_path_rate": "0.1"}, "drop_path_rate"),
    "dtype": ({"dtype": "float31"}, "dtype"),
    "dtype int": ({"dtype": "int8"}, "dtype"),
    "dtype float64": ({"dtype": "float64"}, "dtype"),
    "dtype int8": ({"dtype": "int8_from_float32"}, "dtype"),
    "dtype float8": ({"dtype": "float8_from_mixed_bfloat16"}, "dtype"),
    "dtype number": ({"dtype": 16}, "dtype"),
    "weights word": ({"weights": "imagenette"}, "weights"),
    "weights number": ({"weights": 3}, "weights"),
    "weights ending": ({"weights": "model.onnx"}, "weights.*safetensors"),
    "weights imagenet, other network": ({"weights": "imagenet"}, "weights.*never published"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_arguments(name):
    arguments, words = BAD[name]
    if isinstance(arguments.get("input_tensor"), str):
        arguments = {**arguments, "input_tensor": keras.Input((32, 64, 3))}
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


def test_channels_first_configuration_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="image_data_format"):
            network()
    finally:
        keras.config.set_image_data_format("channels_last")
