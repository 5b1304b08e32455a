"""Sources -> batches: what stands where, whoever reads it and from wherever."""

import functools
from pathlib import Path

import numpy as np
import pytest
from helpers.photos import encoded, folder, imagenet_archives, photo
from keras import ops

from reference.images import evaluation_view

tf = pytest.importorskip("tensorflow", reason="the batches are made by tf.data")

from keras_smlp.data import on_device, pipeline, sources, splits  # noqa: E402 - asked for first
from keras_smlp.data.decode import BadFiles  # noqa: E402
from keras_smlp.data.recipe import DataConfig  # noqa: E402

pytestmark = pytest.mark.once

PLAIN = {"crop": "center", "flip": 0.0, "augment": "none", "erase": 0.0, "mixup": 0.0}
PLAIN |= {"cutmix": 0.0, "label_smoothing": 0.0, "repeats": 1}
# its graph is all operations, twice: with it what does not depend on it is deep
WITH_RAND_AUGMENT = pytest.mark.parametrize(
    "augment", ["none", pytest.param("rand_augment", marks=pytest.mark.deep)]
)


def recipe(**values):
    return DataConfig(name="digits", **{"group_size": 4, **values})


def run(split, recipe, size=16, batch_size=8, seed=0, epoch=0, steps=None, classes=2, **share):
    """The images and targets of training batches."""
    steps = range(len(split) // batch_size) if steps is None else steps
    share = {"bad": BadFiles(), **share}
    batches = pipeline.train_batches(split, recipe, size, classes, batch_size, seed, **share)
    batches, targets = zip(*batches(epoch, steps).as_numpy_iterator(), strict=True)
    images = [ops.convert_to_numpy(on_device.finished(x, recipe.group_size)) for x in batches]
    return np.stack(images), np.stack(targets)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = folder(tmp_path_factory.mktemp("data") / "photos", train=16)
    return sources.load("folder", path)


@pytest.fixture(scope="module")
def first_epoch(files):
    """Function from `data.augment` to the images and targets of seed 0 and epoch 0."""
    return functools.cache(lambda augment: run(files.train, recipe(augment=augment)))


@pytest.fixture(scope="module")
def digits():
    return sources.load("digits")


# ---- training -----------------------------------------------------------------------------------


def test_an_epoch_has_each_image_once(digits):
    split = digits.train
    images, targets = run(split, recipe(**PLAIN, resize_size=8), 8, 40, classes=10)
    assert images.shape == (35, 40, 8, 8, 3) and images.dtype == np.uint8
    assert targets.shape == (35, 40, 10) and targets.dtype == np.float32
    known = {x.tobytes(): y for x, y in zip(split.images, split.labels, strict=True)}
    seen = [image.tobytes() for image in images.reshape(-1, 8, 8, 3)]
    assert [known[image] for image in seen] == targets.argmax(axis=-1).ravel().tolist()
    assert len(set(seen)) == 1400
    assert set(targets.ravel()) == {0.0, 1.0}


@pytest.mark.deep
@pytest.mark.parametrize(("operations", "counts"), [(1, (1,)), (2, (1, 3))])
def test_batches_are_a_function_of_seed_and_epoch(files, operations, counts):
    images, targets = run(files.train, recipe(operations=operations))
    assert images.dtype == np.float32 and images.shape == (4, 8, 16, 16, 3)
    for threads in counts:
        again = run(files.train, recipe(operations=operations, threads=threads))
        np.testing.assert_equal(again, (images, targets))


@WITH_RAND_AUGMENT
@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_batches_differ_by_seed_and_epoch(files, first_epoch, augment, other):
    images, _ = run(files.train, recipe(augment=augment), **other)
    assert (images != first_epoch(augment)[0]).any()


@WITH_RAND_AUGMENT
def test_a_batch_is_reached_without_those_before_it(files, first_epoch, augment):
    images, targets = first_epoch(augment)
    read = []
    counted = splits.Files(
        len(files.train), lambda indices: read.append(indices) or files.train.read(indices)
    )
    later = run(counted, recipe(augment=augment), steps=range(2, 4))
    np.testing.assert_equal(later, (images[2:], targets[2:]))
    assert sum(map(len, read)) == 16


@WITH_RAND_AUGMENT
def test_the_parts_of_the_processes_are_the_batch(files, first_epoch, augment):
    config = recipe(augment=augment)
    parts = [run(files.train, config, rank=rank, processes=2) for rank in range(2)]
    together = tuple(np.concatenate(x, axis=1) for x in zip(*parts, strict=True))
    np.testing.assert_equal(together, first_epoch(augment))


def test_copies_of_repeated_augmentation_differ_and_are_mixed_apart(digits):
    split = splits.Arrays(digits.train.images[:96], digits.train.labels[:96])
    values = {**PLAIN, "repeats": 3, "resize_size": 8}
    images, _ = run(split, recipe(**values), 8, 12, classes=10)
    _, copies = np.unique(images.reshape(96, -1), axis=0, return_counts=True)
    assert copies.max() == 3
    shifted, _ = run(split, recipe(**values, max_shift=0.25), 8, 12, classes=10)
    assert len(np.unique(shifted.reshape(96, -1), axis=0)) > 80


@WITH_RAND_AUGMENT
@pytest.mark.parametrize("mixes", [True, False])
@pytest.mark.parametrize("erase", [0.25, 0.0])
def test_images_leave_the_host_as_uint8(files, augment, erase, mixes):
    values = {"augment": augment, "erase": erase, **({} if mixes else {"mixup": 0, "cutmix": 0})}
    batches = pipeline.train_batches(files.train, recipe(**values), 16, 2, 8, 0, BadFiles())
    batch, targets = next(batches(0, range(1)).as_numpy_iterator())
    assert targets.shape == (8, 2)
    if not (erase or mixes):
        assert batch.dtype == np.uint8
        return
    rows = {key for key, is_there in (("erase", erase), ("mix", mixes)) if is_there}
    assert set(batch) == {"images", *rows} and batch["images"].dtype == np.uint8
    assert all(batch[key].shape == (8, 5) and batch[key].dtype == np.int32 for key in rows)


def test_a_group_shares_its_lambda_and_another_group_does_not(digits):
    values = {**PLAIN, "mixup": 0.8, "resize_size": 8}
    _, targets = run(digits.train, recipe(**values), 8, 40, classes=10)
    for batch in targets[:5]:
        lams = [set(np.round(group[group > 0], 5).tolist()) for group in batch.reshape(10, 4, 10)]
        # lambda and 1 - lambda, and 1 where both labels are the same
        assert all(len(lam - {1.0}) <= 2 for lam in lams)
        assert len(set(map(frozenset, lams))) > 5


def test_targets_are_smoothed(digits):
    values = {**PLAIN, "label_smoothing": 0.1}
    _, targets = run(digits.train, recipe(**values), 8, 40, classes=10, steps=range(1))
    np.testing.assert_allclose(sorted(set(targets.ravel())), [0.01, 0.91], rtol=1e-6)


def test_training_from_imagenet_as_tfds_prepares_it(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="the data set is prepared by TFDS")
    manual = imagenet_archives(tmp_path / "manual")
    source = sources.load("imagenet2012", tmp_path / "data", manual)
    assert (len(source.train), len(source.validation)) == (12, 5)
    images, targets = run(source.train, recipe(augment="none"), 32, 4, classes=1000)
    assert images.shape == (3, 4, 32, 32, 3) and images.std() > 20
    assert set(targets.argmax(axis=-1).ravel()) <= {0, 1, 999}


# ---- damage -------------------------------------------------------------------------------------


def test_a_damaged_image_is_replaced_and_noted(tmp_path):
    path = folder(tmp_path / "photos", train=8)
    whole, _ = run(sources.load("folder", path).train, recipe(**PLAIN))
    damaged = path / "train" / "n01" / "n01_3.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:500])
    source, bad = sources.load("folder", path), BadFiles(tmp_path / "bad.txt", 22)
    images, targets = run(source.train, recipe(**PLAIN), bad=bad)
    # its neighbors, made with it and so by another way, are what they were
    assert (images == whole).all(axis=(2, 3, 4)).sum() == 15
    assert images.shape == (2, 8, 16, 16, 3)
    assert (tmp_path / "bad.txt").read_text().startswith(f"{damaged}: ")
    _, copies = np.unique(images.reshape(16, -1), axis=0, return_counts=True)
    assert sorted(copies) == [1] * 14 + [2]  # the one that follows it stands there twice


# ---- keras-cv -----------------------------------------------------------------------------------


@pytest.mark.deep
def test_the_policy_of_keras_cv(files):
    pytest.importorskip("keras_cv", reason="the alternative policy is keras-cv's")
    images, targets = run(files.train, recipe(augment="keras_cv", erase=0.0), 32)
    assert images.shape == (4, 8, 32, 32, 3) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 255.001 and images.std() > 20
    np.testing.assert_allclose(targets.sum(axis=-1), 1, rtol=1e-5)
    assert ((targets > 0.06) & (targets < 0.94)).any()  # mixed


# ---- validation ---------------------------------------------------------------------------------


def validation(split, size, batch_size, resize_size=None, **share):
    share = {"bad": BadFiles(), **share}
    config = recipe(resize_size=resize_size)
    batches = pipeline.validation_batches(split, config, size, batch_size, **share)
    return list(batches.as_numpy_iterator())


def test_validation_has_every_image_once_in_order(digits):
    batches = validation(digits.validation, 8, 50, 8)
    assert [images.shape for images, *_ in batches] == [(50, 8, 8, 3)] * 8
    images, labels, indices, names = map(np.concatenate, zip(*batches, strict=True))
    assert images.dtype == np.uint8 and (indices[360:] == -1).all()
    np.testing.assert_array_equal(indices[:360], np.arange(360))
    np.testing.assert_array_equal(images[:360], digits.validation.images)
    np.testing.assert_array_equal(labels[:360], digits.validation.labels)
    assert names[7] == b"image 7"


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.deep), 3])
def test_processes_share_the_validation_images(files, processes):
    found = []
    for rank in range(processes):
        for *_, indices, _ in validation(files.validation, 16, 4, rank=rank, processes=processes):
            found += indices[indices >= 0].tolist()
    assert sorted(found) == list(range(6))


def test_validation_is_the_evaluation_view(files):
    [(images, _, _, names)] = validation(files.validation, 64, 6, 72)
    for image, name in zip(images, names, strict=True):
        expected = evaluation_view(Path(name.decode()).read_bytes(), 64, 72).astype(int)
        assert np.abs(image - expected).mean() < 0.5


def test_a_damaged_validation_image_is_left_out(tmp_path):
    path = folder(tmp_path / "photos")
    (path / "val" / "n01" / "n01_1.JPEG").write_bytes(encoded(photo("china"))[:3000])
    source, bad = sources.load("folder", path), BadFiles()
    [(_, _, indices, _)] = validation(source.validation, 16, 6, bad=bad)
    assert indices.tolist() == [0, -1, 2, 3, 4, 5] and len(bad) == 1
