"""Erasing, mixup and CutMix against closed forms and plain NumPy."""

import numpy as np
import pytest
from helpers.statistics import assert_same_quantiles
from keras import ops

from reference import images as peer

tf = pytest.importorskip("tensorflow", reason="the batches are made by tf.data")

from keras_smlp.data import mixing, on_device  # noqa: E402 - asked for first
from keras_smlp.preprocessing import MEAN, STD  # noqa: E402

pytestmark = pytest.mark.once

DRAWS = 3000


def drawn(function, count=DRAWS):
    """NumPy results of a function of a seed, for many seeds, made inside tf.data."""
    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([np.int64(7), 8 * i]))
    return next(seeds.map(function, num_parallel_calls=2).batch(count).as_numpy_iterator())


# ---- random erasing -----------------------------------------------------------------------------


def test_boxes_are_distributed_as_timms():
    def one(seed):
        draws = tf.random.stateless_uniform((10, 5), seed)
        return tf.stack(mixing.box((64, 64), draws, (0.02, 1 / 3), (0.3, 3.3))[:4])

    boxes = drawn(one)
    rng = np.random.default_rng(0)
    expected = np.array([peer.random_box(rng, 64) for _ in range(20_000)])
    for i in range(4):
        assert_same_quantiles(boxes[:, i], expected[:, i], atol=2)
    area, aspect = boxes[:, 2] * boxes[:, 3] / 64**2, boxes[:, 2] / boxes[:, 3]
    assert area.min() > 0.017 and area.max() < 0.35
    assert abs(np.log(aspect).mean()) < 0.05


def erased(image, count=DRAWS, probability=0.25):
    """One image, erased by many draws."""
    rows = drawn(lambda seed: mixing.draw_erasing(image.shape[:2], seed, probability), count)
    batch = {"images": np.stack([image] * count), "erase": rows}
    return ops.convert_to_numpy(on_device.finished(batch, 1))


def test_a_quarter_of_the_images_is_erased_with_normal_noise():
    gray = np.full((32, 32, 3), 50, "uint8")
    images = erased(gray)
    changed = (images != 50).any(axis=-1)
    assert abs(changed.any(axis=(1, 2)).mean() - 0.25) < 0.03
    values = (images[changed] / 255 - MEAN) / STD  # as the network sees it
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=0.02)
    assert (images == erased(gray)).all()


def test_nothing_is_erased_without_probability():
    assert (erased(np.full((8, 8, 3), 50, "uint8"), 200, 0.0) == 50).all()


@pytest.mark.parametrize(
    "seeds", [range(16), np.random.default_rng(0).integers(-(2**31), 2**31, 16)]
)
def test_noise_is_normal_and_independent(seeds):
    """From value to value, pixel to pixel, row to row, and from image to image."""
    images = ops.zeros((16, 64, 48, 3))
    values = ops.convert_to_numpy(on_device.noise(ops.convert_to_tensor(seeds, "int32"), images))
    values = (values / 255 - MEAN) / STD
    expected = np.random.default_rng(0).normal(size=values.size)
    assert_same_quantiles(values.ravel(), expected, atol=0.02)
    assert 4.2 < np.abs(values).max() < 4.8  # 16 bits reach 4.71
    flat = values.reshape(16, -1)
    pairs = [(flat[:, :-step], flat[:, step:]) for step in (1, 3, 144)] + [(flat[:-1], flat[1:])]
    for one, other in pairs:
        for power in (1, 2):
            found = np.corrcoef(one.ravel() ** power, other.ravel() ** power)[0, 1]
            assert abs(found) < 4 / np.sqrt(one.size)


# ---- mixup and CutMix ---------------------------------------------------------------------------


