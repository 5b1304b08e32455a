"""JAX: `keras.distribution.DataParallel`, on one host or several."""

import contextlib
import functools
import pickle

import keras
import numpy as np

from keras_smlp.training.engines.base import Engine, batch_norms, joined, several


def start(kind, batch_norm, coordinator, processes, rank):
    import jax

    if kind == "multi_host":
        try:
            keras.distribution.initialize(coordinator, processes, rank)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"`kind`: multi_host with coordinator {coordinator}, processes "
                f"{processes}, rank {rank}, allowed: what JAX can start ({error})"
            ) from error
        return JaxEngine(batch_norm)
    return JaxEngine(batch_norm) if several(kind, jax.device_count()) else Engine()


class JaxEngine(Engine):
    """Global arrays under `jit`: each program sees the whole batch."""

    name = "keras.distribution.DataParallel"

    def __init__(self, batch_norm):
        import jax

        self.devices, self.processes = jax.device_count(), jax.process_count()
        self.rank = jax.process_index()
        self.local = batch_norm == "local"
        self.normalized = "each device's part of the batch" if self.local else "the whole batch"
        self.distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(self.distribution)

    def forward(self, model):
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        # on this process's devices alone: `predict` fails on arrays that span processes
        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("batch",))
        whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
        groups = (model.trainable_variables, model.non_trainable_variables)
        state = [[jax.device_put(np.asarray(v.value), whole) for v in group] for group in groups]
        call = jax_call(model)
        return lambda images: np.asarray(call(*state, jax.device_put(images, split)))

    @contextlib.contextmanager
    def step_scope(self, model):
        layers = batch_norms(model) if self.local else []
        for layer in layers:
            layer.parts = self.devices
        try:
            yield
        finally:
            for layer in layers:
                layer.parts = 1

    @contextlib.contextmanager
    def saving(self):
        # Keras makes variables when it saves; as global arrays, all processes would have to
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(self.distribution)

    def gather(self, rows):
        from jax.experimental.multihost_utils import process_allgather

        # as bytes: JAX would turn float64 into float32
        data = np.frombuffer(pickle.dumps(rows), "uint8")
        sizes = process_allgather(np.array([data.size], "int32")).ravel()
        parts = process_allgather(np.pad(data, (0, sizes.max() - data.size)))
        parts = parts.reshape(len(sizes), -1)
        return joined([pickle.loads(part[:size]) for part, size in zip(parts, sizes, strict=True)])


@functools.lru_cache(maxsize=1)
def jax_call(model):
    """The compiled forward pass of a model, kept for the next evaluation."""
    import jax

    def call(trainable, others, images):
        return model.stateless_call(trainable, others, images, training=False)[0]

    return jax.jit(call)
