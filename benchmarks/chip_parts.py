"""What runs in the process that compiles a part of the network for a chip that is not there.

The environment must be as `chips.environment` has it before this is imported.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import models

STAGES = (1, 2, 3, 4)


class Job(NamedTuple):
    """What is compiled.

    Attributes:
        part: `"step"`, or one of `parts(mode)`.
        platform: `"tpu"` or `"cuda"`.
        topology: Name of the chips' topology, as XLA knows it.
        target: Path of a description of the GPU; `None` for TPUs.
        chips: How many share the batch.
        variant: Name of a published variant.
        depths: Blocks of each stage.
        size: Side of the images.
        batch: Images a chip.
        mode: `"training"` or `"inference"`.
        precision: Dtype policy.
        remat: Whether the whole training step keeps of each half of a block its input alone.
        local: Whether each chip normalizes its own part of the batch in the whole training step.
        path: Path to write the program to.
    """

    part: str
    platform: str
    topology: str
    target: Path | None
    chips: int
    variant: str
    depths: tuple[int, ...]
    size: int
    batch: int
    mode: str
    precision: str
    remat: bool
    local: bool
    path: Path


def parts(mode):
    """The parts whose costs add up to a step, and whether a part occurs once for each block."""
    found = {"stem": 0, **{f"block {stage}": stage for stage in STAGES}}
    found |= {f"downsample {stage}": 0 for stage in STAGES[1:]} | {"head": 0}
    return found | ({"erase and mix": 0, "optimizer": 0} if mode == "training" else {})


def main(job):
    """Compiles a part and writes its program.

    Args:
        job: A `Job`.
    """
    import jax
    import keras

    keras.utils.set_random_seed(0)
    whole, split = shardings(job)
    function, arguments, options = traced(job, whole, split)
    compiled = jax.jit(function, **options).lower(*arguments).compile()
    modules = compiled.runtime_executable().hlo_modules()
    job.path.write_text("\n".join(module.to_string(printed()) for module in modules))


def printed():
    """How a program is written: with the compiler's estimates."""
    from jaxlib import _hlo

    options = _hlo.HloPrintOptions()
    options.print_backend_config = True
    return options


def shardings(job):
    """How arrays lie on the chips: each with all of it, or with a part of the batch."""
    import jax
    import numpy as np
    from jax.experimental import topologies

    kwargs = {}
    if job.target:
        kwargs = {"topology": job.topology, "target_config": job.target.read_text()}
    topology = topologies.get_topology_desc(job.topology, job.platform, **kwargs)
    device = topology.devices[0]
    if job.chips == 1:
        return [jax.sharding.SingleDeviceSharding(device)] * 2
    mesh = jax.sharding.Mesh(np.array(topology.devices[: job.chips]), ("batch",))
    spec = jax.sharding.PartitionSpec
    return [jax.sharding.NamedSharding(mesh, spec(*x)) for x in ((), ("batch",))]


def traced(job, whole, split):
    """The function of a part, the shapes of its arguments, and options of `jax.jit`."""
    import jax

    from keras_smlp.data import on_device

    def variables(group):
        return [jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=whole) for v in group]

    def batch(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=split)

    images = job.batch * job.chips
    if job.part == "erase and mix":
        shapes, _ = models.drawn_batch(network(job, job.depths), images)
        drawn = {key: batch(shape, dtype) for key, shape, dtype in shapes}
        finished = partial(on_device.finished, group_size=models.group_size(job.batch))
        return finished, (drawn,), {}
    if job.mode == "training" and job.part in ("step", "optimizer"):
        model = training_model(job)
        state = tuple(
            variables(group)
            for group in (
                model.trainable_variables,
                model.non_trainable_variables,
                model.optimizer.variables,
                model.metrics_variables,
            )
        )
        if job.part == "optimizer":
            return update(model), (state[0], *state[:3]), {"donate_argnums": (1, 2, 3)}
        shapes, labels = models.drawn_batch(model, images)
        drawn = {key: batch(shape, dtype) for key, shape, dtype in shapes}
        data = drawn, batch(labels, "float32")
        kept = jax.tree.map(lambda _: whole, state)
        outs = {} if job.chips == 1 else {"out_shardings": (None, kept)}
        # as Keras compiles it
        return model.train_step, (state, data), {"donate_argnums": 0, **outs}

    model = cut(network(job, job.depths), job.part)
    states = variables(model.trainable_variables), variables(model.non_trainable_variables)
    x = batch((images, *model.input.shape[1:]), model.input.dtype)
    if job.mode == "inference":
        return forward(model), (*states, x), {}
    upstream = batch((images, *model.output.shape[1:]), model.output.dtype)
    return with_gradients(model, job.part), (*states, x, upstream), {}


# ---- models -------------------------------------------------------------------------------------
def network(job, depths):
    """The network, with logits for training."""
    arguments = {"depths": depths, "input_shape": (job.size, job.size, 3)}
    if job.mode == "inference":
        arguments["classifier_activation"] = "softmax"
    return models.network(job.variant, job.precision, **arguments)


def training_model(job):
    """What train.py trains, its optimizer's operations named so in the program."""
    net = network(job, job.depths)
    group = models.group_size(job.batch)
    parts = job.chips if job.local else 1
    model = models.training_model(net, remat=job.remat, group_size=group, parts=parts)
    named(model.optimizer)
    return model


def named(optimizer):
    """The optimizer, its operations named so in the program."""
    import jax

    apply = optimizer.stateless_apply

    def stateless_apply(*arguments):
        with jax.named_scope("optimizer"):
            return apply(*arguments)

    optimizer.stateless_apply = stateless_apply
    return optimizer


def cut(net, part):
    """The part of a network as a model of its own."""
    import keras

    from keras_smlp import naming

    if part == "step":
        return net
    name, _, stage = part.partition(" ")
    stage = int(stage or 0)
    first, last = {
        "stem": (None, naming.STEM),
        "block": (naming.token_mixing(stage, 1), naming.channel_mixing(stage, 1)),
        "downsample": (naming.downsample(stage), naming.downsample(stage)),
        "head": (naming.NORM, naming.HEAD),
    }[name]
    begin = net.get_layer(first).input if first else net.input
    inputs = keras.Input(begin.shape[1:], dtype=begin.dtype)
    layers = [layer.name for layer in net.layers]
    x = inputs
    for layer in net.layers[layers.index(first) if first else 1 : layers.index(last) + 1]:
        x = layer(x)
    return keras.Model(inputs, x)


# ---- functions ----------------------------------------------------------------------------------
def forward(model):
    """Inference."""

    def function(trainable, others, x):
        return model.stateless_call(trainable, others, x, training=False)[0]

    return function


def with_gradients(model, part):
    """Forward and backward; the images themselves need no gradient."""
    import jax

    def function(trainable, others, x, upstream):
        def call(trainable, x):
            return model.stateless_call(trainable, others, x, training=True)

        if part == "stem":
            y, back, others_now = jax.vjp(lambda t: call(t, x), trainable, has_aux=True)
        else:
            y, back, others_now = jax.vjp(call, trainable, x, has_aux=True)
        return y, back(upstream), others_now

    return function


def update(model):
    """The optimizer's update, and that of the averages."""
    import keras

    def function(gradients, trainable, others, state):
        optimizer = model.optimizer
        trainable, state = optimizer.stateless_apply(state, gradients, trainable)
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        pairs = list(zip(variables, [*trainable, *others], strict=True))
        with keras.StatelessScope(pairs) as scope:
            model.update_averages(None)
        others = [scope.get_current_value(v) for v in model.non_trainable_variables]
        return trainable, others, state

    return function
