"""The model class: atomic saves, and files that load on every backend."""

import json
import os
import zipfile

import keras
import numpy as np
import pytest
from helpers.nets import FORMATS, answer, assert_same_weights, build, net, pixels, save

import keras_smlp

pytestmark = pytest.mark.quick_once


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_save_leaves_the_old_file(
    ending, function, error, tmp_path, micro, monkeypatch
):
    path = tmp_path / f"m{ending}"
    save(micro, path)
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(error)):
        save(micro, path)
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


@pytest.mark.quick_each
def test_config_clone_and_reload_give_the_same_model(tmp_path):
    model, x = net(drop_path_rate=0.2, classifier_activation="softmax"), pixels()
    expected = answer(model, x)
    model.save(tmp_path / "m.keras")
    copies = [
        type(model).from_config(model.get_config()),
        keras.models.clone_model(model),
        keras.saving.load_model(tmp_path / "m.keras"),
    ]
    for copy in copies:
        copy.set_weights(model.get_weights())
        assert type(copy) is type(model)
        assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
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
