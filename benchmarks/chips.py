"""What the compilers for TPUs and GPUs say of the network, on a machine that has neither.

python -m benchmarks.chips --chip v5e --variant tiny --batch 128
python -m benchmarks.chips --chip v6e --mode inference --only "block 1"
python -m benchmarks.chips --chip v5e --chips 8 --only step

XLA compiles for chips that are not there. Each part of the network that differs from the others (a
block of each stage, the stem, the layers between stages, the head, erasing and mixing, the
optimizer) is compiled by itself, whose operations have the compiler's estimate of their cycles; a
step is the sum, each block as often as it occurs. Then the whole step is compiled as far as its
schedule, for the bytes that it moves, what it needs of the memory, and what the chips send each
other. For GPUs the compiler has no estimate of the time: kernels and bytes are counted.

**These are estimates by a compiler, not measurements.** An operation without an estimate is listed.

TPUs need `pip install "keras-smlp[jax,tpu]"`; GPUs need JAX' plugin for CUDA and its ptxas (see
docs/accelerators.md). No chip and no driver is needed.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from benchmarks import chip_parts, growth, hlo
from benchmarks.tables import head, line
from benchmarks.workers import SPAWN
from keras_smlp_cli.arguments import Parser, positive
from reference import stand_in

SHORT = 120  # characters of an error's text


@dataclass(frozen=True)
class Chip:
    """A chip, by its maker's data sheet.

    Attributes:
        topologies: Dict from a number of chips to XLA's name for so many.
        products: Its rate of products of 16 bits in multiply-adds per second.
        bandwidth: Bytes per second of its memory.
        memory: Bytes of its memory.
        clock: Cycles per second; `None` where the compiler estimates none.
    """

    topologies: dict
    products: float
    bandwidth: float
    memory: float
    clock: float | None

    @property
    def is_tpu(self):
        return self.clock is not None


CHIPS = {
    "v5e": Chip({1: "v5e:2x2", 8: "v5e:2x4", 256: "v5e:16x16"}, 197e12 / 2, 819e9, 16e9, 1.5e9),
    "v6e": Chip({1: "v6e:2x2", 8: "v6e:2x4", 256: "v6e:16x16"}, 918e12 / 2, 1640e9, 32e9, 1.75e9),
    "h100": Chip({1: "1x1x1", 8: "1x1x8"}, 989e12 / 2, 3352e9, 80e9, None),
}
TARGET = Path(__file__).with_name("h100.txtpb")


def parse():
    """The options, complete and possible."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--chip", choices=tuple(CHIPS), default="v5e")
    add("--variant", choices=("tiny", "small", "base"), default="tiny")
    add("--batch", type=positive, default=128, help="images a chip (default: 128)")
    add("--size", type=positive, default=224, help="side of the images (default: 224)")
    add("--chips", type=int, choices=(1, 8, 256), default=1)
    add("--mode", choices=("training", "inference"), default="training")
    precisions = ("float32", "mixed_bfloat16", "bfloat16")
    add("--precision", choices=precisions, default="mixed_bfloat16")
    add("--remat", action="store_true", help="as train.remat: block, in the whole step")
    add(
        "--batch-norm",
        choices=("global", "local"),
        default="global",
        help="of several chips, in the whole step",
    )
    add("--only", nargs="+", metavar="PART", help='such as "block 1", or step (default: all)')
    add("--depths", type=depths, metavar="D,D,D,D", help="blocks of each stage in the whole step")
    add("--keep", type=Path, metavar="FOLDER", help="keep the programs there")
    options = parser.parse_args()
    try:
        check(options)
    except ValueError as error:
        parser.error(error)
    return options


def depths(text):
    """The blocks of each stage from the command line."""
    return tuple(positive(x) for x in text.split(","))


