"""The training step: Keras' own, then the averages of the weights."""

import contextlib
from typing import Any

import keras
from keras import ops

from keras_smlp.checks import check_boolean, check_positive_integer, check_rate
from keras_smlp.data import on_device
from keras_smlp.layers import ChannelMixing, TokenMixing, backend
from keras_smlp.layers.normalization import BatchNormalization
from keras_smlp.saving import PortableModel
from keras_smlp.training.engines import Engine
from keras_smlp.training.engines.base import batch_norms

BACKEND = keras.backend.backend()


class Averages(keras.Layer):
    """Holds one weight for each averaged variable; `save_weights` saves them with the rest.

    Args:
        variables: List of `keras.Variable`. 16-bit ones are averaged in float32.
    """

    def __init__(self, variables):
        super().__init__(name="averages", trainable=False, dtype="float32")
        for number, variable in enumerate(variables):
            short = variable.dtype in ("float16", "bfloat16")
            self.add_weight(
                name=f"average_{number}",
                shape=variable.shape,
                dtype="float32" if short else variable.dtype,
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
        self.built = True


class TrainingModel(PortableModel):
    """A network in training, with an exponential moving average (EMA) of its weights.

    The layers are the network's own: what is trained here is what the network has. After each
    update of the optimizer (with `gradient_accumulation_steps=n` every n-th step, under
    `mixed_float16` those whose gradients are finite) all its float weights are averaged, the
    moving statistics of BatchNorm too: `average = decay * average + (1 - decay) * weight`.

    `save_weights` and, in a new process after `compile`, `load_weights` restore the training
    exactly: weights, averages, optimizer and the random states of the layers. Under an engine of
    several PyTorch processes the logs of `fit` are of the process's own part of the batches, and so
    are the gradients between the updates of an accumulation: save after an update.

    Args:
        inputs: Symbolic tensor, or a list or dict of them.
        outputs: Symbolic tensor, or a list or dict of them.
        ema_decay: Float in `[0, 1)`. Decay of the averages per update. Defaults to `None`: none.
        engine: What `keras_smlp.training.engines.start` returned. The model must be built and
            compiled in its `scope()`. Defaults to one process on one device.
        remat: Boolean. Whether training keeps only the input of each token mixing and each channel
            mixing, and computes the rest again in the backward pass. Defaults to `False`.
        group_size: Positive integer. Images that share a draw of mixup and CutMix, where `fit` gets
            the batches of `keras_smlp.data.pipeline`, as `on_device.finished` takes them.
            Defaults to `1`.
        **kwargs: Keyword arguments of a functional `keras.Model`.

    Raises:
        ValueError: If `ema_decay` is outside `[0, 1)`, or `group_size` is not a positive
            integer.
    """

    def __init__(
        self, inputs, outputs, ema_decay=None, engine=None, remat=False, group_size=1, **kwargs
    ):
        super().__init__(inputs, outputs, **kwargs)
        self.input_spec = None  # a batch may be a dict
        self.group_size = check_positive_integer("group_size", group_size)
        self.ema_decay = ema_decay = check_rate("ema_decay", ema_decay, none=True)
        self.engine = engine or Engine()
        self.remat = check_boolean("remat", remat)
        for layer in self.layers:
            if isinstance(layer, (TokenMixing, ChannelMixing)):
                layer.remat = self.remat
        self.averages = None
        if ema_decay is not None:
            self.averages = Averages(self.averaged_variables)
            self.reset_ema()

    @property
    def averaged_variables(self):
        """The network's float weights, in the order of the weights of `averages`."""
        weights = [weight for layer in self.layers for weight in layer.weights]
        return [weight for weight in weights if keras.backend.is_float_dtype(weight.dtype)]

    def reset_ema(self):
        """Sets the averages to the weights; again where weights are loaded after construction."""
        for average, variable in self.ema_pairs():
            # JAX hands both to one program, which may not have one buffer twice
            average.assign(ops.copy(variable))

    def ema_pairs(self):
        """(average, variable) for each averaged variable; none without averages."""
        if self.averages is None:
            return []
        return list(zip(self.averages.weights, self.averaged_variables, strict=True))

    @contextlib.contextmanager
    def ema_swapped_in(self):
        """Inside the block the network has the averages for weights; then its own again, exactly.

        Raises:
            ValueError: If the model has no averages.
        """
        if self.averages is None:
            raise ValueError("`ema_swapped_in()` needs a model with an `ema_decay`. Received: None")
        if BACKEND == "jax":
            self.jax_state_sync()  # within an epoch, `fit` holds the values
        pairs = self.ema_pairs()
        own = [ops.copy(variable) for _, variable in pairs]
        try:
            for average, variable in pairs:
                variable.assign(ops.copy(average))
            yield
        finally:
            for (_, variable), value in zip(pairs, own, strict=True):
                variable.assign(value)

    def call(self, inputs, training=None, mask=None):
        images = on_device.finished(inputs, self.group_size)
        return super().call(images, training=training, mask=mask)

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self.engine.check_optimizer(self.optimizer)
        # `load_weights` restores only the optimizer's variables that exist
        self.optimizer.build(self.trainable_variables)

    def save(self, *args, **kwargs):
        raise ValueError("`TrainingModel` has no `.keras` file, allowed: `save_weights`")

    # ---- the step -------------------------------------------------------------------------------
    def train_step(self, *arguments):
        """`(data) -> logs`; on JAX `(state, data) -> (logs, state)`."""
        if BACKEND == "jax":
            return self.jax_step(*arguments)
        updates = self.updates()
        scope = self.engine.step_scope(self)
        statistics = backend.updating_statistics(self.trained_batch_norms())
        # one context around Keras' step: torch.compile fails at a graph's end within two
        with statistics if BACKEND == "torch" else scope:
            if BACKEND == "torch" and self.engine.processes > 1:
                with scope:
                    logs = self.torch_step(*arguments)
            else:
                logs = super().train_step(*arguments)
        self.engine.average_statistics(self)
        self.update_averages(updates)
        return logs

    def trained_batch_norms(self):
        """The batch normalizations that are not frozen; not Keras' own, which older files have."""
        return [x for x in batch_norms(self) if isinstance(x, BatchNormalization) and x.trainable]

    def jax_step(self, state, data):
        optimizer_variables = self.optimizer.variables
        with keras.StatelessScope(list(zip(optimizer_variables, state[2], strict=True))):
            updates = self.updates()
        with self.engine.step_scope(self):
            logs, (trainable, others, optimizer, metrics) = super().train_step(state, data)
        variables = [*self.trainable_variables, *self.non_trainable_variables, *optimizer_variables]
        values = [*trainable, *others, *optimizer]
        with keras.StatelessScope(list(zip(variables, values, strict=True))) as scope:
            self.update_averages(updates)
        others = [scope.get_current_value(variable) for variable in self.non_trainable_variables]
        return logs, (trainable, others, optimizer, metrics)

    def torch_step(self, data):
        """Keras' step, but the engine computes the gradients: their mean over the processes."""
        import torch

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self(x, training=True)
        self.zero_grad()
        loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
        tracker = next(metric for metric in self.metrics if metric.name == "loss")
        tracker.update_state(loss, sample_weight=len(y))
        # the mean before the optimizer looks for overflow: all processes skip an update, or none
        self.engine.backward(self, self.optimizer.scale_loss(loss))
        variables = self.trainable_variables
        gradients = [variable.value.grad for variable in variables]
        with torch.no_grad():
            self.optimizer.apply(gradients, variables)
        return self.compute_metrics(x, y, outputs, sample_weight)

    def updates(self):
        """How often the optimizer has updated; `None` where each step does (or none averages)."""
        optimizer: Any = self.optimizer
        inner = getattr(optimizer, "inner_optimizer", None)  # where the loss is scaled
        if self.averages is None or not (inner or optimizer.gradient_accumulation_steps):
            return None
        return ops.copy(optimizer.iterations)

    def update_averages(self, updates_before):
        """Moves the averages if the optimizer has updated since `updates_before`."""
        updated = True
        if updates_before is not None:
            updated = ops.not_equal(self.optimizer.iterations, updates_before)
        if BACKEND == "torch":
            if updated:
                self.average_at_once()
            return
        for average, variable in self.ema_pairs():
            value = ops.cast(variable, average.dtype)
            moved = self.ema_decay * average + (1 - self.ema_decay) * value
            average.assign(moved if updated is True else ops.where(updated, moved, average.value))

    def average_at_once(self):
        """Moves all averages by one operation of PyTorch, which has no compiler to fuse many."""
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        if pairs := self.ema_pairs():
            averages = [average.value for average, _ in pairs]
            values = [x.value.detach().to(average.value.dtype) for average, x in pairs]
            get_ema_multi_avg_fn(self.ema_decay)(averages, values, None)
