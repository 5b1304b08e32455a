"""The maps on the network's way: the pyramid, heads on it, every block's output."""

import contextlib

import keras
import numpy as np
import pytest
from helpers.nets import answer, build, pixels, trained_like

import keras_smlp

pytestmark = pytest.mark.quick_once

MICRO = {"P2": 1, "P3": 2, "P4": 3, "P5": 1}  # blocks of the stages of stand_in's micro


@pytest.fixture(scope="module")
def net():
    """Two stages, not square, with a head."""
    return trained_like(keras_smlp.SMLPNet(8, (1, 2), input_shape=(16, 32, 3), classes=3))


# ---- feature_extractor --------------------------------------------------------------------------
def test_the_levels_are_the_outputs_of_the_stages(micro):
    maps = keras_smlp.feature_extractor(micro)
    assert isinstance(maps, keras_smlp.PortableModel)
    ends = {
        level: f"stage{stage}_block{depth}_channel_mixing"
        for stage, (level, depth) in enumerate(MICRO.items(), start=1)
    }
    assert maps.pyramid_level_inputs == ends
    shapes = [(None, 16, 16, 16), (None, 8, 8, 32), (None, 4, 4, 64), (None, 2, 2, 128)]
    assert [maps.pyramid_outputs[level].shape for level in ends] == shapes
    assert maps.pyramid_outputs.keys() == ends.keys()
    for level, name in ends.items():
        assert maps.pyramid_outputs[level] is micro.get_layer(name).output
        assert maps.get_layer(name) is micro.get_layer(name)  # one set of weights


def test_what_it_computes_is_what_the_head_gets(net):
    maps = answer(keras_smlp.feature_extractor(net), pixels())
    shapes = {level: y.shape for level, y in maps.items()}
    assert shapes == {"P2": (3, 4, 8, 8), "P3": (3, 2, 4, 16)}
    head = keras.Model(net.get_layer("norm").input, net.output)
    np.testing.assert_allclose(answer(head, maps["P3"]), answer(net, pixels()), atol=1e-6)


@pytest.mark.parametrize(
    ("patch", "depths", "levels"),
    [(4, (1,), ["P2"]), (2, (1, 1), ["P1", "P2"]), (8, (1, 1), ["P3", "P4"]), (1, (1,), ["P0"])],
)
def test_levels_are_named_after_the_stride(patch, depths, levels):
    model = keras_smlp.SMLPNet(8, depths, patch_size=patch, input_shape=(16, 32, 3))
    maps = keras_smlp.feature_extractor(model).pyramid_outputs
    assert list(maps) == levels
    for level, x in maps.items():
        stride = 2 ** int(level[1])
        assert x.shape[1:3] == (16 // stride, 32 // stride)


def test_some_levels_only(net):
    maps = keras_smlp.feature_extractor(net, ["P3"])
    assert list(maps.output) == ["P3"]
    assert list(keras_smlp.feature_extractor(net, ("P2",)).layers)[-1].name.startswith("stage1")
    assert list(keras_smlp.feature_extractor(maps).output) == ["P2", "P3"]  # all that is in it


def test_a_saved_pyramid_is_one_again(net, tmp_path):
    maps = keras_smlp.feature_extractor(net)
    maps.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.pyramid_level_inputs == maps.pyramid_level_inputs
    expected, found = answer(maps, pixels()), answer(loaded, pixels())
    for level in expected:
        np.testing.assert_allclose(found[level], expected[level], atol=1e-5)


@pytest.mark.parametrize("levels", [("P2", "P4"), "P2", (), (2, 3), ["P3", None]])
def test_levels_that_are_not_there(net, levels):
    with pytest.raises(ValueError, match=r"`levels` must be some of \('P2', 'P3'\). Received"):
        keras_smlp.feature_extractor(net, levels)


def test_a_stride_that_is_no_power_of_two():
    model = keras_smlp.SMLPNet(8, (1,), patch_size=3, input_shape=(12, 12, 3))
    with pytest.raises(ValueError, match="power of two.*patch_size=3"):
        keras_smlp.feature_extractor(model)


def others():
    inputs = keras.Input((16, 32, 3))
    body = keras_smlp.SMLPNet(8, (1,), input_shape=(16, 32, 3), include_top=False)
    return {
        "another model": keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs)),
        "no model": "smlpnet",
        "a model around it": keras.Model(inputs, body(inputs)),
    }


