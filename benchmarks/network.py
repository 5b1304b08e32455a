"""Our network against the official one and against the machine, side by side in one run.

python -m benchmarks.network --variant tiny --batch 1 8 --json rows.json --plot rows.png
python -m benchmarks.network --batch 8 --precision float32 int8 --exports openvino onnx litert
python -m benchmarks.network --batch 8 --mode training
python -m benchmarks.network --growth --backends jax

Ours is the Keras model on each backend by `predict_on_batch` or `train_on_batch`, compiled where
Keras compiles by default; for inference its folded copy too, and that copy as exported. The peer is
the official architecture in PyTorch (`reference/network.py`), NCHW, eager, channels-last and
compiled; mixed precision is autocast there. All have the same weights, take the same normalized
images and give logits. The limit is the product of two large matrices in PyTorch.

For each variant, size and batch every contender is a process, warm, and they take turns; whoever
waits must not compute. A row has the least of all times. `ratio_to_peer` is to the fastest of the
peer's modes in the same precision (for 8 bits in float32), `ratio_to_limit` to the time that the
network's multiply-adds take at the limit's rate, three times as many for training. Memory is the
most that the process ever had, compiling and Keras included.

Linux only: all processes are bound to the same processors, as many as `--threads`.
"""

import datetime
import importlib.util
import itertools
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from benchmarks import cases, growth, tables
from keras_smlp_cli.arguments import Parser, positive
from reference import stand_in

STRIDE = 32


def parse(processors):
    """The options, complete and possible."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--variant", nargs="+", choices=tuple(stand_in.VARIANTS), help="default: tiny")
    add("--batch", nargs="+", type=positive, help="images in a call (default: 1 8)")
    add("--size", nargs="+", type=positive, help="side of the images (default: the variant's)")
    add("--mode", choices=("inference", "training"), default="inference")
    add("--precision", nargs="+", choices=cases.PRECISIONS, default=["float32"])
    add("--backends", nargs="*", choices=cases.BACKENDS, default=list(cases.BACKENDS))
    add("--forms", nargs="+", choices=("plain", "folded"), help="default: both, where they can be")
    exports = f"{', '.join(cases.EXPORTS)}, or PRECISION:FILE for a file of the variant"
    add("--exports", nargs="*", default=[], metavar="EXPORT", help=exports)
    add("--against", choices=("reference", "none"), help="default: reference; for --growth none")
    add("--peer-modes", nargs="+", choices=cases.PEER_MODES, default=list(cases.PEER_MODES))
    optimizers = "AdamW as PyTorch has it by default, or in one kernel, which is faster on CPUs"
    add("--peer-optimizer", choices=("default", "fused"), default="default", help=optimizers)
    add("--rounds", type=positive, default=5, help="turns of each contender (default: 5)")
    add("--seconds", type=float, default=1.0, help="of a turn, which is a call at least")
    add("--threads", type=positive, default=processors, help="default: one per processor")
    policies = "whether OpenMP's threads sleep at once when idle, or as the libraries have it"
    add("--wait-policy", choices=("passive", "default"), default="passive", help=policies)
    add("--growth", action="store_true", help="vary batch, size and variant, one at a time")
    add("--json", type=Path, metavar="FILE", help="write the rows")
    add("--plot", type=Path, metavar="FILE.png", help="draw the rows")
    options = parser.parse_args()
    complete(options)
    try:
        options.exports = [cases.parse_export(text, options.precision) for text in options.exports]
        check(options, processors)
        check_packages(options)
    except ValueError as error:
        parser.error(error)
    return options


def complete(options):
    """Fills in the defaults that depend on other options."""
    growing = options.growth
    options.variant = options.variant or (["tiny", "small", "base"] if growing else ["tiny"])
    options.batch = options.batch or ([1, 2, 4, 8, 16, 32, 64] if growing else [1, 8])
    own = stand_in.VARIANTS[options.variant[0]][2]
    options.size = options.size or ([224, 256, 320, 384, 448, 512] if growing else [own])
    options.against = options.against or ("none" if growing else "reference")
    both = options.mode == "inference" and not growing
    options.forms = options.forms or (["plain", "folded"] if both else ["plain"])


def check(options, processors):
    """Refuses what cannot be run, before anything is."""
    if options.threads > processors:
        raise ValueError(f"--threads must be at most {processors}. Received: {options.threads}")
    if not 0 <= options.seconds <= 60:
        raise ValueError(f"--seconds must be in [0, 60]. Received: {options.seconds}")
    if options.mode == "training":
        for name, wrong in {
            "--exports": options.exports,
            "--forms folded": "folded" in options.forms,
            "--precision int8": "int8" in options.precision,
        }.items():
            if wrong:
                raise ValueError(f"{name} must not stand with --mode training: none can be trained")
    for size in options.size:
        if size % STRIDE:
            raise ValueError(f"--size must be a multiple of {STRIDE}. Received: {size}")
    for variant, size in itertools.product(options.variant, options.size):
        if options.against == "reference" and size != stand_in.VARIANTS[variant][2]:
            raise ValueError(
                f"--against must be none for other sizes than {variant}'s own, "
                f"{stand_in.VARIANTS[variant][2]}. Received: --size {size}"
            )
    if options.against == "none" and not (options.backends or options.exports):
        raise ValueError("--backends or --exports must name a contender, if --against is none")
    for path in filter(None, (options.json, options.plot)):
        if not path.absolute().parent.is_dir():
            raise ValueError(f"the folder of {str(path)!r} must exist")
    if options.plot and options.plot.suffix != ".png":
        raise ValueError(f"--plot must end in .png. Received: {str(options.plot)!r}")


def check_packages(options):
    """Refuses what needs a package that is not there."""
    needed = ["torch", "safetensors", *options.backends]  # PyTorch: the limit and the peer
    for export in options.exports:
        needed += [export.runtime, export.writer]
        if export.name == "openvino" and "int8" in options.precision:
            needed.append("onnxruntime")
    needed += ["matplotlib"] if options.plot else []
    for package in filter(None, needed):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"{package} is not installed")


def main():
    options = parse(len(os.sched_getaffinity(0)))
    choices = (options.variant, options.size, options.batch)
    first = tuple(values[0] for values in choices)
    wanted = itertools.product(*choices)
    if options.growth:
        wanted = (
            (*first[:i], value, *first[i + 1 :])
            for i, values in enumerate(choices)
            for value in values
        )
    print(
        f"{datetime.date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} "
        f"processors, Python {platform.python_version()}, OpenMP waits: {options.wait_policy}",
        flush=True,
    )
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in dict.fromkeys(wanted):
            try:
                found.append(cases.run(options, *case, Path(scratch)))
            except RuntimeError as error:
                sys.exit(f"network.py: error: {error}")
            print(*tables.table(found[-1]), sep="\n", flush=True)
    rows = list(itertools.chain.from_iterable(found))
    if options.growth:
        print("", *growth.report(rows, first), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.plot and options.growth:
        growth.plot(options.plot, rows, first)
    elif options.plot:
        tables.plot(options.plot, found)


if __name__ == "__main__":
    main()
