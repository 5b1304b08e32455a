"""The alternative policy: keras-cv's own RandAugment, mixup and CutMix, for those who know them.

Not the recipe: other operations and magnitudes, lambda per image, and draws that depend on what was
drawn before, so that a resumed run sees other ones. keras-cv has had no release since April 2024.
"""

import keras_cv
import tensorflow as tf

from keras_smlp.data import mixing


def batch_policy(recipe, classes):
    """The policy for a batch.

    Args:
        recipe: A `recipe.DataConfig`; its operations, magnitude (a tenth of it, in keras-cv's
            terms), mixup, cutmix and label smoothing count.
        classes: Positive integer.

    Returns:
        A function of images `(n, size, size, 3)` and labels `(n,)` that returns float32 images
        in [0, 255] and targets `(n, classes)`; for `tf.data.Dataset.map`.
    """
    rand_augment = keras_cv.layers.RandAugment(
        value_range=(0, 255),
        augmentations_per_image=recipe.operations,
        magnitude=recipe.magnitude / 10,
        magnitude_stddev=recipe.magnitude_std / 10,
        rate=0.5,
    )
    mixup = recipe.mixup and keras_cv.layers.MixUp(alpha=recipe.mixup)
    cutmix = recipe.cutmix and keras_cv.layers.CutMix(alpha=recipe.cutmix)

    def policy(images, labels):
        targets = mixing.smooth_targets(labels, classes, recipe.label_smoothing)
        batch = {"images": tf.cast(images, "float32"), "labels": targets}
        batch = rand_augment(batch, training=True)
        if mixup and cutmix:
            batch = tf.cond(
                tf.random.uniform(()) < 0.5,
                lambda: cutmix(batch, training=True),
                lambda: mixup(batch, training=True),
            )
        elif mixup or cutmix:
            batch = (mixup or cutmix)(batch, training=True)
        shape = images.shape
        return tf.ensure_shape(batch["images"], shape), tf.ensure_shape(
            batch["labels"], (shape[0], classes)
        )

    return policy
