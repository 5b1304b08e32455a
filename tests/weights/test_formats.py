"""Weights in and out of each format: what is read, what is written, and by which names."""

import json
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from helpers.nets import answer, assert_same_weights, build, other

import keras_smlp
from keras_smlp.weights import identify, keras_files, official, pth
from keras_smlp.weights.strict import file_shape
from reference import stand_in

pytestmark = pytest.mark.quick_once


# ---- reading ------------------------------------------------------------------------------------
@pytest.mark.quick_each
def test_every_format_gives_back_every_weight(file, micro):
    assert_same_weights(build(weights=file), micro)
    assert_same_weights(build(weights=str(file)), micro)


def test_a_model_without_top_leaves_the_head_out(file, micro):
    body = build(weights=file, include_top=False)
    assert_same_weights(body, keras.Model(micro.input, micro.get_layer("norm").output))


def test_the_architecture_is_read_off_the_shapes(file):
    found = identify.infer(file)
    assert found == identify.Architecture(16, (1, 2, 3, 1), 3, 4, (64, 64, 3), 10)
    assert found.variant() is None and found.arguments()["classes"] == 10


def test_architecture_of_another_network(tmp_path):
    model = keras_smlp.SMLPNet(8, (1, 2), 2, 2, include_top=False, input_shape=(16, 24, 3))
    model.save_weights(tmp_path / "m.weights.h5")
    found = identify.infer(tmp_path / "m.weights.h5")
    assert found == identify.Architecture(8, (1, 2), 2, 2, (16, 24, 3), None)
    again = keras_smlp.SMLPNet(**found.arguments(), weights=tmp_path / "m.weights.h5")
    assert_same_weights(again, model)
    other().save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="other.keras holds no sMLPNet"):
        identify.infer(tmp_path / "other.keras")


def test_the_ends_of_a_saved_model(tmp_path):
    shape = {"input_shape": (16, 16, 1), "classes": 3}
    model = keras_smlp.SMLPNet(8, (1, 1), **shape)
    model.save(tmp_path / "m.keras")
    assert identify.infer(tmp_path / "m.keras").input_shape == (16, 16, 3)
    assert identify.ends(tmp_path / "m.keras") == (1, "softmax")
    model.save_weights(tmp_path / "m.weights.h5")
    assert identify.ends(tmp_path / "m.weights.h5") == (None, None)


