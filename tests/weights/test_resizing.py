"""Trained weights at another input size: what the axial kernels do to smooth signals stays."""

import keras
import numpy as np
import pytest
from helpers.nets import FORMATS, answer, assert_same_weights, saved_in_each_format, trained_like
from keras import ops

import keras_smlp
from keras_smlp.weights.resizing import METHODS, interpolation, resampled

pytestmark = pytest.mark.quick_once


def build(input_shape=(32, 32, 3), **arguments):
    arguments = {"classes": 5, "drop_path_rate": 0.2, **arguments}
    return keras_smlp.SMLPNet(8, (1, 2), patch_size=2, input_shape=input_shape, **arguments)


@pytest.fixture(scope="module")
def trained():
    return trained_like(build())


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    return saved_in_each_format(trained, tmp_path_factory.mktemp("files"))


def axial(model):
    """The axial kernels and biases by path; the rest."""
    values = {v.path: ops.convert_to_numpy(v) for v in model.weights}
    names = {path for path in values if "/mix/width/" in path or "/mix/height/" in path}
    assert len(names) == 12
    return {p: values[p] for p in names}, {p: values[p] for p in values.keys() - names}


# ---- the matrices -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "m"), [(20, 16), (24, 16), (12, 16), (8, 7), (5, 1), (16, 16)])
def test_a_constant_stays_one(method, n, m):
    matrix = interpolation(n, m, method)
    assert matrix.shape == (n, m)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)
    if n == m:
        np.testing.assert_allclose(matrix, np.eye(n), atol=1e-12)


def test_interpolation_by_hand():
    signal = np.array([0.0, 4.0, 8.0])
    assert (interpolation(6, 3, "linear") @ signal).tolist() == [0, 1, 3, 5, 7, 8]
    assert (interpolation(6, 3, "nearest") @ signal).tolist() == [0, 0, 4, 4, 8, 8]
    # Keys: 27/32 of the nearer, and so on: 0, 0, 4 and 8 around the place 1/4 after 0
    weights = np.array([-9, 111, 29, -3]) / 128
    np.testing.assert_allclose((interpolation(6, 3, "cubic") @ signal)[1], weights @ [0, 0, 4, 8])


@pytest.mark.parametrize(("method", "error"), [("cubic", 0.004), ("linear", 0.02)])
@pytest.mark.parametrize("n", [20, 24, 12])
def test_what_a_smooth_signal_undergoes_stays(method, error, n):
    def wave(size):
        return np.cos(np.pi * (np.arange(size) + 0.5) / size)

    blur = np.exp(-(((np.arange(16)[:, None] - np.arange(16)) / 4.0) ** 2))
    blur /= blur.sum(axis=1, keepdims=True)
    answer = resampled(blur, (n, n), method) @ wave(n)
    wanted = resampled(blur @ wave(16), (n,), method)
    assert np.abs(answer - wanted).max() < error
    np.testing.assert_allclose(resampled(blur, (n, n), method).sum(axis=1), 1, rtol=1e-12)


# ---- a model in memory --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 40, 3), (24, 48, 3)])
def test_only_the_axial_weights_change(trained, shape):
    resized = keras_smlp.resize_weights(trained, shape)
    assert type(resized) is type(trained) and resized.input_shape == (None, *shape)
    (old, same), (new, also) = axial(trained), axial(resized)
    for path, value in same.items():
        np.testing.assert_array_equal(also[path], value)
    for path, value in old.items():
        # the kernels of a stage with m positions at 32 pixels have m * side / 32 of them
        side = shape[1] if "/width/" in path else shape[0]
        size = len(value) * side // 32
        np.testing.assert_array_equal(new[path], resampled(value, (size,) * value.ndim, "cubic"))
    assert answer(resized, np.zeros((2, *shape), "uint8")).shape == (2, 5)


def test_there_and_back_at_the_same_size_is_the_same_model(trained):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    same = keras_smlp.resize_weights(trained, (32, 32, 3))
    np.testing.assert_array_equal(answer(same, images), answer(trained, images))
    assert same.get_layer("norm") is not trained.get_layer("norm")


def test_it_keeps_heads_policies_and_what_is_frozen(trained, tmp_path):
    body = build(include_top=False, pooling="max", dtype="mixed_bfloat16")
    body.get_layer("stem").trainable = False
    outputs = keras.layers.Dense(3, name="mine", dtype="float32")(body.output)
    model = keras_smlp.PortableModel(body.input, outputs, name="own")
    resized = keras_smlp.resize_weights(model, (48, 32, 3), method="linear")
    assert resized.name == "own" and not resized.get_layer("stem").trainable
    mixing = resized.get_layer("stage1_block1_token_mixing")
    assert mixing.trainable and mixing.dtype_policy.name == "mixed_bfloat16"
    resized.save(tmp_path / "own.keras")
    again = keras.models.load_model(tmp_path / "own.keras")
    assert again.input_shape == (None, 48, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_shape": (30, 32, 3)}, "`input_shape`.*multiples of 4"),
        ({"input_shape": (32, 32, 1)}, "`input_shape`.*3 channels"),
        ({"input_shape": (40, 40, 3), "method": "sinc"}, "`method`.*'sinc'"),
    ],
)
def test_what_cannot_be_is_refused(trained, arguments, words):
    with pytest.raises(ValueError, match=words):
        keras_smlp.resize_weights(trained, **arguments)


def test_other_models_are_refused(trained):
    inputs = keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="must come from keras_smlp.SMLPNet.*'other'"):
        keras_smlp.resize_weights(keras.Model(inputs, inputs * 2, name="other"), (16, 16, 3))
    network = build()
    with pytest.raises(ValueError, match=f"with the network '{network.name}' as one of its layers"):
        keras_smlp.resize_weights(
            keras.Sequential([keras.Input(network.input_shape[1:]), network]), (40, 40, 3)
        )
    body = build(include_top=False)
    flat = keras.layers.Dense(2, name="flat")(keras.layers.Flatten()(body.output))
    with pytest.raises(ValueError, match="flat/kernel.*at the new size"):
        keras_smlp.resize_weights(keras_smlp.PortableModel(body.input, flat), (40, 40, 3))


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_of_another_size_gives_the_same_model(trained, files, ending):
    built = build((24, 48, 3), weights=files[ending])
    resized = keras_smlp.resize_weights(trained, (24, 48, 3))
    assert_same_weights(built, resized)


def test_loading_into_a_model_stays_strict(files):
    model = build((40, 40, 3))
    with pytest.raises(ValueError, match="axial kernels belong to one input size.*resamples"):
        keras_smlp.load_official(model, files[".pth"])
