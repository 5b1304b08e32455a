"""Batches by tf.data from a source of images, for every backend.

Training: read -> crop and decode -> shift, flip, RandAugment -> draw what the training step erases
and mixes (`on_device`). Which image stands at which place of an epoch, and what happens to it,
depends on the seed, the epoch and the place alone: not on the number of threads, processes or
devices, nor on what was read before.
"""

import os
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_smlp.data import augment, decode, mixing, on_device
from keras_smlp.data.order import epoch_order, process_positions
from keras_smlp.data.splits import Arrays

if keras.backend.backend() != "tensorflow":
    # tf.data runs on the processor; the accelerator's memory belongs to JAX or PyTorch
    tf.config.set_visible_devices([], "GPU")

ATTEMPTS = 20  # files tried in place of a damaged one
CHUNK = 16
CACHE_BYTES = 2**28
# what the draws of a place are for
CROP, AUGMENT, ERASE, MIX = range(4)


# ---- draws --------------------------------------------------------------------------------------
class Draws(NamedTuple):
    """What is drawn for one photo.

    Attributes:
        crop: float32 `(TRIES, 4)`, uniform in `[0, 1)`, for `decode.RandomCrop`.
        flip: float32 scalar, uniform.
        shift: float32 `(2,)`, uniform.
        augment: int64 `(2,)`. Seed of RandAugment.
        erase: int64 `(2,)`. Seed of random erasing.
    """

    crop: tf.Tensor
    flip: tf.Tensor
    shift: tf.Tensor
    augment: tf.Tensor
    erase: tf.Tensor


def draw(seed, epoch, place):
    """The `Draws` of the photo at one place of an epoch."""
    uniform = tf.random.stateless_uniform((decode.TRIES + 1, 4), seed_of(seed, epoch, place, CROP))
    return Draws(
        crop=uniform[:-1],
        flip=uniform[-1, 0],
        shift=uniform[-1, 2:],
        augment=seed_of(seed, epoch, place, AUGMENT),
        erase=seed_of(seed, epoch, place, ERASE),
    )


def seed_of(seed, epoch, place, purpose):
    """The seed of TensorFlow's stateless generators for one purpose at one place."""
    # 2**40 places of four purposes and two draws each; epochs up to 2**20
    return tf.stack([tf.constant(seed, "int64"), epoch * 2**43 + place * 8 + purpose * 2])


