"""AdamW as the recipe has it."""

import keras
import numpy as np

from keras_smlp.training.schedule import Tabulated, learning_rate

# biases, and the scales and shifts of norms
NOT_DECAYED = ("bias", "gamma", "beta")


def adamw(config, steps):
    """The optimizer of a configuration: decay on all weights but biases and norms.

    Args:
        config: A `config.Config`.
        steps: Positive integer. Batches of an epoch.

    Returns:
        A `keras.optimizers.AdamW`.
    """
    options = config.optimizer
    # Keras counts batches here, also where it gathers several for an update
    if options.schedule == "epoch":
        schedule = Tabulated(learning_rates(config, np.arange(config.train.epochs)), steps)
    else:
        parts = np.arange(config.train.epochs * steps) / steps
        schedule = Tabulated(learning_rates(config, parts))
    optimizer = keras.optimizers.AdamW(
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