def check(options):
    """Refuses what cannot be compiled, before anything is."""
    chip = CHIPS[options.chip]
    if options.chips not in chip.topologies:
        allowed = ", ".join(map(str, chip.topologies))
        raise ValueError(f"--chips must be one of {allowed} for {options.chip}")
    if options.size % 32:
        raise ValueError(f"--size must be a multiple of 32. Received: {options.size}")
    if options.remat and options.mode != "training":
        raise ValueError("--remat is for --mode training")
    if options.batch_norm == "local" and (options.mode != "training" or options.chips == 1):
        raise ValueError("--batch-norm local is for --mode training on several chips")
    own = stand_in.VARIANTS[options.variant][1]
    options.depths = options.depths or own
    if len(options.depths) != len(own):
        raise ValueError(f"--depths must be {len(own)} numbers. Received: {options.depths}")
    known = ["step", *chip_parts.parts(options.mode)]
    options.only = options.only or known
    for part in options.only:
        if part not in known:
            raise ValueError(f"--only must be of {', '.join(known)}. Received: {part!r}")
    if options.keep and not options.keep.is_dir():
        raise ValueError(f"--keep must be a folder. Received: {str(options.keep)!r}")
    package = "libtpu" if chip.is_tpu else "jax_cuda13_plugin"
    for name in ("jax", package):
        if importlib.util.find_spec(name) is None:
            extra = "keras-smlp[jax,tpu]" if chip.is_tpu else "jax[cuda13]"
            raise ValueError(f'{name} is not installed: pip install "{extra}"')


