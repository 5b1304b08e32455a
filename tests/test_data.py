"""The data of train.py: the digits and their batches."""

# ruff: noqa: E402 - what may be missing is asked for before it is imported

import itertools

import keras
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the digits are bundled with scikit-learn")
tf = pytest.importorskip("tensorflow", reason="the batches are made by tf.data")

from sklearn.datasets import load_digits

from keras_smlp.data import pipeline, sources


@pytest.fixture(scope="module")
def digits():
    return sources.load("digits")


def run(split, size=8, batch_size=40, epochs=2, seed=0, max_shift=0.0):
    """The images and labels of all training batches."""
    batches = pipeline.train_batches(split, size, batch_size, epochs, seed, max_shift)
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.stack(images), np.stack(labels)


# ---- sources ------------------------------------------------------------------------------------


def test_digits_are_all_of_scikit_learns_split_by_class(digits):
    assert digits.class_names == tuple("0123456789")
    assert (len(digits.train), len(digits.validation)) == (1437, 360)
    for split in (digits.train, digits.validation):
        assert split.images.shape == (len(split), 8, 8, 3) and split.images.dtype == np.uint8
        assert split.labels.shape == (len(split),) and split.labels.dtype == np.int32
        assert (split.images == split.images[..., :1]).all()
    assert set(np.bincount(digits.validation.labels)) <= {35, 36, 37}
    original = load_digits()
    both = np.concatenate([digits.train.images, digits.validation.images])[..., 0]
    labels = np.concatenate([digits.train.labels, digits.validation.labels])
    expected = np.round(original.images / 16 * 255)
    assert sorted((label, image.tolist()) for label, image in zip(labels, both, strict=True)) == (
        sorted((t, image.tolist()) for t, image in zip(original.target, expected, strict=True))
    )


def test_the_split_is_always_the_same(digits):
    again = sources.load("digits")
    np.testing.assert_array_equal(again.validation.images, digits.validation.images)
    assert digits.validation.labels[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"one of \['digits'\]. Received: name='mnist'"):
        sources.load("mnist")


# ---- batches ------------------------------------------------------------------------------------


def test_an_epoch_has_each_image_once(digits):
    images, labels = run(digits.train, epochs=1)
    assert images.shape == (35, 40, 8, 8, 3) and images.dtype == np.uint8
    assert labels.shape == (35, 40) and labels.dtype == np.int32
    known = {
        image.tobytes(): label
        for image, label in zip(digits.train.images, digits.train.labels, strict=True)
    }
    seen = [image.tobytes() for image in images.reshape(-1, 8, 8, 3)]
    assert [known[image] for image in seen] == labels.ravel().tolist()
    assert len(set(seen)) == 1400


def test_order_and_augmentation_depend_on_seed_and_epoch_alone(digits):
    images, labels = run(digits.train, max_shift=0.125)
    longer, _ = run(digits.train, epochs=3, max_shift=0.125)
    np.testing.assert_array_equal(longer[:70], images)
    other, _ = run(digits.train, seed=1, max_shift=0.125)
    assert (other != images).any()
    assert (labels[:35] != labels[35:]).any()  # another order in the second epoch


def test_shifts_are_drawn_per_image_and_epoch(digits):
    one = sources.Split(
        digits.train.images[:1].repeat(64, axis=0), digits.train.labels[:1].repeat(64)
    )
    images, _ = run(one, batch_size=64, epochs=2, max_shift=0.125)
    padded = np.pad(one.images[0], [(1, 1), (1, 1), (0, 0)], "symmetric")
    crops = [
        padded[y : y + 8, x : x + 8].tobytes() for y, x in itertools.product(range(3), repeat=2)
    ]
    drawn = [[crops.index(image.tobytes()) for image in epoch] for epoch in images]
    assert set(drawn[0]) == set(range(9)) and drawn[0] != drawn[1]


def test_validation_has_every_image_once_in_order(digits):
    batches = list(pipeline.validation_batches(digits.validation, 8, 50).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [50] * 7 + [10]
    images = np.concatenate([images for images, _ in batches])
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, digits.validation.images)
    labels = np.concatenate([labels for _, labels in batches])
    np.testing.assert_array_equal(labels, digits.validation.labels)


def test_images_are_resized_bilinearly_and_rounded():
    image = np.array([[0, 100], [100, 201]], "uint8")[None, ..., None].repeat(3, axis=-1)
    row = [[0, 25, 75, 100], [25, 50, 100, 125], [75, 100, 151, 176], [100, 125, 176, 201]]
    np.testing.assert_array_equal(pipeline.resize(image, 4)[0, ..., 0], row)


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow takes the GPU")
def test_tensorflow_leaves_the_gpu_to_the_backend():
    assert tf.config.get_visible_devices("GPU") == []