# ---- training -----------------------------------------------------------------------------------
def train_batches(split, recipe, size, classes, batch_size, seed, bad, rank=0, processes=1):
    """The training batches of any epoch, or of a part of one.

    Args:
        split: `splits.Arrays` or `splits.Files`.
        recipe: A `recipe.DataConfig`.
        size: Positive integer. Side in pixels of the images given out.
        classes: Positive integer. Number of classes.
        batch_size: Positive integer. Images in a step over all processes, a multiple of
            `processes`, and of `recipe.group_size` times that if images are mixed. What is left
            over of an epoch is dropped.
        seed: Integer in `[0, 2**31)`.
        bad: `decode.BadFiles`. Where damaged files are noted; another image takes their place.
        rank: Integer. Which of the processes this is. Defaults to `0`.
        processes: Positive integer. Defaults to `1`.

    Returns:
        A function of the epoch (from 0) and a range of its steps, within `range(len(split) //
        batch_size)`, that returns a `tf.data.Dataset` of a pair for each step: a batch that
        `on_device.finished` takes, of uint8 images (with `recipe.augment` `"keras_cv"` float32)
        `(batch_size // processes, size, size, recipe.channels)` in [0, 255]; and float32 targets
        `(batch_size // processes, classes)`.
    """
    share = batch_size // processes
    chunk, threads = chunk_size(share), recipe.threads or tf.data.AUTOTUNE
    read, crop = reader(split), training_crop(recipe, size)
    by_keras_cv = recipe.augment == "keras_cv"
    labels_to_balance = split.labels if recipe.balance == "sampling" else None
    group = recipe.group_size if recipe.mixes_on_device else share
    if by_keras_cv:
        from keras_smlp.data.keras_cv_policy import batch_policy

        policy = batch_policy(recipe, classes)

    integer, integers = tf.TensorSpec((), "int64"), tf.TensorSpec((chunk,), "int64")

    # traced once for all epochs; nothing here is for AutoGraph to convert, which takes seconds
    @tf.function(input_signature=(integer, integers, integers), autograph=False)
    def load(epoch, places, indices):
        draws = map_rows(lambda place: draw(seed, epoch, place), places).get_single_element()
        images, labels = decoded(split, read, recipe, crop, indices, draws, bad)
        batch = map_rows(lambda image, draws: augmented(image, draws, recipe), images, draws)
        return batch.get_single_element(), labels, places

    images = {on_device.IMAGES: tf.TensorSpec((group, size, size, recipe.channels), "uint8")}
    if recipe.erase:
        images[on_device.ERASE] = tf.TensorSpec((group, 5), "int32")
    labels = tf.TensorSpec((group, *label_shape(split)), "int32")
    places = tf.TensorSpec((group,), "int64")

    @tf.function(input_signature=(integer, images, labels, places), autograph=by_keras_cv)
    def mix(epoch, batch, labels, places):
        if by_keras_cv:
            return policy(batch[on_device.IMAGES], labels)
        targets = mixing.smooth_targets(labels, classes, recipe.label_smoothing)
        if recipe.mixes:
            group_seed = seed_of(seed, epoch, places[0], MIX)
            row, targets = mixing.draw_mixing(
                crop.size, targets, group_seed, recipe.mixup, recipe.cutmix
            )
            batch = {**batch, on_device.MIX: tf.tile(row[None], (group, 1))}
        # images of which nothing is asked of the training step need no dict
        return batch if len(batch) > 1 else batch[on_device.IMAGES], targets

    def batches(epoch, steps):
        sizes = batch_size, recipe.group_size, recipe.repeats
        order = epoch_order(len(split), seed, epoch, *sizes, labels=labels_to_balance)
        places = process_positions(steps, batch_size, rank, processes)
        epoch = tf.constant(epoch, "int64")
        return (
            tf.data.Dataset.from_tensor_slices((places, order[places]))
            .batch(chunk, drop_remainder=True)
            .map(lambda *rows: load(epoch, *rows), num_parallel_calls=threads)
            .rebatch(group, drop_remainder=True)
            .map(lambda *rows: mix(epoch, *rows), num_parallel_calls=threads)
            .rebatch(share, drop_remainder=True)
            .prefetch(2)
        )

    return batches


def training_crop(recipe, size):
    """What a training image shows of its photo."""
    if recipe.crop == "center":
        return evaluation_crop(recipe, size)
    return decode.RandomCrop(
        (size, size), recipe.crop_scale, recipe.crop_ratio, recipe.scaled_decoding
    )


def decoded(split, read, recipe, crop, indices, draws, bad):
    """The cropped images and the labels of a chunk; a damaged image is replaced by a later one."""
    contents, labels, _ = read(indices)
    how = how_to_decode(recipe)
    if isinstance(split, Arrays):
        crops = map_rows(lambda x, draws: decode.crop_pixels(x, crop, draws.crop), contents, draws)
        return crops.get_single_element(), labels

    def fast(content, label, draws):
        return decode.fast_decode(content, crop, draws.crop, **how), label

    def with_replacement(index, draws):
        def attempt(tried, image, label, is_good):
            content, label, name = (x[0] for x in read(((index + tried) % len(split))[None]))
            image, is_good = decode.decode_with_fallback(
                content, name, bad, crop, draws.crop, **how
            )
            return tried + 1, image, label, is_good

        image = tf.zeros((*crop.size, recipe.channels), "uint8")
        label = tf.zeros(label_shape(split), "int32")
        _, image, label, _ = tf.while_loop(
            lambda tried, image, label, is_good: ~is_good & (tried < ATTEMPTS),
            attempt,
            (tf.constant(0, "int64"), image, label, tf.constant(False)),
        )
        return image, label

    # if one of them is an error, all of them the slow way
    return decode.first_of(
        map_rows(fast, contents, labels, draws), map_rows(with_replacement, indices, draws)
    )


def augmented(image, draws, recipe):
    """A decoded image after all that the host does to it, and what is erased of it, as a dict."""
    if recipe.max_shift:
        image = mixing.shift(image, draws.shift, recipe.max_shift)
    if recipe.flip:
        image = mixing.flip(image, draws.flip, recipe.flip)
    if recipe.augment == "rand_augment":
        image = augment.rand_augment(
            image, draws.augment, recipe.magnitude, recipe.magnitude_std, recipe.operations
        )
    batch = {on_device.IMAGES: image}
    if recipe.erase:
        batch[on_device.ERASE] = mixing.draw_erasing(image.shape[:2], draws.erase, recipe.erase)
    return batch


