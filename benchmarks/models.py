"""The network, what train.py trains of it, and its batches, by the recipe of the paper."""

import math
from pathlib import Path

from reference import stand_in

RECIPE = Path(__file__).parents[1] / "configs" / "smlpnet_tiny_imagenet.yaml"
STEPS = 1251  # of an epoch, with 1024 images in a batch


def network(variant, precision, **arguments):
    """The network of a variant with logits, as train.py has it; or with other arguments."""
    import keras_smlp

    dim, depths, side, classes = stand_in.VARIANTS[variant]
    known = keras_smlp.VARIANTS.get(variant)
    own = {
        "depths": depths,
        "input_shape": (side, side, 3),
        "classes": classes,
        "classifier_activation": None,
        "drop_path_rate": known.drop_path_rate if known else 0.0,
        "dtype": precision,
    }
    return keras_smlp.SMLPNet(dim, **own | arguments)


def training_model(net, remat=False, group_size=1, parts=1, **arguments):
    """What train.py trains.

    Args:
        net: What `network` returned.
        remat: As for `TrainingModel`.
        group_size: As for `TrainingModel`.
        parts: Positive integer. Parts of a batch that are normalized apart.
        **arguments: Of `compile`.
    """
    import keras
    import numpy as np

    from keras_smlp.training import optimizer
    from keras_smlp.training.engines.base import batch_norms
    from keras_smlp.training.parsing import parse
    from keras_smlp.training.step import TrainingModel

    config = parse([f"--config={RECIPE}"])
    average = config.optimizer.ema_decay
    model = TrainingModel(net.input, net.output, average, remat=remat, group_size=group_size)
    for layer in batch_norms(model):
        layer.parts = parts
    model.compile(
        optimizer.adamw(config, steps=STEPS),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.TopKCategoricalAccuracy(5, name="top5"),
        ],
        **arguments,
    )
    images = np.zeros((2, *net.input_shape[1:]), "float32")
    model._symbolic_build(data_batch=(images, np.zeros((2, *net.output_shape[1:]), "float32")))
    return model


def group_size(batch):
    """Images that are mixed with one another: as many as in the recipe, or a divisor of that."""
    from keras_smlp.data.recipe import DataConfig

    return math.gcd(DataConfig.group_size, batch)


def drawn_batch(model, count):
    """Key, shape and dtype of each array of a training batch; the shape of the targets."""
    from keras_smlp.data import on_device

    return [
        (on_device.IMAGES, (count, *model.input_shape[1:]), "uint8"),
        (on_device.ERASE, (count, 5), "int32"),
        (on_device.MIX, (count, 5), "int32"),
    ], (count, *model.output_shape[1:])
