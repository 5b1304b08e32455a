"""Arrays -> batches by tf.data, for every backend: order, augmentation, size."""

import keras
import tensorflow as tf

if keras.backend.backend() != "tensorflow":
    # tf.data runs on the processor; the accelerator's memory belongs to JAX or PyTorch
    tf.config.set_visible_devices([], "GPU")


def train_batches(split, size, batch_size, epochs, seed, max_shift=0.0):
    """The training batches of a whole run, one epoch after the other.

    The order of an epoch depends on `seed` and the epoch alone, the augmentation of an image on
    `seed`, the epoch and the image's place in it: two runs see the same pixels on every backend.

    Args:
        split: A `sources.Split`.
        size: Positive integer. Side in pixels of the images given out.
        batch_size: Positive integer. What is left over of an epoch, less than one batch, is
            dropped: JAX would compile another step for it.
        epochs: Positive integer. Passes over the split.
        seed: Integer in `[0, 2**31)`.
        max_shift: Float in `[0, 0.5]`. An image is moved by up to this part of its side along
            both axes, mirrored at its border. Defaults to `0.0`.

    Returns:
        A `tf.data.Dataset` of `epochs * (len(split) // batch_size)` pairs: uint8 images
        `(batch_size, size, size, 3)` and int32 labels `(batch_size,)`.
    """
    images, labels, count = tf.constant(split.images), tf.constant(split.labels), len(split)
    margin = round(size * max_shift)

    def one_epoch(epoch):
        # negative, so that no image's draws have the same seed
        order = tf.random.experimental.stateless_shuffle(tf.range(count), [seed, -1 - epoch])
        draws = tf.range(count, dtype="int64") + epoch * count
        epoch_images = tf.data.Dataset.from_tensor_slices((order, draws))
        return epoch_images.map(one_image).batch(batch_size, drop_remainder=True)

    def one_image(index, draw):
        image = resize(images[index], size)
        if margin:
            image = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]], "SYMMETRIC")
            image = tf.image.stateless_random_crop(image, (size, size, 3), [seed, draw])
        return image, labels[index]

    # 64-bit, like the range of epochs: the place of an image in a long run
    seed = tf.constant(seed, "int64")
    return tf.data.Dataset.range(epochs).flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def validation_batches(split, size, batch_size):
    """Every image of a split once, in its order; the last batch may be smaller.

    Args:
        split: A `sources.Split`.
        size: Positive integer. Side in pixels of the images given out.
        batch_size: Positive integer.

    Returns:
        A `tf.data.Dataset` of uint8 images `(n, size, size, 3)` and int32 labels `(n,)`.
    """
    dataset = tf.data.Dataset.from_tensor_slices((split.images, split.labels)).batch(batch_size)
    return dataset.map(lambda images, labels: (resize(images, size), labels)).cache()


def resize(images, size):
    """Bilinear, back to uint8."""
    return tf.cast(tf.round(tf.image.resize(images, (size, size))), "uint8")