# ---- compiling ----------------------------------------------------------------------------------
def environment(dump):
    """Of a process that compiles: no device is looked for; for a schedule, where it is written."""
    own = {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_command_buffer=",
    }
    if dump:
        flags = "--xla_jf_dump_hlo_text=true --xla_jf_dump_llo_text=false"
        own["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={dump} {flags}"
    return {**os.environ, **own}


def compile(job, schedule=False):
    """The `hlo.Program` of a job, compiled in a process of its own.

    Args:
        job: A `chip_parts.Job`.
        schedule: Boolean. Whether to stop once the operations are scheduled, before the code of
            each is generated, which takes most of the time. Defaults to `False`.

    Returns:
        The program, and the seconds that it took.
    """
    begin = time.monotonic()
    job.path.unlink(missing_ok=True)  # of an earlier run
    with tempfile.TemporaryDirectory() as scratch:
        dump = Path(scratch) if schedule else None
        process = SPAWN.Process(target=chip_parts.main, args=(job,))
        with mock.patch.dict(os.environ, environment(dump), clear=True):
            process.start()
        try:
            while process.is_alive() and not (schedule and scheduled(dump)):
                process.join(1)
        finally:
            process.kill()
            process.join()
        if schedule and (file := scheduled(dump)):
            shutil.copy(file, job.path)
    if not job.path.exists():
        raise RuntimeError(f"{job.part}: the compiler ended with the status {process.exitcode}")
    return hlo.Program.read(job.path), time.monotonic() - begin


def scheduled(folder):
    """The file with the scheduled program, once it is whole; else `None`."""
    for file in folder.glob("*TLP-hlo.txt"):
        if file.read_bytes().rstrip().endswith(b"}"):
            return file
    return None


# ---- what is said -------------------------------------------------------------------------------
def report_parts(options, found):
    """Lines of Markdown on the parts, and the time of a step as their sum.

    Args:
        options: Those of the command line.
        found: Dict from a part to its `hlo.Costs` and the seconds of compiling.
    """
    chip, total, moved = CHIPS[options.chip], 0.0, 0
    yield head("part", "times", "ms", "GB", "operations", "without an estimate", "compiled in, s")
    for part, (costs, seconds) in found.items():
        stage = chip_parts.parts(options.mode)[part]
        times = options.depths[stage - 1] if stage else 1
        milliseconds = 1e3 * costs.cycles / chip.clock if chip.clock else 0.0
        size = sum(costs.bytes.values())
        total, moved = total + times * milliseconds, moved + times * size
        unknown = ", ".join(f"{n:g} {kind}" for kind, n in sorted(costs.unknown.items()))
        shown = f"{milliseconds:.2f}" if chip.clock else ""
        cells = (part, times, shown, f"{size / 1e9:.2f}", f"{costs.operations:g}", unknown)
        yield line(*map(str, cells), f"{seconds:.0f}")
    if chip.clock and set(found) == set(chip_parts.parts(options.mode)):
        yield ""
        yield (
            f"A step: {total:.1f} ms, {1e3 * options.batch / total:.0f} images/s a chip, "
            f"{moved / 1e9:.1f} GB"
        )
    seldom = {part: 1e3 * x.seldom / chip.clock for part, (x, _) in found.items() if x.seldom}
    for part, milliseconds in seldom.items():
        yield f"{part}: {milliseconds:.2f} ms more where batch normalization needs a second pass"


def report_step(options, program, costs, seconds):
    """Lines of text on the whole step."""
    chip = CHIPS[options.chip]
    passes = 3 if options.mode == "training" else 1
    products = passes * growth.macs(options.variant, options.size, options.depths) * options.batch
    size, (arguments, alive) = sum(costs.bytes.values()), hlo.memory(program)
    yield (
        f"The whole step with {options.depths} blocks: {costs.operations:g} operations, "
        f"{size / 1e9:.1f} GB ({seconds:.0f} s)"
    )
    for cause, part in sorted(costs.bytes.items(), key=lambda x: -x[1]):
        yield f"- {cause}: {part / 1e9:.2f} GB"
    floors = products / chip.products, size / chip.bandwidth
    yield "- at least {:.1f} ms by its products, {:.1f} ms by its bytes".format(
        *(1e3 * x for x in floors)
    )
    needed = arguments + alive
    fits = "fits" if needed <= chip.memory else "does not fit"
    yield (
        f"- memory: {needed / 1e9:.1f} GB ({arguments / 1e9:.1f} of arguments), {fits} "
        f"{chip.memory / 1e9:.0f} GB"
    )
    if needed > chip.memory:
        most = int((chip.memory - arguments) / (alive / options.batch))
        yield f"  {(needed - chip.memory) / 1e9:.1f} GB too much; about {most} images a chip fit"
    for kind in dict.fromkeys(x[0] for x in costs.collectives):
        own = [x for x in costs.collectives if x[0] == kind]
        by_dtype: dict[str, float] = {}
        for _, found, _, runs in own:
            for x in found:
                by_dtype[x.dtype] = by_dtype.get(x.dtype, 0) + runs * x.bytes
        said = ", ".join(f"{b / 1e6:.2f} MB of {dtype}" for dtype, b in by_dtype.items())
        yield f"- {kind}: {sum(x[3] for x in own):g}, {said}"
    for origin, part in sorted(costs.float32.items(), key=lambda x: -x[1])[:10]:
        yield f"- in float32: {part / 1e9:.2f} GB of {origin[-SHORT:] or 'no name'}"


def main():
    options = parse()
    chip = CHIPS[options.chip]
    print(
        f"{options.variant}, {options.mode}, {options.precision}, {options.size} px, "
        f"{options.batch} images a chip, {options.chips} x {options.chip}: a compiler's estimates, "
        "not measurements\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)

        def job(part, chips):
            name = f"{options.variant}-{options.chip}-{options.mode}-{part.replace(' ', '')}.txt"
            return chip_parts.Job(
                part=part,
                platform="tpu" if chip.is_tpu else "cuda",
                topology=chip.topologies[chips],
                target=None if chip.is_tpu else TARGET,
                chips=chips,
                variant=options.variant,
                depths=options.depths if part in ("step", "optimizer") else (1, 1, 1, 1),
                size=options.size,
                batch=options.batch,
                mode=options.mode,
                precision=options.precision,
                remat=options.remat,
                local=options.batch_norm == "local",
                path=folder / name,
            )

        found = {}
        try:
            for part in options.only:
                if part == "step":
                    continue
                program, seconds = compile(job(part, 1))
                found[part] = hlo.costs(program), seconds
                print(f"{part}: {seconds:.0f} s", file=sys.stderr, flush=True)
            if found:
                print(*report_parts(options, found), "", sep="\n", flush=True)
            if "step" in options.only:
                program, seconds = compile(job("step", options.chips), schedule=chip.is_tpu)
                lines = report_step(options, program, hlo.costs(program), seconds)
                print(*lines, sep="\n", flush=True)
        except RuntimeError as error:
            sys.exit(f"chips.py: error: {error}")


if __name__ == "__main__":
    main()
