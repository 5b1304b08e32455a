"""Grad-CAM, the axial kernels and their pictures."""

import keras
import numpy as np
import pytest
from helpers.nets import answer, draw, pixels
from keras import ops

import keras_smlp
from keras_smlp.analysis import explain, plots

pytestmark = pytest.mark.quick_once

SHAPE = (32, 48, 3)


@pytest.fixture(scope="module")
def model():
    """A small classifier with logits; height and width differ. Shared: do not change it."""
    keras.utils.set_random_seed(1)
    arguments = {"input_shape": SHAPE, "classes": 4, "classifier_activation": None}
    return keras_smlp.SMLPNet(8, (1, 2), dtype="float32", **arguments)


@pytest.fixture(scope="module")
def images():
    return pixels(3, *SHAPE)


# ---- Grad-CAM -----------------------------------------------------------------------------------


def bilinear(values, size):
    """A map at the pixels' centers of a larger one, the border held."""
    ends = []
    for length, side in zip(values.shape, size, strict=True):
        places = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, length - 1)
        ends.append(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(length))))
    return ends[0] @ values @ ends[1].T


@pytest.mark.quick_each
def test_grad_cam_is_that_of_the_numerical_gradient(model, images):
    norm = model.get_layer("norm")
    f = answer(keras.Model(model.input, norm.output), images)
    head = keras.Model(norm.output, model.output)
    for k in range(4):
        result = explain.grad_cam(model, images, k)
        assert result.shape == (3, *SHAPE[:2]) and result.dtype == np.float32
        for i in range(3):
            # a shift of a whole channel changes the logit by the sum of its gradients
            shifted = f[i] + np.eye(f.shape[-1], dtype="float32")[:, None, None]
            gradients = (answer(head, shifted) - answer(head, f[i : i + 1]))[:, k]
            expected = bilinear(np.maximum(f[i] @ gradients, 0), SHAPE[:2])
            np.testing.assert_allclose(result[i], expected / expected.max(), atol=1e-4)
            assert result[i].max() == 1 and result[i].min() >= 0


def test_the_class_is_the_likeliest_or_one_for_each_image(model, images):
    likeliest = answer(model, images).argmax(-1)
    by_default = explain.grad_cam(model, images)
    np.testing.assert_array_equal(by_default, explain.grad_cam(model, images, likeliest.tolist()))
    classes = (likeliest + [1, 2, 3]) % 4
    each = explain.grad_cam(model, images, classes)
    for i in range(3):
        alone = explain.grad_cam(model, images[i : i + 1], int(classes[i]))
        np.testing.assert_allclose(each[i], alone[0], atol=1e-5)
        assert np.abs(each[i] - by_default[i]).max() > 0.1
    assert explain.grad_cam(model, images[:0]).shape == (0, *SHAPE[:2])


def test_many_images_go_in_batches(model, images, monkeypatch):
    monkeypatch.setattr(explain, "BATCH_SIZE", 2)
    in_batches = explain.grad_cam(model, images)
    monkeypatch.undo()
    np.testing.assert_allclose(in_batches, explain.grad_cam(model, images), atol=1e-5)


def test_a_model_that_answers_with_probabilities_has_the_same_maps(model, images):
    """As train.py saves it: softmax in a layer of its own behind `predictions`."""
    probabilities = keras.layers.Softmax(name="probabilities")(model.output)
    other = keras_smlp.PortableModel(model.input, probabilities)
    expected = explain.grad_cam(model, images)
    np.testing.assert_allclose(explain.grad_cam(other, images), expected, atol=1e-6)


def test_sixteen_bits_and_a_class_that_nothing_speaks_for():
    model = keras_smlp.SMLPNet(8, (1, 1), input_shape=SHAPE, classes=3, dtype="mixed_bfloat16")
    head = model.get_layer("predictions")
    kernel = np.ones(head.kernel.shape, "float32")
    kernel[:, 1] = 0
    head.kernel.assign(kernel)
    result = explain.grad_cam(model, pixels(2, *SHAPE), [0, 1])
    assert result.dtype == np.float32 and result[0].max() == 1
    np.testing.assert_array_equal(result[1], 0)


def test_what_grad_cam_cannot_explain_is_refused(model, images):
    body = keras_smlp.SMLPNet(8, (1, 1), input_shape=SHAPE, include_top=False, pooling="avg")
    with pytest.raises(ValueError, match="^`model` must be an sMLPNet classifier .* norm, avg_poo"):
        explain.grad_cam(body, images)
    other = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(name="norm")])
    with pytest.raises(ValueError, match="^`model` must be an sMLPNet classifier"):
        explain.grad_cam(other, images)
    for wrong in (images[0], images[:, :16], images[..., :1]):
        with pytest.raises(ValueError, match=r"^`images` must be \(n, 32, 48, 3\)"):
            explain.grad_cam(model, wrong)
    for wrong in (-1, 4, 1.0, True, [0, 1], [0, 1, 4], "cat"):
        with pytest.raises(ValueError, match="^`class_index` must be None, an integer from 0 to 3"):
            explain.grad_cam(model, images, wrong)


