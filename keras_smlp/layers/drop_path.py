"""Stochastic depth."""

import contextlib
import threading
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_smlp.checks import check_rate, check_seed, check_unquantized


class BatchPart(threading.local):
    """Which of how many parts of a batch there is; TensorFlow traces replicas in threads.

    Not a `ContextVar`, at which the graphs of `torch.compile` end.
    """

    number, parts = 0, 1


PART = BatchPart()


@contextlib.contextmanager
def batch_part(number, parts):
    """Context manager in which each batch is one of the equal parts of a larger one.

    `DropPath` then draws for the larger batch, whichever devices and processes share it, and takes
    its part. All parts must begin with the same random states. It holds for the current thread.

    Args:
        number: Integer in `[0, parts)`, or a scalar integer tensor.
        parts: Positive integer.
    """
    before = PART.number, PART.parts
    PART.number, PART.parts = number, parts
    try:
        yield
    finally:
        PART.number, PART.parts = before


@keras.saving.register_keras_serializable(package="keras_smlp")
class DropPath(keras.Layer):
    """Stochastic depth: zeroes a residual branch for whole samples while training.

    Each sample of the batch is dropped with probability `rate`, independently; what is kept is
    divided by `1 - rate`, so that the expectation stays. At inference it is the identity.

    The state of its random generator is saved with the weights, so a resumed training draws what
    the uninterrupted one would have drawn (Keras' own `Dropout` starts anew).

    Args:
        rate: Float in `[0, 1)`. Probability of dropping a sample.
        seed: Integer or `None`. Seed of the draws; `None` takes one from the generator that
            `keras.utils.set_random_seed` seeds. Two layers with one seed draw the same masks.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Call arguments:
        x: Tensor of any rank, `(batch, ...)`.
        training: Boolean. Whether to drop. Defaults to the mode that the model is called in.

    Returns:
        A tensor of the shape and dtype of `x`.

    Raises:
        ValueError: If `rate` is outside `[0, 1)` or `seed` is no seed.

    Reference:
        [Deep Networks with Stochastic Depth](https://arxiv.org/abs/1603.09382), as in timm's
        `DropPath`, which the official sMLPNet uses.

    Example:

    >>> x = np.ones((4, 8, 8, 3), "float32")
    >>> tuple(keras_smlp.layers.DropPath(0.5, seed=1)(x, training=True).shape)
    (4, 8, 8, 3)
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        check_unquantized(self)
        self.rate = check_rate("rate", rate)
        self.seed = check_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed) if self.rate > 0 else None
        self.supports_masking = True
        self.built = type(self).build is keras.Layer.build  # a subclass may have something to build

    def call(self, x, training=None):
        if not training or self.rate == 0:
            return x
        number, parts = PART.number, PART.parts
        one_per_sample = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        # not keras.random.dropout: on PyTorch it draws from the global generator where the seed is
        # None, and what is drawn there is not in our state
        drawn = keras.random.uniform((parts, *one_per_sample), seed=self.seed_generator)[number]
        return x * ops.cast(drawn >= self.rate, x.dtype) / (1 - self.rate)

    def compute_output_shape(self, input_shape):
        return input_shape

    def save_own_variables(self, store):
        if self.seed_generator is not None:
            store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        if self.seed_generator is not None and "seed_state" in store:
            self.seed_generator.state.assign(np.asarray(store["seed_state"]))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
