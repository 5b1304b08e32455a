"""AdamW as the recipe has it."""

import keras
import numpy as np

from keras_smlp.training.config import REFERENCE_BATCH
from keras_smlp.training.layer_decay import layer_factors, with_factors
from keras_smlp.training.schedule import Tabulated, learning_rate

# biases, and the scales and shifts of norms
NOT_DECAYED = ("bias", "gamma", "beta")


def adamw(config, steps, network=None):
    """The optimizer of a configuration: decay on all weights but biases and norms.

    Args:
        config: A `config.Config`.
        steps: Positive integer. Batches of an epoch.
        network: The network, for `optimizer.layer_decay`. Defaults to `None`: no such decay.

    Returns:
        A `keras.optimizers.AdamW`.
    """
    options = config.optimizer
    # by batches, not updates: Keras counts so with `gradient_accumulation_steps` too
    if options.schedule == "epoch":
        schedule = Tabulated(learning_rates(config, np.arange(config.train.epochs)), steps)
    else:
        parts = np.arange(config.train.epochs * steps) / steps
        schedule = Tabulated(learning_rates(config, parts))
    kind = keras.optimizers.AdamW
    if network is not None and options.layer_decay != 1:
        # on PyTorch Keras makes an optimizer of another class, which updates all variables at once
        kind = with_factors(type(kind()), layer_factors(network, options.layer_decay))
    optimizer = kind(
        schedule,
        weight_decay=options.weight_decay,
        epsilon=1e-8,
        global_clipnorm=options.clip_norm,
        gradient_accumulation_steps=options.accumulation if options.accumulation > 1 else None,
    )
    # not part of what Keras saves: said again whenever an optimizer is made
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    return optimizer


def learning_rates(config, epochs):
    """The learning rates at some (parts of) epochs; one late if they change per epoch."""
    options = config.optimizer
    return learning_rate(
        epochs,
        config.peak_lr,
        config.train.epochs,
        options.warmup_epochs,
        options.warmup_lr,
        options.min_lr,
        late=options.schedule == "epoch",
    )


def doubt(config):
    """A sentence on a learning rate whose peak is below an end of its schedule; else `None`.

    `base_lr` is scaled by the images of an update, the two ends of the schedule are not: a small
    batch may bring its peak below them.
    """
    options, peak = config.optimizer, config.peak_lr
    ends = {"min_lr": options.min_lr}
    if options.warmup_epochs:
        ends["warmup_lr"] = options.warmup_lr
    end = max(ends, key=lambda name: ends[name])
    if peak >= ends[end]:
        return None
    wrong = {"min_lr": "rises after the warmup, where it should fall"}
    wrong["warmup_lr"] = "falls in the warmup, where it should rise"
    images = config.train.batch_size * options.accumulation
    return (
        f"optimizer.base_lr: {options.base_lr:g} for {REFERENCE_BATCH} images is a peak of "
        f"{peak:.3g} for the {images} of an update, less than optimizer.{end}, {ends[end]:g}: the "
        f"learning rate {wrong[end]}"
    )