def test_a_quantized_classifier_is_refused(images):
    model = keras_smlp.SMLPNet(8, (1, 1), input_shape=SHAPE, classes=3)
    model.get_layer("predictions").quantize("int8")
    with pytest.raises(ValueError, match="that is not quantized. .*int8"):
        explain.grad_cam(model, images)


# ---- kernels ------------------------------------------------------------------------------------


def test_axial_kernels_are_the_matrices_that_mix(model):
    kernels = explain.axial_kernels(model)
    assert {name: x.shape for name, x in kernels.items()} == {
        "stage1_width": (1, 12, 12),
        "stage1_height": (1, 8, 8),
        "stage2_width": (2, 6, 6),
        "stage2_height": (2, 4, 4),
    }
    mix = model.get_layer("stage2_block2_token_mixing").mix
    x = draw(1, 4, 6, 16)
    for layer, name, equation in (
        (mix.width, "stage2_width", "vw,bhwc->bhvc"),
        (mix.height, "stage2_height", "gh,bhwc->bgwc"),
    ):
        mixed = ops.convert_to_numpy(layer(x) - layer(0 * x))
        assert kernels[name].dtype == np.float32
        np.testing.assert_allclose(np.einsum(equation, kernels[name][1], x), mixed, atol=1e-5)


def test_a_folded_network_has_the_same_kernels(model):
    folded = explain.axial_kernels(keras_smlp.fold(model))
    for name, kernels in explain.axial_kernels(model).items():
        np.testing.assert_array_equal(folded.pop(name), kernels)
    assert not folded


def test_a_model_without_blocks_has_no_kernels():
    with pytest.raises(ValueError, match="^`model` must come from keras_smlp.SMLPNet.*'seq"):
        explain.axial_kernels(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved meanwhile."""
    pytest.importorskip("matplotlib", reason="draws the pictures")
    found, save = [], plots.save
    monkeypatch.setattr(plots, "save", lambda fig, path: (found.append(fig), save(fig, path)))
    return found


def test_kernels_are_drawn_around_zero(drawn, tmp_path):
    kernels = {
        f"stage{s}_{axis}": draw(depth, size, size)
        for s, depth in ((1, 3), (2, 5))
        for axis, size in (("width", 12 // s), ("height", 8 // s))
    }
    plots.plot_kernels(tmp_path / "kernels.png", kernels)
    assert [file.name for file in tmp_path.iterdir()] == ["kernels.png"]
    panels = [axes for axes in drawn[0].axes if axes.images]
    titles = [axes.get_title() for axes in panels]
    assert len(titles) == 6 + 4 and titles[1] == "stage 1, block 1 of 3, height"
    assert titles[6:] == [f"stage 2, block {b} of 5, {a}" for b in (1, 5) for a in AXES]
    for axes, (name, block) in zip(panels[5:], [("stage1_height", 2), *LAST], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), kernels[name][block])
        low, high = axes.images[0].get_clim()
        assert low == -high and high >= np.abs(kernels[name][block]).max()
        line = "column" if name.endswith("width") else "row"
        assert (axes.get_xlabel(), axes.get_ylabel()) == (f"input {line}", f"output {line}")


AXES = ("width", "height")
LAST = [(f"stage2_{axis}", block) for block in (0, 4) for axis in AXES]


def test_predictions_are_drawn_beside_their_images(drawn, tmp_path, images):
    found = [[("$dog_$", 0.75), ("cat", 0.25)]] + [[("cat", 0.75), ("$dog_$", 0.25)]] * 2
    maps = np.random.default_rng(0).random((3, *SHAPE[:2]), "float32")
    plots.plot_predictions(tmp_path / "p.png", ["$a_$", "$b_$", "c"], images, found, maps)
    plots.plot_predictions(tmp_path / "q.png", ["a"], images[:1], found[:1])
    with_maps, without = drawn
    assert (len(with_maps.axes), len(without.axes)) == (9, 2)
    image, overlay, bars = with_maps.axes[3:6]
    np.testing.assert_array_equal(image.images[0].get_array(), images[1])
    np.testing.assert_array_equal(overlay.images[1].get_array(), maps[1])
    assert (image.get_title(), overlay.get_title()) == ("$b_$", "Grad-CAM: cat")
    assert [bar.get_width() for bar in bars.patches] == [0.75, 0.25]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["cat", "$dog_$"]
