"""Weights in and out: official files, Keras' files, and the refusal of all that does not fit."""

import json
import os
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from helpers.nets import answer, build
from keras import ops

import keras_smlp
from keras_smlp.deploy.quantization import hidden_from_garbage_collection
from keras_smlp.weights import identify, keras_files, loading, official, pth
from keras_smlp.weights.strict import file_shape
from reference import stand_in

pytestmark = pytest.mark.quick_once

FORMATS = (".pth", ".safetensors", ".weights.h5", ".keras")


@pytest.fixture(scope="module")
def files(micro, tmp_path_factory):
    """The micro network's weights in each format."""
    folder = tmp_path_factory.mktemp("formats")
    paths = {ending: folder / f"micro{ending}" for ending in FORMATS}
    keras_smlp.save_official(micro, paths[".pth"])
    keras_smlp.save_official(micro, paths[".safetensors"])
    micro.save_weights(paths[".weights.h5"])
    micro.save(paths[".keras"])
    return paths


def assert_same_weights(found, expected):
    for a, b in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b), a.path)


# ---- reading ------------------------------------------------------------------------------------
@pytest.mark.quick_each
@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_back_every_weight(ending, files, micro):
    assert_same_weights(build(weights=files[ending]), micro)
    assert_same_weights(build(weights=str(files[ending])), micro)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_model_without_top_leaves_the_head_out(ending, files, micro):
    body = build(weights=files[ending], include_top=False)
    assert_same_weights(body, keras.Model(micro.input, micro.get_layer("norm").output))


@pytest.mark.parametrize("ending", FORMATS)
def test_the_architecture_is_read_off_the_shapes(ending, files):
    found = identify.infer(files[ending])
    assert found == identify.Architecture(16, (1, 2, 3, 1), 3, 4, (64, 64, 3), 10)
    assert found.variant() is None and found.arguments()["classes"] == 10


def test_architecture_of_another_network(tmp_path):
    model = keras_smlp.SMLPNet(8, (1, 2), 2, 2, include_top=False, input_shape=(16, 24, 3))
    model.save_weights(tmp_path / "m.weights.h5")
    found = identify.infer(tmp_path / "m.weights.h5")
    assert found == identify.Architecture(8, (1, 2), 2, 2, (16, 24, 3), None)
    assert_same_weights(
        keras_smlp.SMLPNet(**found.arguments(), weights=tmp_path / "m.weights.h5"), model
    )
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="other.keras holds no sMLPNet"):
        identify.infer(tmp_path / "other.keras")


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
    for name in ("half.pth", "half.safetensors", "brain.safetensors"):
        model = build(weights=tmp_path / name)
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


# ---- strictness ---------------------------------------------------------------------------------
def broken(change):
    weights = stand_in.state_dict("micro")
    change(weights)
    return weights


MISFITS = {
    "missing": (lambda w: w.pop("token_mix.3.1.fuse.weight"), "missing: token_mix.3.1.fuse.weight"),
    "unexpected": (lambda w: w.update(extra=w["batch_norm.bias"]), "unexpected: extra"),
    "unexpected counter-like": (
        lambda w: w.update({"a.num_batches": w["batch_norm.bias"]}),
        "unexpected: a.num_batches",
    ),
    "shape": (
        lambda w: w.update({"batch_norm.bias": np.zeros(3, "float32")}),
        r"another shape: batch_norm.bias \(3,\) instead of \(128,\)",
    ),
    "transposed": (
        lambda w: w.update({"mlp_head.0.weight": w["mlp_head.0.weight"].T.copy()}),
        r"mlp_head.0.weight \(128, 10\) instead of \(10, 128\).*include_top=False",
    ),
    "integers": (
        lambda w: w.update({"batch_norm.bias": np.zeros(128, "int64")}),
        "not floating point: batch_norm.bias int64",
    ),
    "all at once": (
        lambda w: w.update(extra=w.pop("batch_norm.bias")),
        "missing: batch_norm.bias; unexpected: extra",
    ),
}


@pytest.mark.parametrize("name", list(MISFITS))
@pytest.mark.parametrize("ending", official.ENDINGS)
def test_an_official_file_that_does_not_fit_changes_nothing(name, ending, tmp_path):
    change, words = MISFITS[name]
    path = tmp_path / f"bad{ending}"
    if ending == ".pth":
        pth.write(path, broken(change))
    else:
        safetensors.numpy.save_file(broken(change), path)
    model = build()
    before = model.get_weights()
    with pytest.raises(ValueError, match=words) as caught:
        keras_smlp.load_official(model, path)
    assert str(path) in str(caught.value)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ending", FORMATS)
def test_weights_of_another_network_are_refused(ending, files):
    with pytest.raises(ValueError, match="another number of classes.*include_top=False"):
        build(weights=files[ending], classes=11)
    for depths in [(1, 2, 2, 1), (1, 2, 4, 1), (1, 2, 3)]:
        with pytest.raises(ValueError, match="(missing|unexpected)"):
            keras_smlp.SMLPNet(
                16, depths, input_shape=(64, 64, 3), classes=10, weights=files[ending]
            )
    for arguments in ({"dim": 8}, {"expansion": 2}, {"patch_size": 2}):
        with pytest.raises(ValueError, match="another shape"):
            keras_smlp.SMLPNet(
                **{"dim": 16, "depths": (1, 2, 3, 1), **arguments},
                input_shape=(64, 64, 3),
                classes=10,
                weights=files[ending],
            )


