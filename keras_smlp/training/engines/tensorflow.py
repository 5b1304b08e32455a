"""TensorFlow: `tf.distribute`, one process with a copy of the model per device."""

import contextlib

from keras import ops

from keras_smlp.layers.drop_path import batch_part
from keras_smlp.training.engines.base import Engine, batch_norms, several, statistics

# Keras 3.15 on MultiWorkerMirroredStrategy: `fit` ends in "Attempt to convert a value
# (PerReplica...) with an unsupported type", where it reduces the first batch for its shapes
NO_MULTI_HOST = "auto, none, data_parallel (`fit` of Keras fails on several TensorFlow hosts; \
use KERAS_BACKEND=jax)"


def start(kind, batch_norm):
    import tensorflow as tf

    if kind == "multi_host":
        raise ValueError(f"`kind`: multi_host, allowed: {NO_MULTI_HOST}")
    if kind != "none" and tf.config.list_physical_devices("TPU"):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return TensorFlowEngine(tf.distribute.TPUStrategy(resolver), batch_norm)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if not several(kind, len(devices)):
        return Engine()
    names = [device.name for device in devices]
    return TensorFlowEngine(tf.distribute.MirroredStrategy(names), batch_norm)


class TensorFlowEngine(Engine):
    """One process, a copy of the model per device."""

    def __init__(self, strategy, batch_norm):
        self.strategy, self.name = strategy, f"tf.distribute.{type(strategy).__name__}"
        self.devices = strategy.num_replicas_in_sync
        self.local = batch_norm == "local"
        self.normalized = "each device's part of the batch" if self.local else "the whole batch"

    @property
    def apart(self):
        return self.devices, "devices"

    def scope(self):
        return self.strategy.scope()

    def forward(self, model):
        # predict_on_batch would give each device the whole batch
        return lambda images: model.predict(images, batch_size=len(images), verbose=0)

    def check_optimizer(self, optimizer):
        steps = getattr(optimizer, "inner_optimizer", optimizer).gradient_accumulation_steps
        if steps:
            raise ValueError(
                f"`gradient_accumulation_steps`: {steps}, allowed: 1 with {self.name} (Keras "
                "accumulates on TensorFlow on one device only)"
            )

    @contextlib.contextmanager
    def step_scope(self, model):
        import tensorflow as tf

        layers = [] if self.local else batch_norms(model)
        for layer in layers:
            layer.synchronized = True
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        try:
            with batch_part(number, self.devices):
                yield
        finally:
            # it would get into saved files, which JAX and PyTorch then refuse
            for layer in layers:
                layer.synchronized = False

    def average_statistics(self, model):
        import tensorflow as tf

        variables = statistics(model)
        if self.local and variables:
            values = [ops.convert_to_tensor(variable) for variable in variables]
            context = tf.distribute.get_replica_context()
            means = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
            for variable, mean in zip(variables, means, strict=True):
                variable.assign(mean)
