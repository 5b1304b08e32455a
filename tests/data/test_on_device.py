"""Random erasing, mixup and CutMix within the training step, against NumPy on every backend."""

import keras
import numpy as np
import pytest
from helpers import nets
from keras import ops

from keras_smlp.data import on_device
from keras_smlp.preprocessing import MEAN, STD
from keras_smlp.training.step import TrainingModel

HEIGHT, WIDTH, GROUP = 32, 48, 4


def batch():
    """Two groups of which every second image is erased: one by mixup, one by CutMix."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (8, HEIGHT, WIDTH, 3), "uint8"),
        "erase": np.array([[3, 4, 20, 30, -(2**31)], [0, 0, 0, 0, 7]] * 4, "int32"),
        "mix": np.array([[0, 0, 0, 0, 2**22]] * 4 + [[5, 6, 20, 30, 2**24]] * 4, "int32"),
    }


def hashed(x):
    """ "lowbias32" in unsigned integers."""
    x = np.uint32(x)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ x >> np.uint32(shift)) * np.uint32(factor)
    return x ^ x >> np.uint32(16)


def noise(seed):
    places = np.arange(1, HEIGHT * WIDTH * 3 + 1, dtype="uint32").reshape(HEIGHT, WIDTH, 3)
    bits = hashed(hashed(places) ^ np.uint32(seed % 2**32))
    radius = np.sqrt(-2 * np.log(((bits >> np.uint32(16)) + 1.0) / 2**16))
    normal = radius * np.cos(2 * np.pi * (bits % 2**16) / 2**16)
    return 255 * (np.array(MEAN) + np.array(STD) * normal)


def expected(batch):
    images = batch["images"].astype("float64")
    for image, (top, left, height, width, seed) in zip(images, batch["erase"], strict=True):
        box = np.s_[top : top + height, left : left + width]
        image[box] = noise(int(seed))[box]
    partners = images.reshape(2, GROUP, *images.shape[1:])[:, ::-1].reshape(images.shape)
    for image, partner, row in zip(images.copy(), partners.copy(), batch["mix"], strict=True):
        top, left, height, width, units = row
        kept = np.full((HEIGHT, WIDTH, 1), units / 2**24)
        kept[top : top + height, left : left + width] = 0
        yield image * kept + partner * (1 - kept)


def test_images_are_erased_and_mixed():
    images = ops.convert_to_numpy(on_device.finished(batch(), GROUP))
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, list(expected(batch())), atol=1e-3)
    # outside of all boxes an image stays what it was
    assert (images[5, 30:] == batch()["images"][5, 30:]).all()


@pytest.mark.parametrize("key", ["erase", "mix"])
def test_one_of_both(key):
    """What is not asked for is not done."""
    nothing = {**batch(), "erase": batch()["erase"] * 0}
    nothing["mix"] = np.array([[0, 0, 0, 0, 2**24]] * 8, "int32")
    some = {"images": batch()["images"], key: batch()[key]}
    images = [
        ops.convert_to_numpy(on_device.finished(x, GROUP))
        for x in (some, {**nothing, key: batch()[key]})
    ]
    np.testing.assert_array_equal(*images)


def test_plain_images_are_left_alone():
    images = ops.convert_to_tensor(batch()["images"])
    assert on_device.finished(images, GROUP) is images


def test_a_step_trains_on_what_the_host_would_have_made():
    """In 16 bits too: what is drawn is not rounded."""
    images, labels = batch(), np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2, 0, 1]]
    finished = ops.convert_to_numpy(on_device.finished(images, GROUP))
    losses = []
    for x in (images, finished):
        keras.utils.set_random_seed(0)
        network = nets.net(input_shape=(HEIGHT, WIDTH, 3), classes=3, dtype="mixed_bfloat16")
        model = TrainingModel(network.input, network.output, group_size=GROUP)
        model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
        losses.append([model.train_on_batch(x, labels) for _ in range(2)])
    np.testing.assert_allclose(*losses, rtol=1e-3)