def mixed(alpha, cutmix, size=4, count=DRAWS):
    """A group of images of one gray each and their one-hot targets, mixed by many draws."""
    gray = np.arange(1, size + 1, dtype="uint8")[:, None, None, None]
    targets = tf.eye(size)
    rows, targets = drawn(
        lambda seed: mixing.draw_mixing((16, 16), targets, seed, alpha, cutmix), count
    )
    batch = {
        "images": np.tile(gray, (count, 16, 16, 3)),
        "mix": rows.repeat(size, axis=0),
    }
    images = ops.convert_to_numpy(on_device.finished(batch, size))
    return images.reshape(count, size, 16, 16, 3), targets


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_mixup_blends_with_the_reversed_group_by_a_beta_lambda(alpha):
    images, labels = mixed(alpha, 0.0)
    lam = labels[:, 0, 0]
    expected = lam[:, None] * [1, 2, 3, 4] + (1 - lam[:, None]) * [4, 3, 2, 1]
    np.testing.assert_allclose(images[:, :, 3, 5, 1], expected, rtol=1e-5)
    np.testing.assert_allclose(labels[:, 0, 3], 1 - lam, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=-1), 1, rtol=1e-5)
    simulated = np.random.default_rng(0).beta(alpha, alpha, 100_000)
    assert_same_quantiles(lam, simulated, atol=0.05)


def test_cutmix_takes_a_box_of_the_reversed_group_and_corrects_lambda():
    images, labels = mixed(0.0, 1.0)
    lam = labels[:, 0, 0]
    cut = images[:, 0, :, :, 0] == 4
    np.testing.assert_allclose(1 - cut.mean(axis=(1, 2)), lam, atol=1e-5)
    assert set(np.unique(images[:, 0])) == {1.0, 4.0}  # and nothing in between
    for mask in cut[:100]:  # a rectangle
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert (mask == rows[:, None] & columns).all()
    # uniform lambda; the box has the side sqrt(1 - lambda), a uniform center, and is clipped
    rng = np.random.default_rng(0)
    boxes = (peer.cutmix_box(rng, 16, rng.beta(1, 1)) for _ in range(20_000))
    areas = [(bottom - top) * (right - left) / 256 for top, bottom, left, right in boxes]
    assert_same_quantiles(1 - lam, areas, atol=0.04)


def test_a_fair_coin_decides():
    images, _ = mixed(0.8, 1.0)
    uniform = (images[:, 0] == images[:, 0, :1, :1]).all(axis=(1, 2, 3))
    values = images[:, 0, 0, 0, 0]
    blended = uniform & (values != 1) & (values != 4)
    assert abs(blended.mean() - 0.5) < 0.04


def test_smoothed_targets():
    targets = mixing.smooth_targets(tf.constant([1, 0]), 1000, 0.1).numpy()
    assert targets[0, 1] == np.float32(0.9 + 0.0001) and targets[0, 5] == np.float32(0.0001)
    np.testing.assert_allclose(targets.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(mixing.smooth_targets(tf.constant([1]), 3, 0.0), [[0, 1, 0]])


# ---- one image ----------------------------------------------------------------------------------


def test_flips_half():
    image = tf.reshape(tf.range(6), (1, 2, 3))
    flipped = drawn(lambda s: mixing.flip(image, tf.random.stateless_uniform((), s), 0.5)[0, 0, 0])
    assert set(flipped) == {0, 3} and abs((flipped == 3).mean() - 0.5) < 0.04
    np.testing.assert_array_equal(mixing.flip(image, 0.2, 0.5)[0], [[3, 4, 5], [0, 1, 2]])


def test_shifts_mirror_the_border():
    image = np.arange(64, dtype="uint8").reshape(8, 8, 1).repeat(3, axis=-1)
    padded = np.pad(image, [(1, 1), (1, 1), (0, 0)], "symmetric")
    expected = {padded[y : y + 8, x : x + 8].tobytes() for y in range(3) for x in range(3)}
    shifted = drawn(
        lambda s: mixing.shift(tf.constant(image), tf.random.stateless_uniform((2,), s), 1 / 8), 200
    )
    assert {s.tobytes() for s in shifted} == expected
