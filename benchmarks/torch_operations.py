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
import logging
import os
import re
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

from benchmarks import models, tables  # noqa: E402 - the backend first
from keras_smlp_cli.arguments import Parser, positive  # noqa: E402
from reference import stand_in  # noqa: E402

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


def call(net, mode, batch, **arguments):
    """A function that takes a step, or infers, with a batch of zeros, which may be converted.

    A step gets its batch as the recipe of the paper has it: random erasing, mixup and CutMix are
    part of it.
    """
    import torch

    if mode == "inference":
        images = torch.zeros((batch, *net.input.shape[1:]))

        def infer(convert=lambda x: x):
            with torch.no_grad():
                return net(convert(images), training=False)

        return infer
    model = models.training_model(net, group_size=models.group_size(batch), **arguments)
    shapes, labels = models.drawn_batch(net, batch)
    data = {key: torch.zeros(shape, dtype=getattr(torch, dtype)) for key, shape, dtype in shapes}
    labels = torch.zeros(labels)
    return lambda convert=lambda x: x: model.train_step(
        ({key: convert(x) for key, x in data.items()}, convert(labels))
    )


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


class Breaks(logging.Handler):
    """Counts pairs (place, reason) of what PyTorch's compiler says of each break of a graph."""

    def __init__(self):
        super().__init__()
        self.found = collections.Counter()

    def emit(self, record):
        text = record.getMessage()
        place = re.search(r" in user code at (\S+:\d+)\n", text)
        if not place:
            return
        path = place[1].rpartition("site-packages/")[2]
        path = path.removeprefix(f"{Path(__file__).parents[1]}{os.sep}")
        path = re.sub(r".*/lib/python", "python", path)
        reasons = [x for x in text.split("\n")[1:] if x and not x.startswith("Graph Break Reason")]
        reason = reasons[0] if reasons else ""
        self.found[path, reason.partition("Explanation:")[0].strip()] += 1


def graphs(net, mode):
    """How many graphs `torch.compile` makes, and for each place where one ends: how often, why.

    Returns:
        The number, how many of the graphs have no operation, and a Counter of pairs (place,
        reason).
    """
    import torch

    torch._dynamo.reset()
    run = call(net, mode, 2, jit_compile=True)
    run()  # builds what Keras builds late
    torch._logging.set_logs(graph_breaks=True)
    logger = logging.getLogger("torch._dynamo.symbolic_convert.__graph_breaks")
    logger.handlers, logger.propagate = [breaks := Breaks()], False
    found = torch._dynamo.explain(run)()
    if found.graph_count > 1 and not breaks.found:
        raise RuntimeError(f"PyTorch {torch.__version__} does not say where the graphs end")
    return found.graph_count, sum(not n for n in found.ops_per_graph), breaks.found


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


def report_graphs(number, empty, breaks):
    """Lines of Markdown: the graphs, and where they end."""
    yield f"\ngraphs of torch.compile (one block a stage): {number}, {empty} of them empty\n"
    yield tables.head("place of a break", "times", "reason")
    for (place, reason), often in breaks.most_common():
        yield tables.line(place, str(often), reason)


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

    net = models.network(options.variant, options.precision)
    times, moved = count(net, options.mode, options.batch)
    what = f"{options.variant}, batch {options.batch}, {options.precision}, {options.mode}"
    print(f"{what}; torch {torch.__version__}; counted, not measured\n")
    for line in report(times, moved):
        print(line)
    if options.breaks:
        small = models.network(options.variant, options.precision, **SMALL)
        for line in report_graphs(*graphs(small, options.mode)):
            print(line)


if __name__ == "__main__":
    main()
