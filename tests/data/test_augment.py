"""RandAugment in TensorFlow against PIL, whose results timm's are."""

# ruff: noqa: E402 - what may be missing is asked for before it is imported

import itertools

import numpy as np
import pytest
from helpers.photos import Image, photo

tf = pytest.importorskip("tensorflow", reason="the images are changed by TensorFlow")

from PIL import ImageEnhance, ImageOps

from keras_smlp.data import augment
from reference import images as peer

pytestmark = pytest.mark.once

MAGNITUDES = (0.0, 3.7, 7.5, 9.0, 9.4, 10.0)
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


@pytest.fixture(scope="module")
def images():
    stripes = np.arange(95 * 161 * 3).reshape(95, 161, 3) // 7 % 2
    return {
        "china": np.asarray(photo("china", (224, 224))),
        "flower": np.asarray(photo("flower", (160, 96))),
        "noise": np.random.default_rng(0).integers(0, 256, (33, 47, 3)).astype("uint8"),
        "two values": np.where(stripes, 250, 9).astype("uint8"),
        "constant": np.full((30, 50, 3), 201, "uint8"),
        "black": np.zeros((50, 30, 3), "uint8"),
    }


def expected(name, image, magnitude, sign):
    level = float(np.float32(magnitude)) / 10
    return np.asarray(peer.OPERATIONS[name](Image.fromarray(image), level, float(sign)))


def apply(name, image, magnitude, sign):
    """In TensorFlow, as signed integers."""
    result = augment.OPERATIONS[name](
        tf.constant(image), tf.constant(magnitude, "float32"), tf.constant(sign, "float32")
    )
    assert result.dtype == "uint8" and result.shape == image.shape
    return result.numpy().astype(int)


def draws(seeds, magnitude=9.0, magnitude_std=0.5, operations=2, probability=0.5):
    def one(i):
        return augment.draw(tf.stack([3, i]), magnitude, magnitude_std, operations, probability)

    return next(tf.data.Dataset.range(seeds).map(one).batch(seeds).as_numpy_iterator())


# ---- operations ---------------------------------------------------------------------------------


def test_the_operations_are_timms():
    assert list(augment.OPERATIONS) == list(peer.OPERATIONS) and len(peer.OPERATIONS) == 15


@pytest.mark.parametrize("name", peer.OPERATIONS)
def test_the_results_are_pils(images, name):
    for image, magnitude, sign in itertools.product(images.values(), MAGNITUDES, (-1.0, 1.0)):
        result = apply(name, image, magnitude, sign)
        difference = abs(result - expected(name, image, magnitude, sign))
        # PIL, which rotates itself, truncates doubles: 0.999... where 1 was meant counts as 0
        if name in GEOMETRIC and name != "Rotate":
            assert difference.max() <= 1 and difference.mean() < 0.05
        else:
            assert not difference.any()


@pytest.mark.parametrize("name", GEOMETRIC)
def test_what_comes_from_outside_is_filled(images, name):
    for sign in (-1.0, 1.0):
        white = np.full((96, 160, 3), 255, "uint8")
        outside = (expected(name, white, 9.0, sign) == peer.FILL).all(axis=-1)
        assert 0.05 < outside.mean() < 0.5
        result = apply(name, images["flower"], 9.0, sign)
        assert (result[outside] == peer.FILL).all()
        # flat areas stay as they are
        assert (apply(name, white, 9.0, sign)[~outside] == 255).all()


def test_magnitude_nine(images):
    image = images["flower"]
    pil, width, height = Image.fromarray(image), 160, 96
    for name, sign, reference in [
        ("Rotate", 1.0, peer.rotate(pil, 27)),
        ("Rotate", -1.0, peer.rotate(pil, -27)),
        ("Posterize", 1.0, ImageOps.posterize(pil, 1)),
        ("Solarize", 1.0, ImageOps.solarize(pil, 26)),
        ("SolarizeAdd", 1.0, peer.solarize_add(pil, 99)),
        ("Color", 1.0, ImageEnhance.Color(pil).enhance(1.81)),
        ("Contrast", -1.0, ImageEnhance.Contrast(pil).enhance(0.19)),
        ("ShearX", -1.0, peer.affine(pil, 1, -0.27, 0, 0, 1, 0)),
        ("TranslateX", 1.0, peer.affine(pil, 1, 0, 0.405 * width, 0, 1, 0)),
        ("TranslateY", -1.0, peer.affine(pil, 1, 0, 0, 0, 1, -0.405 * height)),
    ]:
        assert abs(apply(name, image, 9.0, sign) - np.asarray(reference)).mean() < 0.02, name
    assert set(np.unique(apply("Posterize", image, 9.0, 1.0))) == {0, 128}
    assert (apply("Posterize", image, 10.0, 1.0) == 0).all()
    ramp = np.arange(256, dtype="uint8")[:, None, None].repeat(3, 1).repeat(3, 2)
    assert (np.flatnonzero(apply("Solarize", ramp, 9.0, 1.0)[:, 0, 0] != np.arange(256))[0]) == 26
    assert (apply("SolarizeAdd", ramp, 9.0, 1.0) - ramp).max() == 99