# ---- evaluation ---------------------------------------------------------------------------------
def validation_batches(split, recipe, size, batch_size, bad, rank=0, processes=1):
    """Every image of a split once, in its order.

    Args:
        split: `splits.Arrays` or `splits.Files`.
        recipe: A `recipe.DataConfig`, of which only `resize_size`, `exif_orientation` and
            `channels` count.
        size: Positive integer. Side in pixels of the images given out.
        batch_size: Positive integer. Images in a batch of this process.
        bad: `decode.BadFiles`. Where damaged files are noted.
        rank: Integer. Which of the processes this is; it reads every `processes`th image.
            Defaults to `0`.
        processes: Positive integer. Defaults to `1`.

    Returns:
        A `tf.data.Dataset` of uint8 images `(batch_size, size, size, channels)`, and for
        each image its int32 label (or row of zeros and ones), its int64 index in the split and its
        name. The index is `-1` where a batch is filled up or an image cannot be decoded.
    """
    indices = np.arange(rank, len(split), processes)
    padded = np.full(-len(indices) // batch_size * -batch_size, -1)
    padded[: len(indices)] = indices
    read, crop, how = reader(split), evaluation_crop(recipe, size), how_to_decode(recipe)

    @tf.autograph.experimental.do_not_convert
    def load(indices):
        contents, labels, names = read(tf.maximum(indices, 0))
        if isinstance(split, Arrays):
            images = map_rows(lambda pixels: decode.crop_pixels(pixels, crop), contents)
            return images.get_single_element(), labels, indices, names

        def fast(content):
            return decode.fast_decode(content, crop, **how), True

        def with_fallback(content, name):
            return decode.decode_with_fallback(content, name, bad, crop, **how)

        images, is_good = decode.first_of(
            map_rows(fast, contents), map_rows(with_fallback, contents, names)
        )
        return images, labels, tf.where(is_good, indices, -1), names

    dataset = tf.data.Dataset.from_tensor_slices(padded)
    dataset = dataset.batch(chunk_size(batch_size), drop_remainder=True)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.rebatch(batch_size, drop_remainder=True)
    if len(padded) * size * size * recipe.channels <= CACHE_BYTES:
        dataset = dataset.cache()
    return dataset.prefetch(2)


def evaluation_crop(recipe, size):
    """What an evaluation shows of a photo."""
    side = recipe.shorter_side(size)
    return decode.CenterCrop((size, size), (side, side))


# ---- both ---------------------------------------------------------------------------------------
def how_to_decode(recipe):
    """What of a recipe says how a file is decoded, as keyword arguments."""
    return {"exif_orientation": recipe.exif_orientation, "channels": recipe.channels}


def chunk_size(count):
    """How many images one thread makes at a time: the largest divisor of `count` up to `CHUNK`."""
    return max(n for n in range(1, CHUNK + 1) if count % n == 0)


def map_rows(function, *tensors):
    """A dataset of one element: a function's results for each row of some tensors, as a batch."""
    [count] = tf.nest.flatten(tensors)[0].shape[:1]
    rows = tf.data.Dataset.from_tensor_slices(tensors)
    return rows.map(function).batch(count, drop_remainder=True)


def label_shape(split):
    """The shape of an image's labels: `(classes,)` if it may have several, else `()`."""
    return np.shape(split.labels)[1:]


def reader(split):
    """A function from indices to uint8 pixels or the files' bytes, their labels and names."""
    if isinstance(split, Arrays):
        with tf.device("CPU"):
            images, labels = tf.constant(split.images), tf.constant(split.labels)
        name = tf.strings.as_string
        return lambda indices: (
            tf.gather(images, indices),
            tf.cast(tf.gather(labels, indices), "int32"),
            tf.strings.join(["image ", name(indices)]),
        )

    def read(indices):
        contents, labels, names = split.read(indices)
        names = [os.fsencode(name) for name in names]  # which need not be UTF-8
        return np.array(contents, object), np.asarray(labels, "int32"), np.array(names, object)

    def fetch(indices):
        kinds = (tf.string, tf.int32, tf.string)
        found = tf.numpy_function(read, [indices], kinds, stateful=False)
        for tensor, inner in zip(found, ((), label_shape(split), ()), strict=True):
            tensor.set_shape((*indices.shape, *inner))
        return found

    return fetch