@pytest.mark.parametrize("which", list(others()))
@pytest.mark.parametrize(
    "function", [keras_smlp.feature_extractor, lambda model: keras_smlp.intermediate(model, None)]
)
def test_models_that_are_no_smlpnet(which, function):
    with pytest.raises(ValueError, match="`model` must come from keras_smlp.SMLPNet"):
        function(others()[which])


# ---- heads on the pyramid -----------------------------------------------------------------------
@contextlib.contextmanager
def stem_moves(model):
    """Checks that the gradient reaches the network meanwhile."""
    before = np.copy(model.get_layer("stem").get_weights()[0])
    yield
    assert (model.get_layer("stem").get_weights()[0] != before).any()


def test_a_feature_pyramid_trains(net):
    """Lateral convolutions, sums from the top down, one dense prediction: plain Keras layers."""
    maps = keras_smlp.feature_extractor(net)
    fine, coarse = (keras.layers.Conv2D(4, 1)(y) for y in maps.pyramid_outputs.values())
    y = keras.layers.Add()([fine, keras.layers.UpSampling2D(2)(coarse)])
    model = keras_smlp.PortableModel(maps.input, keras.layers.Conv2D(3, 1)(y))
    assert model.output_shape == (None, 4, 8, 3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with stem_moves(net):
        loss = model.train_on_batch(pixels(dtype="float32"), np.zeros((3, 4, 8)))
    assert np.isfinite(loss)


@pytest.mark.deep
@pytest.mark.once
# keras-cv's own: it names the input `images` and does not pass it by name
@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match")
def test_keras_cv_detects_on_it():
    keras_cv = pytest.importorskip("keras_cv", reason="the heads are keras-cv's")
    body = keras_smlp.SMLPNet(8, (1, 1, 1, 1), input_shape=(64, 64, 3), include_top=False)
    model = keras_cv.models.RetinaNet(
        keras_smlp.feature_extractor(body), num_classes=3, bounding_box_format="xywh"
    )
    model.compile(
        optimizer=keras.optimizers.SGD(1e-3, global_clipnorm=1.0),
        classification_loss="focal",
        box_loss="smoothl1",
        jit_compile=False,
    )
    boxes = {
        "boxes": np.array([[[8, 8, 40, 40]]] * 2, "float32"),
        "classes": np.array([[1]] * 2, "float32"),
    }
    images = pixels(2, 64, 64, 3, dtype="float32")
    with stem_moves(body):
        logs = model.fit(images, boxes, epochs=1, verbose=0).history
    assert np.isfinite(logs["loss"]).all() and logs["box_loss"][0] > 0


# ---- intermediate -------------------------------------------------------------------------------
def test_intermediate_has_every_half_block_and_stage(net):
    maps = keras_smlp.intermediate(net, pixels())
    assert " ".join(maps) == (
        "stage1_block1_token_mixing stage1_block1_channel_mixing stage1 "
        "stage2_block1_token_mixing stage2_block1_channel_mixing "
        "stage2_block2_token_mixing stage2_block2_channel_mixing stage2"
    )
    assert all(type(y) is np.ndarray and y.dtype == "float32" for y in maps.values())
    for before, after in [
        ("stage1_block1_token_mixing", "stage1_block1_channel_mixing"),
        ("stage2_block1_channel_mixing", "stage2_block2_token_mixing"),
    ]:
        np.testing.assert_allclose(
            maps[after], answer(net.get_layer(after), maps[before]), atol=1e-5
        )
    stages = answer(keras_smlp.feature_extractor(net), pixels())
    np.testing.assert_allclose(maps["stage1"], stages["P2"], atol=1e-6)
    np.testing.assert_allclose(maps["stage2"], stages["P3"], atol=1e-6)


def test_intermediate_of_a_16_bit_model_is_float32():
    model = build(dtype="bfloat16")
    maps = keras_smlp.intermediate(model, pixels(1, 64, 64, 3, dtype="float32"))
    assert {y.dtype.name for y in maps.values()} == {"float32"}
