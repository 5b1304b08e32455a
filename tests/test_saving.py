"""The model class: atomic saves, and files that load on every backend."""

import json
import os
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.modes import assert_by_umask, umask
from helpers.nets import FORMATS, answer, assert_same_weights, build, linear, net, pixels, save
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_smlp
from keras_smlp.saving import replacing, scratch_beside

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


def test_a_scratch_folder_that_cannot_be_made_is_said_of_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "out"
    with pytest.raises(NotADirectoryError) as caught, scratch_beside(path, ".x-"):
        pass
    assert caught.value.filename == str(path)


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


# ---- links --------------------------------------------------------------------------------------
@pytest.mark.once
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    folders=st.lists(st.sampled_from(["", "a", "a/b", "c"]), min_size=1, max_size=4),
    relative=st.booleans(),
    exists=st.booleans(),
    fails=st.booleans(),
)
def test_links_stay_and_their_target_is_written(folders, relative, exists, fails):
    """Chains of links in any folders, to a file that is there or not."""
    with tempfile.TemporaryDirectory() as root:
        places = [Path(root, folder, f"{i}.txt") for i, folder in enumerate(folders)]
        for place in places:
            place.parent.mkdir(parents=True, exist_ok=True)
        for link, target in zip(places, places[1:], strict=False):
            link.symlink_to(os.path.relpath(target, link.parent) if relative else target)
        first, last = places[0], places[-1]
        if exists:
            last.write_text("old")
        links = {place: os.readlink(place) for place in places[:-1]}
        files = set(Path(root).rglob("*"))
        try:
            with replacing(first) as temporary:
                assert temporary.name.endswith(first.name) and temporary.parent.samefile(
                    last.parent
                )
                temporary.write_text("new")
                assert not fails
        except AssertionError:
            assert fails
        assert {place: os.readlink(place) for place in places[:-1]} == links
        if fails:
            assert last.read_text() == "old" if exists else not last.exists()
        else:
            assert last.read_text() == "new"
        assert set(Path(root).rglob("*")) == (files if fails else files | {last})


@pytest.mark.once
def test_what_is_no_file_is_left_alone(tmp_path):
    circle, pipe = tmp_path / "circle", tmp_path / "pipe"
    circle.symlink_to(circle)
    os.mkfifo(pipe)
    for path, words in {circle: "symbolic links", pipe: "something else than a file"}.items():
        with pytest.raises(OSError, match=words), replacing(path):
            raise AssertionError("the block was entered")
    assert circle.is_symlink() and pipe.is_fifo()


@pytest.mark.once
@pytest.mark.parametrize("ending", FORMATS)
def test_each_format_is_saved_through_a_link(ending, tmp_path, micro):
    (tmp_path / "store").mkdir()
    store, link = tmp_path / "store" / "blob", tmp_path / f"m{ending}"
    store.write_bytes(b"old")
    link.symlink_to(store)
    save(micro, link)
    assert link.is_symlink() and store.read_bytes() != b"old"
    assert_same_weights(build(weights=link), micro)


# ---- who may read --------------------------------------------------------------------------------
@pytest.mark.once
@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_the_umask_says_who_may_read(ending, mask, tmp_path, micro):
    path = tmp_path / f"m{ending}"
    for _ in ("a new file", "one that is replaced"):
        with umask(mask):
            save(micro, path)
        assert_by_umask(path, mask)


# ---- the model class ----------------------------------------------------------------------------
@pytest.mark.once
@pytest.mark.parametrize("ending", [".h5", ".hdf5"])
def test_a_whole_model_is_not_saved_as_hdf5(ending, tmp_path):
    path = tmp_path / f"m{ending}"
    with pytest.raises(ValueError, match="`filepath` must end in `.keras`.*Received: filepath="):
        linear().save(path)
    with pytest.raises(ValueError, match="must end in `.weights.h5`"):
        linear().save_weights(path)
    assert not path.exists()


def test_hdf5_files_that_keras_wrote_load(tmp_path):
    model = net()
    model.get_layer("stage1_block1_token_mixing").norm1.trainable = False
    keras.saving.save_model(model, tmp_path / "m.h5")
    loaded = keras.saving.load_model(tmp_path / "m.h5")
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    np.testing.assert_array_equal(answer(loaded, pixels()), answer(model, pixels()))


class Batches(keras.utils.PyDataset):
    """Batches in memory."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


@pytest.mark.quick_each
def test_images_of_another_size_are_refused_and_the_model_stays_whole():
    import tensorflow as tf  # of which tf.data is

    model = net()
    model.compile("sgd", "mse")
    x, y = np.zeros((2, 32, 32, 3), "float32"), np.zeros((2, 5), "float32")
    calls = {
        "predict": (x,),
        "evaluate": (x, y),
        "fit": (x, y),
        "predict_on_batch": (x,),
        "test_on_batch": (x, y),
        "train_on_batch": (x, y),
    }
    for name, arguments in calls.items():
        with pytest.raises(ValueError, match=r"`x` must have the shape \(batch, 16, 32, 3\)"):
            getattr(model, name)(*arguments)
    for data in ((x, y), x):
        with pytest.raises(ValueError, match=r"Received: x with the shape \(None, 32, 32, 3\)"):
            model.predict(tf.data.Dataset.from_tensor_slices(data).batch(2))
    with pytest.raises(ValueError, match=r"Received: x with the shape \(2, 32, 32, 3\)"):
        model.fit(Batches([(x, y)]))
    with pytest.raises(ValueError, match=r"Received: x with the shape \(16, 32, 3\)"):
        model.predict(pixels()[0])
    assert all(np.isfinite(x).all() for x in model.get_weights())
    assert answer(model, pixels()).shape == (3, 5)


def test_shapes_that_keras_accepts_are_accepted():
    model, tensorflow = linear(), keras.backend.backend() == "tensorflow"
    # on TensorFlow Keras' own `predict` fails at one axis more or less
    for shape in ((3, 1),) if tensorflow else ((3,), (3, 1), (3, 1, 1)):
        assert model.predict(np.zeros(shape, "float32"), verbose=0).shape == (3, 1)


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
