"""Networks for other images than RGB, with the weights of RGB."""

import re

import keras
import numpy as np
import pytest
from helpers.nets import FORMATS, answer, assert_same_weights, pixels, save, trained_like

import keras_smlp
from keras_smlp import naming
from keras_smlp.deploy.export.meaning import meaning
from keras_smlp.deploy.precision import with_precision
from keras_smlp.preprocessing import MEAN, STD

SIDE = 16


def network(channels=3, **arguments):
    own = {"input_shape": (SIDE, SIDE, channels), "classes": 5, "classifier_activation": None}
    return keras_smlp.SMLPNet(8, (1, 1), **own, **arguments)


def stem(model):
    return keras.ops.convert_to_numpy(model.get_layer(naming.STEM).kernel)


@pytest.fixture(scope="module")
def rgb():
    """A network that takes normalized RGB."""
    return trained_like(network(include_preprocessing=False))


@pytest.fixture(scope="module")
def files(rgb, tmp_path_factory):
    """Its weights: ending -> path."""
    folder = tmp_path_factory.mktemp("rgb")
    paths = {ending: folder / f"rgb{ending}" for ending in FORMATS}
    for path in paths.values():
        save(rgb, path)
    return paths


def saved(folder, channels, ending=".weights.h5", **arguments):
    """The weights of a network of so many channels, as if trained."""
    path = folder / f"{channels}{ending}"
    save(trained_like(network(channels, **arguments)), path)
    return path


# ---- gray ---------------------------------------------------------------------------------------
@pytest.mark.quick_each
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("ending", FORMATS)
def test_gray_equals_its_rgb_copy(files, inside, ending):
    gray = pixels(4, SIDE, SIDE, 1)
    if not inside:
        gray = ((gray / 255 - 0.45) / 0.22).astype("float32")
    options = {"weights": files[ending], "include_preprocessing": inside}
    expected = answer(network(3, **options), gray.repeat(3, axis=-1))
    found = answer(network(1, **options), gray)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).min() > 0.01  # the images are told apart


