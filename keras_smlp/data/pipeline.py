"""A source -> batches by tf.data, for every backend.

What stands at which place of which epoch, and what happens to it, is a function of the seed, the
epoch and the place alone: not of the number of threads, processes or of what was read before.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_smlp.data import augment, decode, mixing
from keras_smlp.data.order import epoch_order, part
from keras_smlp.data.sources import Arrays

if keras.backend.backend() != "tensorflow":
    # tf.data runs on the processor; the accelerator's memory belongs to JAX or PyTorch
    tf.config.set_visible_devices([], "GPU")

ATTEMPTS = 20
CACHE_BYTES = 2**28
# what each draw of an image is for; a group's draws have their own
CROP, AUGMENT, ERASE, MIX = range(4)


def train_batches(split, recipe, size, classes, batch_size, seed, bad, rank=0, processes=1):
    """The training batches of any epoch, or of a part of one.

    Args:
        split: `sources.Arrays` or `sources.Files`.
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
        batch_size)`, that returns a `tf.data.Dataset` of a pair for each step: images
        `(batch_size // processes, size, size, 3)`, RGB in [0, 255], float32 or, with
        `recipe.whole_numbers`, uint8; and float32 targets `(batch_size // processes, classes)`.
    """
    count, share, fetch = len(split), batch_size // processes, reader(split)
    threads = recipe.threads or tf.data.AUTOTUNE
    kind = "uint8" if recipe.whole_numbers else "float32"
    integer = tf.TensorSpec((), "int64")

    def seed_of(epoch, place, purpose):
        # 2**40 places of four purposes and two draws each; epochs up to 2**20
        return tf.stack([tf.constant(seed, "int64"), epoch * 2**43 + place * 8 + purpose * 2])

    def one_image(epoch, place, content, label, name):
        draws = tf.random.stateless_uniform((decode.TRIES + 1, 4), seed_of(epoch, place, CROP))
        image, good = picture(content, name, window(recipe, size, draws[:-1]), bad)
        image.set_shape((size, size, 3))
        if recipe.max_shift:
            image = mixing.shift(image, draws[-1, 2:], recipe.max_shift)
        if recipe.flip:
            image = mixing.flip(image, draws[-1, 0], recipe.flip)
        if recipe.augment == "rand_augment":
            image = augment.rand_augment(
                image,
                seed_of(epoch, place, AUGMENT),
                recipe.magnitude,
                recipe.magnitude_std,
                recipe.operations,
            )
        image = tf.cast(image, kind)
        if recipe.erase:
            image = mixing.erase(image, seed_of(epoch, place, ERASE), recipe.erase)
        return image, label, good

    # traced once for all epochs
    @tf.function(input_signature=(integer, integer, integer))
    def load(epoch, place, index):
        """The image at a place; if it cannot be decoded, one of those that follow it."""
        if isinstance(split, Arrays):
            image, label, _ = one_image(epoch, place, *fetch(index))
            return image, label, place

        def attempt(tried, image, label, good):
            return tried + 1, *one_image(epoch, place, *fetch((index + tried) % count))

        nothing = tf.zeros((size, size, 3), kind), tf.constant(0), tf.constant(False)
        _, image, label, _ = tf.while_loop(
            lambda tried, image, label, good: ~good & (tried < ATTEMPTS),
            attempt,
            (tf.constant(0, "int64"), *nothing),
        )
        return image, label, place

    def mixed(epoch, images, labels, places):
        targets = mixing.smooth_targets(labels, classes, recipe.label_smoothing)
        if not recipe.mixes:
            return images, targets
        groups = share // recipe.group_size
        images, targets = zip(
            *(
                mixing.mix(*group, seed_of(epoch, place, MIX), recipe.mixup, recipe.cutmix)
                for *group, place in zip(
                    tf.split(images, groups),
                    tf.split(targets, groups),
                    tf.unstack(places[:: recipe.group_size]),
                    strict=True,
                )
            ),
            strict=True,
        )
        return tf.concat(images, 0), tf.concat(targets, 0)

    if recipe.augment == "keras_cv":
        from keras_smlp.data.keras_cv_policy import batch_policy

        policy = batch_policy(recipe, classes)

        def mixed(epoch, images, labels, places):
            return policy(images, labels)

    shapes = ((share, size, size, 3), kind), ((share,), "int32"), ((share,), "int64")
    mixed = tf.function(mixed, input_signature=(integer, *(tf.TensorSpec(*s) for s in shapes)))

    def batches(epoch, steps):
        order = epoch_order(count, seed, epoch, batch_size, recipe.group_size, recipe.repeats)
        places, epoch = part(steps, batch_size, rank, processes), tf.constant(epoch, "int64")
        return (
            tf.data.Dataset.from_tensor_slices((places, order[places]))
            .map(lambda *place: load(epoch, *place), num_parallel_calls=threads)
            .batch(share, drop_remainder=True)
            .map(lambda *batch: mixed(epoch, *batch), num_parallel_calls=threads)
            .prefetch(2)
        )

    return batches


def validation_batches(split, recipe, size, batch_size, bad, rank=0, processes=1):
    """Every image of a split once, in its order.

    Args:
        split: `sources.Arrays` or `sources.Files`.
        recipe: A `recipe.DataConfig`, of which only the evaluation's view counts.
        size: Positive integer. Side in pixels of the images given out.
        batch_size: Positive integer. Images in a batch of this process.
        bad: `decode.BadFiles`. Where damaged files are noted.
        rank: Integer. Which of the processes this is; it reads every `processes`th image.
            Defaults to `0`.
        processes: Positive integer. Defaults to `1`.

    Returns:
        A `tf.data.Dataset` of uint8 images `(batch_size, size, size, 3)`, and for each image its
        int32 label, its int64 index in the split and its name. The index is `-1` where a batch is
        filled up or an image cannot be decoded.
    """
    indices = np.arange(rank, len(split), processes)
    padded = np.full(-len(indices) // batch_size * -batch_size, -1)
    padded[: len(indices)] = indices
    view, fetch = decode.center_crop(size, recipe.shorter_side(size)), reader(split)

    def load(index):
        content, label, name = fetch(tf.maximum(index, 0))
        image, good = picture(content, name, view, bad)
        image.set_shape((size, size, 3))
        return image, label, tf.where(good, index, -1), name

    dataset = tf.data.Dataset.from_tensor_slices(padded)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size)
    if len(padded) * size * size * 3 <= CACHE_BYTES:
        dataset = dataset.cache()
    return dataset.prefetch(2)


def reader(split):
    """A function from an index to uint8 pixels or a file's bytes, its label and its name."""
    if isinstance(split, Arrays):
        with tf.device("CPU"):
            images, labels = tf.constant(split.images), tf.constant(split.labels)
        name = tf.strings.as_string
        return lambda i: (images[i], labels[i], tf.strings.join(["image ", name(i)]))

    def read(index):
        contents, labels, names = split.read(index[None])
        return contents[0], np.int32(labels[0]), names[0]

    def fetch(index):
        kinds = (tf.string, tf.int32, tf.string)
        found = tf.numpy_function(read, [index], kinds, stateful=False)
        for tensor in found:
            tensor.set_shape(())
        return found

    return fetch


def picture(content, name, window_of, bad):
    """The view of one image, and whether there is one."""
    if content.dtype == tf.string:
        return decode.decoded(content, name, window_of, bad)
    return window_of(decode.slicer(content), *content.shape[:2]), True


def window(recipe, size, draws):
    """The part of an image that is trained on."""
    if recipe.crop == "center":
        return decode.center_crop(size, recipe.shorter_side(size))
    return decode.random_crop(
        size, draws, recipe.crop_scale, recipe.crop_ratio, recipe.scaled_decoding
    )