@pytest.mark.parametrize("name", peer.OPERATIONS)
def test_tf_data_gives_what_eager_code_gives(images, name):
    image = images["china"]
    magnitudes = np.random.default_rng(0).uniform(0, 10, 20).astype("float32")
    signs = np.tile(np.array([-1, 1], "float32"), 10)
    dataset = tf.data.Dataset.from_tensor_slices((magnitudes, signs)).map(
        lambda magnitude, sign: augment.OPERATIONS[name](tf.constant(image), magnitude, sign)
    )
    assert dataset.element_spec.shape == (224, 224, 3)
    for result, magnitude, sign in zip(dataset, magnitudes, signs, strict=True):
        np.testing.assert_array_equal(result, apply(name, image, magnitude, sign))


# ---- draws --------------------------------------------------------------------------------------


def test_draws_are_distributed_as_timms():
    indices, applied, magnitudes, signs = draws(6000)
    assert indices.shape == applied.shape == magnitudes.shape == signs.shape == (6000, 2)
    frequencies = np.bincount(indices.ravel(), minlength=15) / indices.size
    assert len(frequencies) == 15 and abs(frequencies - 1 / 15).max() < 0.012
    assert abs((indices[:, 0] == indices[:, 1]).mean() - 1 / 15) < 0.015  # with replacement
    assert abs(applied.mean() - 0.5) < 0.02
    assert set(np.unique(signs)) == {-1.0, 1.0} and abs(signs.mean()) < 0.04
    # clipped at 10, two standard deviations above the mean
    assert abs(np.median(magnitudes) - 9) < 0.03 and magnitudes.max() == 10
    assert abs((magnitudes == 10).mean() - 0.0228) < 0.008
    below = magnitudes[magnitudes < 9] - 9
    assert abs(np.sqrt((below**2).mean()) - 0.5) < 0.02


def test_draws_are_independent():
    indices, applied, magnitudes, signs = draws(6000)
    columns = np.concatenate([indices, applied, magnitudes, signs], axis=1).astype(float)
    correlations = np.corrcoef(columns, rowvar=False) - np.eye(8)
    assert abs(correlations).max() < 0.06
    for index in range(15):
        assert abs(magnitudes[indices == index].mean() - 9) < 0.1


def test_draws_follow_the_arguments():
    indices, applied, magnitudes, _ = draws(500, 4.0, 0.0, operations=3, probability=1.0)
    assert indices.shape == (500, 3) and applied.all() and (magnitudes == 4).all()
    _, applied, magnitudes, _ = draws(500, 0.0, 1.0, probability=0.0)
    assert not applied.any() and magnitudes.min() == 0


# ---- rand_augment -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def augmented(images):
    """The flower with the seeds [3, 0] to [3, 59]."""
    return tf.data.Dataset.range(60).map(
        lambda i: augment.rand_augment(tf.constant(images["flower"]), tf.stack([3, i]))
    )


def test_the_drawn_operations_are_applied_in_turn(images, augmented):
    assert augmented.element_spec == tf.TensorSpec((96, 160, 3), "uint8")
    names, changed = list(augment.OPERATIONS), 0
    for result, *drawn in zip(augmented.as_numpy_iterator(), *draws(60), strict=True):
        reference = images["flower"]
        for index, applied, magnitude, sign in zip(*drawn, strict=True):
            if applied:
                reference = expected(names[index], reference, magnitude, sign)
        # a pixel rounded otherwise can become quite another in the next operation
        assert (abs(result.astype(int) - reference) > 1).mean() < 1e-3
        changed += (result != images["flower"]).any()
    assert 35 <= changed <= 55  # three quarters


def test_the_seed_decides(images, augmented):
    results = list(augmented.as_numpy_iterator())
    np.testing.assert_equal(list(augmented.as_numpy_iterator()), results)
    flower = tf.constant(images["flower"])
    again = [augment.rand_augment(flower, [3, i]).numpy() for i in range(5)]
    np.testing.assert_equal(again, results[:5])
    assert len({result.tobytes() for result in results}) > 35
