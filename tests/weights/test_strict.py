"""Weights that do not fit, damaged files, other formats: an error, and a model as it was."""

import keras
import numpy as np
import pytest
import safetensors.numpy
from helpers.damage import halved
from helpers.nets import FORMATS, answer, build, other

import keras_smlp
from keras_smlp.deploy.quantization import hidden_from_garbage_collection
from keras_smlp.weights import loading, official, pth
from reference import stand_in

pytestmark = pytest.mark.once


# other tensors, none in place of some, and what is said of them
BIAS = np.zeros(128, "float32")
MISFITS = [
    ({"token_mix.3.1.fuse.weight": None}, "missing: token_mix.3.1.fuse.weight"),
    ({"extra": BIAS}, "unexpected: extra"),
    ({"a.num_batches": BIAS}, "unexpected: a.num_batches"),
    ({"batch_norm.bias": BIAS[:3]}, r"another shape: batch_norm.bias \(3,\) instead of \(128,\)"),
    (
        {"mlp_head.0.weight": np.zeros((128, 10), "float32")},
        r"mlp_head.0.weight \(128, 10\) instead of \(10, 128\).*include_top=False",
    ),
    ({"batch_norm.bias": BIAS.astype("int64")}, "not floating point: batch_norm.bias int64"),
    ({"batch_norm.bias": None, "extra": BIAS}, "missing: batch_norm.bias; unexpected: extra"),
]


@pytest.mark.parametrize(("changed", "words"), MISFITS)
@pytest.mark.parametrize("ending", official.ENDINGS)
def test_an_official_file_that_does_not_fit_changes_nothing(changed, words, ending, tmp_path):
    tensors = stand_in.state_dict("micro") | changed
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    path = tmp_path / f"bad{ending}"
    if ending == ".pth":
        pth.write(path, tensors)
    else:
        safetensors.numpy.save_file(tensors, path)
    model = build()
    before = model.get_weights()
    with pytest.raises(ValueError, match=words) as caught:
        keras_smlp.load_official(model, path)
    assert str(path) in str(caught.value)
    np.testing.assert_equal(model.get_weights(), before)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"classes": 11}, "another number of classes.*include_top=False"),
        *(({"depths": x}, "(missing|unexpected)") for x in [(1, 2, 2, 1), (1, 2, 4, 1), (1, 2, 3)]),
        *((x, "another shape") for x in ({"dim": 8}, {"expansion": 2}, {"patch_size": 2})),
    ],
)
def test_weights_of_another_network_are_refused(file, changed, words):
    micro = {"dim": 16, "depths": (1, 2, 3, 1), "input_shape": (64, 64, 3), "classes": 10}
    with pytest.raises(ValueError, match=words):
        keras_smlp.SMLPNet(**{**micro, **changed}, weights=file)


def test_a_file_without_its_head_is_refused_where_one_is_wanted(tmp_path):
    body = build(include_top=False)
    body.save(tmp_path / "body.keras")
    with pytest.raises(ValueError, match="missing: predictions/0, predictions/1"):
        build(weights=tmp_path / "body.keras")


DAMAGE = {
    "empty": lambda data: b"",
    "text": lambda data: b"not a checkpoint at all\n" * 20,
    "html": lambda data: b"<!DOCTYPE html><html><body>404</body></html>",
    "first half": halved,
    "last byte lost": lambda data: data[:-1],
    "png": lambda data: b"\x89PNG\r\n\x1a\n" + b"IHDR" * 20,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(file, damage, tmp_path):
    path = tmp_path / file.name
    path.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(ValueError, match="damaged"):
        build(weights=path)


def test_a_format_under_anothers_ending_is_refused(file, tmp_path):
    for ending in FORMATS:
        path = tmp_path / f"renamed{ending}"
        path.write_bytes(file.read_bytes())
        if not file.name.endswith(ending):
            with pytest.raises(ValueError, match="renamed"):
                build(weights=path)


def test_a_keras_file_of_another_model_is_refused(tmp_path):
    other().save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="missing.*unexpected: dense"):
        build(weights=tmp_path / "other.keras")


def test_what_is_inside_a_nested_model_is_not_left_over(tmp_path):
    body = build(include_top=False, pooling="avg")
    head = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)], name="head")
    keras.Model(body.input, head(body.output)).save(tmp_path / "mine.keras")
    with pytest.raises(ValueError, match="unexpected: .*dense"):
        build(weights=tmp_path / "mine.keras", include_top=False)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")  # Keras 3.15
@pytest.mark.filterwarnings("ignore:`model.quantize.*skipped")  # Keras 3.16
def test_quantized_and_adapted_models_predict_but_take_no_weights(files):
    x = stand_in.images("micro")
    model = build(weights=files[".pth"])
    expected = answer(model, x)
    model.get_layer("stage3_block2_channel_mixing").dense1.enable_lora(2)
    np.testing.assert_allclose(answer(model, x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="floating-point variables.*channel_mix.4.2.net.0"):
        keras_smlp.load_official(model, files[".pth"])
    model = build(weights=files[".pth"])
    with hidden_from_garbage_collection():
        model.quantize("int8")
    assert stand_in.relative(answer(model, x), expected) < 0.1
    for ending in (".pth", ".keras"):
        with pytest.raises(ValueError, match="floating-point"):
            loading.load(model, files[ending])
    with pytest.raises(ValueError, match="floating-point.*int8"):
        keras_smlp.save_official(model, files[".pth"])


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.pth"):
        build(weights=tmp_path / "folder.pth")
