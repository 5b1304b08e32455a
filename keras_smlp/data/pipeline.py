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
CHUNK = 16
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
    chunk = chunk_size(share)
    threads = recipe.threads or tf.data.AUTOTUNE
    kind = "uint8" if recipe.whole_numbers else "float32"
    integer = tf.TensorSpec((), "int64")

    def seed_of(epoch, place, purpose):
        # 2**40 places of four purposes and two draws each; epochs up to 2**20
        return tf.stack([tf.constant(seed, "int64"), epoch * 2**43 + place * 8 + purpose * 2])

    def draws_of(epoch, place):
        return tf.random.stateless_uniform((decode.TRIES + 1, 4), seed_of(epoch, place, CROP))

    def view(draws):
        if recipe.crop == "center":
            return decode.center_crop(size, recipe.shorter_side(size))
        return decode.random_crop(
            size, draws[:-1], recipe.crop_scale, recipe.crop_ratio, recipe.scaled_decoding
        )

    def pictures(epoch, places, indices):
        """The pictures at some places and their labels."""
        contents, labels, _ = fetch(indices)

        def plain(place, content, label):
            return shaped(plain_picture(content, view(draws_of(epoch, place)))), label

        def careful(place, index):
            """If a picture cannot be decoded, one of those that follow it."""

            def attempt(tried, image, label, good):
                found = fetch(((index + tried) % count)[None])
                content, label, name = (tensor[0] for tensor in found)
                image, good = decode.decoded(content, name, view(draws_of(epoch, place)), bad)
                return tried + 1, shaped(image), label, good

            nothing = tf.zeros((size, size, 3), "uint8"), tf.constant(0), tf.constant(False)
            _, image, label, _ = tf.while_loop(
                lambda tried, image, label, good: ~good & (tried < ATTEMPTS),
                attempt,
                (tf.constant(0, "int64"), *nothing),
            )
            return image, label

        return chunked((places, contents, labels), plain, (places, indices), careful, split)

    def shaped(image):
        return tf.ensure_shape(image, (size, size, 3))

    def augmented(epoch, place, image):
        draws = draws_of(epoch, place)
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
        return image

    # traced once for all epochs
    @tf.function(input_signature=(integer, *[tf.TensorSpec((chunk,), "int64")] * 2))
    def load(epoch, places, indices):
        images, labels = pictures(epoch, places, indices)
        images = mapped(lambda *row: augmented(epoch, *row), (places, images))
        return images.get_single_element(), labels, places

    def mixed(epoch, images, labels, places):
        targets = mixing.smooth_targets(labels, classes, recipe.label_smoothing)
        if not recipe.mixes:
            return images, targets
        seed = seed_of(epoch, places[0], MIX)
        return mixing.mix(images, targets, seed, recipe.mixup, recipe.cutmix)

    group = recipe.group_size if recipe.mixes else share
    if recipe.augment == "keras_cv":
        from keras_smlp.data.keras_cv_policy import batch_policy

        policy, group = batch_policy(recipe, classes), share

        def mixed(epoch, images, labels, places):
            return policy(images, labels)

    shapes = ((group, size, size, 3), kind), ((group,), "int32"), ((group,), "int64")
    mixed = tf.function(mixed, input_signature=(integer, *(tf.TensorSpec(*s) for s in shapes)))

    def batches(epoch, steps):
        order = epoch_order(count, seed, epoch, batch_size, recipe.group_size, recipe.repeats)
        places, epoch = part(steps, batch_size, rank, processes), tf.constant(epoch, "int64")
        return (
            tf.data.Dataset.from_tensor_slices((places, order[places]))
            .batch(chunk, drop_remainder=True)
            .map(lambda *places: load(epoch, *places), num_parallel_calls=threads)
            .rebatch(group, drop_remainder=True)
            .map(lambda *group: mixed(epoch, *group), num_parallel_calls=threads)
            .rebatch(share, drop_remainder=True)
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

    def load(indices):
        contents, labels, names = fetch(tf.maximum(indices, 0))

        def plain(index, content, label, name):
            return shaped(plain_picture(content, view)), label, index, name

        def careful(index, content, label, name):
            image, good = decode.decoded(content, name, view, bad)
            return shaped(image), label, tf.where(good, index, -1), name

        tensors = indices, contents, labels, names
        return chunked(tensors, plain, tensors, careful, split)

    def shaped(image):
        return tf.ensure_shape(image, (size, size, 3))

    dataset = tf.data.Dataset.from_tensor_slices(padded)
    dataset = dataset.batch(chunk_size(batch_size), drop_remainder=True)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.rebatch(batch_size, drop_remainder=True)
    if len(padded) * size * size * 3 <= CACHE_BYTES:
        dataset = dataset.cache()
    return dataset.prefetch(2)


def chunk_size(count):
    """How many images one thread makes at a time: what `count` can be divided by."""
    return max(n for n in range(1, CHUNK + 1) if count % n == 0)


def chunked(tensors, plain, other_tensors, careful, split):
    """Maps the rows of tensors: `plain`, and if one of them is an error, all of them `careful`."""
    if isinstance(split, Arrays):  # nothing to decode, nothing to go wrong
        return mapped(plain, tensors).get_single_element()
    return decode.first_of(mapped(plain, tensors), mapped(careful, other_tensors))


def mapped(function, tensors):
    """A dataset of one element: what the function makes of the rows of tensors, together."""
    [count] = tensors[0].shape
    rows = tf.data.Dataset.from_tensor_slices(tensors)
    return rows.map(function).batch(count, drop_remainder=True)


def reader(split):
    """A function from indices to uint8 pixels or the files' bytes, their labels and names."""
    if isinstance(split, Arrays):
        with tf.device("CPU"):
            images, labels = tf.constant(split.images), tf.constant(split.labels)
        name = tf.strings.as_string
        return lambda indices: (
            tf.gather(images, indices),
            tf.gather(labels, indices),
            tf.strings.join(["image ", name(indices)]),
        )

    def read(indices):
        contents, labels, names = split.read(indices)
        return np.array(contents, object), np.asarray(labels, "int32"), np.array(names, object)

    def fetch(indices):
        kinds = (tf.string, tf.int32, tf.string)
        found = tf.numpy_function(read, [indices], kinds, stateful=False)
        for tensor in found:
            tensor.set_shape(indices.shape)
        return found

    return fetch


def plain_picture(content, view):
    """The view of pixels, or of a file that TensorFlow decodes itself."""
    if content.dtype == tf.string:
        return decode.plainly(content, view)
    return view(decode.slicer(content), *content.shape[:2])