@pytest.mark.once
def test_gray_is_made_rgb_before_it_is_normalized(files):
    model = network(1, weights=files[".pth"])
    assert model.input_shape == (None, SIDE, SIDE, 1) and stem(model).shape[2] == 3
    part = keras.Model(model.input, model.get_layer(naming.PREPROCESSING).output)
    white = answer(part, np.full((1, SIDE, SIDE, 1), 255, "uint8"))
    np.testing.assert_allclose(white[0, 3, 5], (1 - np.array(MEAN)) / STD, rtol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize("ending", [".pth", ".weights.h5"])
def test_a_stem_of_one_channel_is_shared_by_the_three_of_gray(ending, tmp_path):
    path = saved(tmp_path, 1, ending, include_preprocessing=False)
    one = stem(network(1, weights=path, include_preprocessing=False))
    model = keras_smlp.load_model(path)
    assert model.input_shape == (None, SIDE, SIDE, 1)
    np.testing.assert_allclose(stem(model), one.repeat(3, axis=2) / 3, rtol=1e-6)


# ---- more channels ------------------------------------------------------------------------------
@pytest.mark.once
@pytest.mark.parametrize("ending", [".pth", ".weights.h5"])
@pytest.mark.parametrize("channels", [2, 4, 5, 7])
def test_the_kernels_of_rgb_are_repeated_in_turn(rgb, files, channels, ending):
    model = network(channels, weights=files[ending], include_preprocessing=False)
    r, g, b = np.moveaxis(stem(rgb), 2, 0)
    expected = np.stack([r, g, b, r, g, b, r][:channels], axis=2) * (3 / channels)
    np.testing.assert_allclose(stem(model), expected, rtol=1e-6)
    others = {v.path: v for v in rgb.weights if not v.path.endswith("stem/kernel")}
    for v in model.weights:
        if v.path in others:
            np.testing.assert_array_equal(v, others.pop(v.path))
    assert not others


@pytest.mark.once
def test_all_of_six_equal_channels_are_what_rgb_is(rgb, files):
    x = pixels(2, SIDE, SIDE, 3)
    once, twice = (network(n, weights=files[".pth"]) for n in (3, 6))
    np.testing.assert_allclose(
        answer(twice, np.concatenate([x, x], axis=-1)), answer(once, x), atol=1e-5
    )


@pytest.mark.quick_each
def test_each_channel_is_normalized_as_a_color():
    model = network(5)
    part = keras.Model(model.input, model.get_layer(naming.PREPROCESSING).output)
    x = pixels(2, SIDE, SIDE, 5)
    mean, std = (np.array([*v, *v[:2]]) for v in (MEAN, STD))
    np.testing.assert_allclose(answer(part, x), (x / 255 - mean) / std, atol=1e-5)


# ---- files and what is made of a model ----------------------------------------------------------
@pytest.mark.quick_each
@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_of_four_channels_loads(ending, tmp_path):
    model, x = trained_like(network(4)), pixels(2, SIDE, SIDE, 4)
    save(model, tmp_path / f"four{ending}")
    again = keras_smlp.load_model(tmp_path / f"four{ending}")
    assert again.input_shape == (None, SIDE, SIDE, 4)
    assert_same_weights(again, model)
    logits = answer(network(4, weights=tmp_path / f"four{ending}"), x)
    np.testing.assert_allclose(logits, answer(model, x), rtol=1e-6)


@pytest.mark.quick_each
def test_a_gray_keras_file_loads(files, tmp_path):
    model, x = network(1, weights=files[".pth"]), pixels(2, SIDE, SIDE, 1)
    model.save(tmp_path / "gray.keras")
    again = keras_smlp.load_model(tmp_path / "gray.keras")
    assert again.input_shape == (None, SIDE, SIDE, 1)
    np.testing.assert_array_equal(answer(again, x), answer(model, x))
    # its weights are those of RGB, for which other files have no graph
    model.save_weights(tmp_path / "gray.weights.h5")
    assert keras_smlp.load_model(tmp_path / "gray.weights.h5").input_shape[-1] == 3


@pytest.mark.once
@pytest.mark.parametrize(("old", "new"), [(4, 3), (4, 1), (4, 5), (1, 3), (1, 4), (2, 3)])
def test_other_numbers_are_refused(old, new, tmp_path):
    path = saved(tmp_path, old, include_preprocessing=False)
    sentence = (
        rf"stem/0 \(4, 4, {old}, 8\) instead of \(4, 4, {new}, 8\)\. The stem belongs to one number"
        r" of channels: given as `weights`, only a file of RGB fits others\.$"
    )
    with pytest.raises(ValueError, match=sentence):
        network(new, weights=path, include_preprocessing=False)


@pytest.mark.quick_once
@pytest.mark.parametrize("channels", [1, 4])
def test_what_is_made_of_a_model(channels, files, tmp_path):
    model, x = network(channels, weights=files[".pth"]), pixels(3, SIDE, SIDE, channels)
    expected = answer(model, x)
    folded = keras_smlp.fold(model)
    assert folded.folding[0] == "preprocessing -> stem"
    np.testing.assert_allclose(answer(folded, x), expected, atol=1e-5)
    keras_smlp.quantize(folded)
    folded.save(tmp_path / "small.keras")
    small = keras_smlp.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(answer(small, x), answer(folded, x))
    for same in (model, folded, with_precision(model, "bfloat16")):
        assert meaning(same) == ("pixels", "logits")
        assert np.abs(answer(same, x) - expected).max() < 0.1 * np.abs(expected).max()
    larger = keras_smlp.resize_weights(model, (32, 24, channels))
    assert larger.input_shape == (None, 32, 24, channels)
    with pytest.raises(ValueError, match=f"the model's {channels} channels"):
        keras_smlp.resize_weights(model, (32, 32, 3))
    maps = answer(keras_smlp.feature_extractor(model), x)
    assert {level: y.shape for level, y in maps.items()} == {
        "P2": (3, 4, 4, 8),
        "P3": (3, 2, 2, 16),
    }
    assert keras_smlp.explain.grad_cam(model, x).shape == (3, SIDE, SIDE)
    assert list(keras_smlp.intermediate(model, x))[-1] == "stage2"


def test_gray_stays_in_float32_under_16_bits():
    layers = network(1, dtype="mixed_bfloat16").layers[1:4]
    assert [x.name for x in layers] == [naming.GRAY, naming.PREPROCESSING, naming.STEM]
    assert [x.compute_dtype for x in layers] == ["float32", "float32", "bfloat16"]


@pytest.mark.once
def test_a_layer_that_only_has_the_name_is_no_gray():
    images = keras.Input((SIDE, SIDE, 1))
    two = keras.layers.Concatenate(name=naming.GRAY)([images, 2 * images, images])
    assert meaning(keras.Model(images, network()(two))).inputs == "unknown"


@pytest.mark.deep
@pytest.mark.parametrize("channels", [1, 4])
def test_exports(channels, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="SavedModel is TensorFlow's")
    import json

    from helpers.photos import encoded, photo

    model, x = trained_like(network(channels)), pixels(2, SIDE, SIDE, channels)
    keras_smlp.export(model, tmp_path / "served")
    about = json.loads((tmp_path / "served" / "assets.extra" / "metadata.json").read_text())
    what = {1: "gray in [0, 255]", 4: "4 channels in [0, 255]"}[channels]
    assert (about["channels"], about["input"]) == (channels, what)
    served = tf.saved_model.load(tmp_path / "served")
    logits = answer(model, x)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = served.serve_uint8(tf.constant(x))["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert hasattr(served, "serve_jpeg") == (channels == 1)
    if channels == 1:
        file = encoded(photo(size=(80, 60)), quality=90)
        seen = keras_smlp.load_image(file, SIDE, channels=1)[None]
        logits = answer(model, seen)
        expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        found = served.serve_jpeg(tf.constant([file]))["probabilities"]
        np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.once
def test_the_sentence_on_a_stem_names_both_shapes(files):
    with pytest.raises(ValueError, match=re.escape("(8, 3, 4, 4) instead of (8, 4, 4, 4)")):
        keras_smlp.load_official(network(4), files[".pth"])
