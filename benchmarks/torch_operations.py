"""How many operations PyTorch runs for a training step or an inference of the network: a count.

python -m benchmarks.torch_operations --variant tiny --batch 32 --precision mixed_bfloat16
python -m benchmarks.torch_operations --mode inference --breaks

Nothing is computed and no time is measured: the tensors have shapes but no values (FakeTensor), on
the CPU's path. On a GPU each layer normalization in 16 bits has two casts more, and in training two
more on the way back. A GPU launches about one kernel for each operation; for one on a list of
tensors (`_foreach_...`) some, for what a convolution copies within itself more. Bytes are those of
all operands and results; caches are not considered. Views, which compute nothing, are left out,
and so is what takes and returns no tensor.

With `--breaks` also the graphs that `torch.compile` makes of it, and where each ends: counted on
the network with one block a stage, in small images. It takes a minute or two.
"""

import collections
import importlib.util
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

from benchmarks import tables  # noqa: E402 - the backend first
from reference import stand_in  # noqa: E402
from tools.command_line import Parser, positive  # noqa: E402

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
MODES = ("training", "inference")
VIEWS = {
    *("alias", "as_strided", "detach", "expand", "permute", "reshape", "select", "slice"),
    *("split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view"),
    *("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "lift_fresh"),
}
CASTS = ("_to_copy",)
SHOWN = 15
# the network whose graphs are counted
SMALL = {"depths": (1, 1, 1, 1), "input_shape": (64, 64, 3), "drop_path_rate": 0.1}


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


def compiled(net, **arguments):
    """The model whose steps train.py takes."""
    import keras

    from keras_smlp.training.optimizer import NOT_DECAYED
    from keras_smlp.training.step import TrainingModel

    model = TrainingModel(net.input, net.output, ema_decay=0.9999)
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.05, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **arguments)
    return model


def call(net, mode, batch, **arguments):
    """A function that takes a step, or infers, with a batch of zeros, which may be converted."""
    import torch

    shapes = [(batch, *x.shape[1:]) for x in (net.input, net.output)]
    images, labels = (torch.zeros(shape) for shape in shapes)
    if mode == "inference":

        def infer(convert=lambda x: x):
            with torch.no_grad():
                return net(convert(images), training=False)

        return infer
    model = compiled(net, **arguments)
    return lambda convert=lambda x: x: model.train_step((convert(images), convert(labels)))


def count(net, mode, batch):
    """Name of each operation -> how often it ran; name -> bytes."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    times, moved = collections.Counter(), collections.Counter()

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket.__name__
            if name == "_local_scalar_dense":
                return 1  # a value is asked for, the seed of a draw: there is none
            answer = function(*args, **(kwargs or {}))
            tensors = [x for x in tree_leaves((args, kwargs, answer)) if torch.is_tensor(x)]
            if tensors and name not in VIEWS and function.namespace != "prim":
                times[name] += 1
                moved[name] += sum(x.numel() * x.element_size() for x in tensors)
            return answer

    run = call(net, mode, batch)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, Counter():
        run(fake.from_tensor)  # the first one also builds what Keras builds late
        times.clear()
        moved.clear()
        run(fake.from_tensor)
    return times, moved


def graphs(net, mode):
    """How many graphs `torch.compile` makes, and for each place where one ends: how often, why.

    Returns:
        The number, and a Counter of pairs (place, reason).
    """
    import torch

    torch._dynamo.reset()
    run = call(net, mode, 2, jit_compile=True)
    run()  # builds what Keras builds late
    found = torch._dynamo.explain(run)()
    breaks = collections.Counter()
    for reason in found.break_reasons:
        frame = reason.user_stack[-1]
        path = frame.filename.rpartition("site-packages/")[2]
        path = path.removeprefix(f"{Path(__file__).parents[1]}{os.sep}")
        breaks[f"{path}:{frame.lineno}", str(reason.reason).split("\n")[0]] += 1
    return found.graph_count, breaks


def report(times, moved):
    """Lines of Markdown: the sums, then the most frequent."""
    yield f"operations: {sum(times.values()):,}, of them casts: {casts(times):,}"
    yield f"bytes: {sum(moved.values()) / 1e9:.2f} GB\n"
    yield tables.head("operation", "times", "GB")
    for name, often in times.most_common(SHOWN):
        yield tables.line(name, f"{often:,}", f"{moved[name] / 1e9:.2f}")


def casts(times):
    """How many operations only change the type (or the layout) of a tensor."""
    return sum(times[name] for name in CASTS)


def report_graphs(number, breaks):
    """Lines of Markdown: the graphs, and where they end."""
    yield f"\ngraphs of torch.compile (one block a stage): {number}\n"
    yield tables.head("place of a break", "times", "reason")
    for (place, reason), often in breaks.most_common():
        yield tables.line(place, str(often), reason)
    missing = number - 1 - sum(breaks.values())
    if missing > 0:
        yield tables.line("not told by PyTorch", str(missing), "")


def parse():
    """The options, complete and possible."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--variant", choices=tuple(stand_in.VARIANTS), default="tiny", help="default: tiny")
    add("--batch", type=positive, default=32, help="images in a call (default: 32)")
    add("--precision", choices=PRECISIONS, default="float32", help="default: float32")
    add("--mode", choices=MODES, default="training", help="default: training")
    add("--breaks", action="store_true", help="also the graphs of torch.compile, and their ends")
    options = parser.parse_args()
    for module in ("torch", "keras"):
        if not importlib.util.find_spec(module):
            parser.error(f"needs {module}, which is not installed")
    return options


def main():
    options = parse()
    import torch

    net = network(options.variant, options.precision)
    times, moved = count(net, options.mode, options.batch)
    what = f"{options.variant}, batch {options.batch}, {options.precision}, {options.mode}"
    print(f"{what}; torch {torch.__version__}; counted, not measured\n")
    for line in report(times, moved):
        print(line)
    if options.breaks:
        small = network(options.variant, options.precision, **SMALL)
        for line in report_graphs(*graphs(small, options.mode)):
            print(line)


if __name__ == "__main__":
    main()