def test_the_ends_of_an_odd_model(tmp_path):
    def ends(config):
        with zipfile.ZipFile(tmp_path / "odd.keras", "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("model.weights.h5", b"")
        return identify.ends(tmp_path / "odd.keras")

    first = {"class_name": "InputLayer", "config": {"batch_shape": [None, 8, 8, 5]}}
    softmax = {"class_name": "Softmax", "config": {}}
    own = {"class_name": "Dense", "config": {"activation": {"module": "x"}}}
    for layers, expected in (
        ([first, softmax], (5, "softmax")),
        ([first, own], (5, None)),
        ([first, first], (None, None)),
        ([], (None, None)),
        (3, (None, None)),
    ):
        assert ends(json.dumps({"config": {"layers": layers}})) == expected, layers
    with pytest.raises(ValueError, match="odd.keras is damaged"):
        ends("[" * 100_000)


def test_names_do_not_depend_on_a_surrounding_layer(files, micro):
    class Outer(keras.Layer):
        def build(self, input_shape):
            self.inner = build(weights=files[".weights.h5"])

        def call(self, x):
            return self.inner(x)

    outer = Outer()
    outer(stand_in.images("micro"))
    assert_same_weights(outer.inner, micro)


def write_bfloat16(path, weights):
    """A safetensors file by hand: length of the header, header, data."""
    header, data = {}, b""
    for name, x in weights.items():
        raw = x.astype(ml_dtypes.bfloat16).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "BF16", "shape": x.shape, "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_half_precision_files_are_read(tmp_path, micro):
    weights = {k: x.astype("float16") for k, x in stand_in.state_dict("micro").items()}
    pth.write(tmp_path / "half.pth", weights)
    safetensors.numpy.save_file(weights, tmp_path / "half.safetensors")
    write_bfloat16(tmp_path / "brain.safetensors", stand_in.state_dict("micro"))
    for path in tmp_path.iterdir():
        model = build(weights=path)
        for found, expected in zip(model.get_weights(), micro.get_weights(), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-2)
            assert found.dtype == "float32"


def test_other_types_are_refused(tmp_path):
    weights = stand_in.state_dict("micro") | {"norm.weight": np.ones(2, bool)}
    safetensors.numpy.save_file(weights, tmp_path / "flags.safetensors")
    with pytest.raises(ValueError, match="types.*'F32'.*Received: norm.weight of BOOL"):
        build(weights=tmp_path / "flags.safetensors")


def test_the_averaged_weights_are_taken_only_by_name(tmp_path, micro):
    torch = pytest.importorskip("torch", reason="builds a training container with PyTorch")
    import argparse

    def tensors(seed):
        return {k: torch.tensor(x) for k, x in stand_in.state_dict("micro", seed).items()}

    container = {"model": tensors(0), "model_ema": tensors(1), "epoch": 299, "optimizer": {}}
    container["args"] = argparse.Namespace(model="smlpnet", batch_size=128)
    torch.save(container, tmp_path / "run.pth")
    assert_same_weights(build(weights=tmp_path / "run.pth"), micro)
    averaged = keras_smlp.load_official(build(), tmp_path / "run.pth", key="model_ema")
    with pytest.raises(AssertionError):
        assert_same_weights(averaged, micro)
    del container["model"]
    torch.save(container, tmp_path / "run.pth")
    with pytest.raises(ValueError, match="model_ema"):
        build(weights=tmp_path / "run.pth")


# ---- writing ------------------------------------------------------------------------------------
@pytest.mark.quick_each
@pytest.mark.parametrize("ending", official.ENDINGS)
def test_what_was_read_is_written_back(ending, checkpoint, tmp_path, micro):
    keras_smlp.save_official(micro, tmp_path / f"back{ending}")
    if ending == ".pth":
        found = pth.read(tmp_path / "back.pth")
    else:
        found = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    expected = stand_in.state_dict("micro")
    assert found.keys() == expected.keys()
    for key, x in expected.items():
        assert (found[key].dtype, found[key].shape) == (x.dtype, x.shape)
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(found[key], x)


@pytest.mark.parametrize("ending", official.ENDINGS)
def test_the_official_network_loads_what_we_write(ending, tmp_path, micro):
    torch = pytest.importorskip("torch", reason="the official network is PyTorch's")
    from reference.network import OfficialSMLPNet

    path = tmp_path / f"ours{ending}"
    keras_smlp.save_official(micro, path)
    if ending == ".pth":
        state = torch.load(path, weights_only=True)["model"]
    else:
        state = {k: torch.tensor(x) for k, x in safetensors.numpy.load_file(path).items()}
    network = OfficialSMLPNet(16, (1, 2, 3, 1), 64, 10)
    network.load_state_dict(state, strict=True)
    x = stand_in.images("micro")
    with torch.no_grad():
        logits = network.eval()(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    assert stand_in.relative(logits, stand_in.golden("micro")["logits"]) < 5e-6
    assert stand_in.relative(answer(micro, x), logits) < 5e-6


def test_a_model_in_bfloat16_is_written_and_read(tmp_path, checkpoint):
    model = build(weights=checkpoint("micro"), dtype="bfloat16")
    keras_smlp.save_official(model, tmp_path / "m.pth")
    assert pth.read(tmp_path / "m.pth")["to_patch_embedding.0.0.weight"].dtype == "float32"
    model.save_weights(tmp_path / "m.weights.h5")
    assert_same_weights(build(weights=tmp_path / "m.weights.h5"), build(weights=tmp_path / "m.pth"))


def test_what_the_official_network_cannot_hold_is_refused(tmp_path, micro):
    stage1 = micro.get_layer("stage1_block1_channel_mixing").output
    cases = [
        (build(include_top=False), "m.pth", "classifier"),
        (keras.Model(micro.input, stage1), "m.pth", "final normalization"),
        (build(input_shape=(64, 96, 3)), "m.pth", r"square.*\(64, 96, 3\)"),
        (micro, "m.onnx", r"path.*\.pth"),
        (other(), "m.pth", "model"),
    ]
    for model, name, words in cases:
        with pytest.raises(ValueError, match=words):
            keras_smlp.save_official(model, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_targets_agree_between_the_two_key_maps(micro):
    by_official = {id(variable) for variable, _ in official.targets(micro).values()}
    by_name = {id(variable) for variable, _ in keras_files.targets(micro).values()}
    assert by_official == by_name == {id(v) for v in micro.weights}
    for variable, axes in official.targets(micro).values():
        assert np.prod(file_shape(variable, axes)) == np.prod(variable.shape)