def test_a_file_without_its_head_is_refused_where_one_is_wanted(tmp_path):
    body = build(include_top=False)
    body.save(tmp_path / "body.keras")
    with pytest.raises(ValueError, match="missing: predictions/0, predictions/1"):
        build(weights=tmp_path / "body.keras")


def content_of(files, ending):
    return files[ending].read_bytes()


DAMAGE = {
    "empty": lambda data: b"",
    "text": lambda data: b"not a checkpoint at all\n" * 20,
    "html": lambda data: b"<!DOCTYPE html><html><body>404</body></html>",
    "first half": lambda data: data[: len(data) // 2],
    "last byte lost": lambda data: data[:-1],
    "png": lambda data: b"\x89PNG\r\n\x1a\n" + b"IHDR" * 20,
}


@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("ending", FORMATS)
def test_damaged_files_are_named(ending, damage, files, tmp_path):
    path = tmp_path / f"damaged{ending}"
    path.write_bytes(DAMAGE[damage](content_of(files, ending)))
    with pytest.raises(ValueError, match="damaged"):
        build(weights=path)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_format_under_anothers_ending_is_refused(ending, files, tmp_path):
    for other in FORMATS:
        path = tmp_path / f"renamed{other}"
        path.write_bytes(content_of(files, ending))
        if other != ending:
            with pytest.raises(ValueError, match="renamed"):
                build(weights=path)


def test_a_keras_file_of_another_model_is_refused(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="missing.*unexpected: dense"):
        build(weights=tmp_path / "other.keras")


def test_what_is_inside_a_nested_model_is_not_left_over(tmp_path):
    body = build(include_top=False, pooling="avg")
    head = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)], name="head")
    keras.Model(body.input, head(body.output)).save(tmp_path / "mine.keras")
    with pytest.raises(ValueError, match="unexpected: .*dense"):
        build(weights=tmp_path / "mine.keras", include_top=False)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
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


@pytest.mark.quick_each
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
        (keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), "m.pth", "model"),
    ]
    for model, name, words in cases:
        with pytest.raises(ValueError, match=words):
            keras_smlp.save_official(model, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file(ending, error, tmp_path, micro, monkeypatch):
    path = tmp_path / f"m{ending}"
    save = {".keras": micro.save, ".weights.h5": micro.save_weights}.get(
        ending, lambda path: keras_smlp.save_official(micro, path)
    )
    save(path)
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_saves_that_are_not_ours_are_left_to_keras(tmp_path, micro):
    with pytest.raises(ValueError, match="extension"):
        micro.save(tmp_path / "m.bin")
    with pytest.raises(FileNotFoundError):
        micro.save(tmp_path / "missing" / "m.keras")
    micro.save(tmp_path / "folder", zipped=False)
    assert (tmp_path / "folder").is_dir()
    micro.save_weights(tmp_path / "shards.weights.json", max_shard_size=1)
    again = build()
    again.load_weights(tmp_path / "shards.weights.json")
    assert_same_weights(again, micro)


# ---- the models themselves ----------------------------------------------------------------------
@pytest.mark.quick_each
def test_config_clone_and_reload_give_the_same_model(files, micro):
    x = stand_in.images("micro")
    expected = answer(micro, x)
    copies = [
        type(micro).from_config(micro.get_config()),
        keras.models.clone_model(micro),
        keras.saving.load_model(files[".keras"]),
    ]
    for copy in copies:
        copy.set_weights(micro.get_weights())
        assert type(copy) is type(micro)
        assert [layer.name for layer in copy.layers] == [layer.name for layer in micro.layers]
        np.testing.assert_array_equal(answer(copy, x), expected)


@pytest.mark.quick_each
def test_a_reloaded_model_keeps_its_policy(tmp_path):
    model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), dtype="mixed_float16")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.dtype_policy.name == "mixed_float16"
    assert type(loaded.optimizer).__name__ == "LossScaleOptimizer"
    assert loaded.get_layer("predictions").compute_dtype == "float32"


@pytest.mark.quick_each
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_compiled_file_names_no_backend(wrapped, tmp_path):
    model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3))
    optimizer = keras.optimizers.AdamW(1e-3)
    if wrapped:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        compiled = json.loads(archive.read("config.json"))["compile_config"]
    assert compiled["jit_compile"] == "auto"
    inner = compiled["optimizer"]
    inner = inner["config"]["inner_optimizer"] if wrapped else inner
    assert (inner["module"], inner["class_name"]) == ("keras.optimizers", "AdamW")
    assert "torch" not in json.dumps(compiled)


def test_targets_agree_between_the_two_key_maps(micro):
    by_official = {id(variable) for variable, _ in official.targets(micro).values()}
    by_name = {id(variable) for variable, _ in keras_files.targets(micro).values()}
    assert by_official == by_name == {id(v) for v in micro.weights}
    for variable, axes in official.targets(micro).values():
        assert np.prod(file_shape(variable, axes)) == np.prod(variable.shape)
