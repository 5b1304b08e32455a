"""The contenders of a case (a variant, size and batch), their turns, and the rows of it."""

import contextlib
import functools
import itertools
import math
import os
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import growth
from benchmarks.contenders import Job
from benchmarks.workers import Worker


@dataclass(frozen=True)
class Export:
    """Exported models of a format, or one that somebody has exported.

    Attributes:
        name: The format, or the file's name.
        runtime: The package that runs it.
        endings: Precision that the runtime offers -> what the file's name ends in.
        writer: The package that exporting it needs.
        file: Path of the one that is there already.
    """

    name: str
    runtime: str
    endings: dict[str, str]
    writer: str | None = None
    file: Path | None = None


BACKENDS = ("tensorflow", "jax", "torch")
PRECISIONS = ("float32", "mixed_bfloat16", "bfloat16", "int8")
PEER_MODES = ("eager", "channels_last", "compile")
ONNX = {"float32": ".onnx", "int8": ".int8.onnx"}
OPENVINO = {"float32": ".xml", "mixed_bfloat16": ".xml", "int8": ".int8.onnx"}
LITERT = {"float32": ".tflite", "int8": ".int8.tflite"}
EXPORTS = {
    "onnx": Export("onnx", "onnxruntime", ONNX, "onnxscript"),
    "openvino": Export("openvino", "openvino", OPENVINO, "onnxscript"),
    "litert": Export("litert", "ai_edge_litert", LITERT, "tensorflow"),
}
RUNTIMES = {export.endings["float32"]: export.runtime for export in EXPORTS.values()}
PASSES = {"inference": 1, "training": 3}  # forward; and backward, for inputs and for weights
SAME_LOSS = {"float32": 1e-3, "mixed_bfloat16": 0.05, "bfloat16": 0.05}


def parse_export(text, precisions):
    """What an argument of `--exports` names; refuses what is no format, and no PRECISION:FILE."""
    if text in EXPORTS:
        allowed = EXPORTS[text].endings
        if allowed.keys().isdisjoint(precisions):
            raise ValueError(f"--exports {text} needs --precision {' or '.join(allowed)}")
        return EXPORTS[text]
    precision, _, file = text.partition(":")
    path = Path(file)
    if precision not in precisions or not path.is_file():
        raise ValueError(
            f"--exports must be {', '.join(EXPORTS)} or PRECISION:FILE, of a precision among those "
            f"of --precision and a file that exists. Received: {text!r}"
        )
    if path.suffix not in RUNTIMES:
        raise ValueError(f"--exports must end in {', '.join(RUNTIMES)}. Received: {text!r}")
    return Export(path.name, RUNTIMES[path.suffix], {precision: path.suffix}, file=path)


def jobs(options, variant, size, batch, scratch):
    """What each contender is to do, the limits first."""
    job = functools.partial(
        Job,
        variant=variant,
        size=size,
        batch=batch,
        mode=options.mode,
        threads=options.threads,
        processors=sorted(os.sched_getaffinity(0))[: options.threads],
        weights=scratch / f"{variant}.safetensors",
    )
    for precision in dict.fromkeys(map(limit_precision, options.precision)):
        yield job("limit", "limit", "torch", precision)
    if options.against == "reference":
        wanted = dict.fromkeys(map(peer_precision, options.precision))
        for precision, form in itertools.product(wanted, options.peer_modes):
            name, fused = f"official, {form}", options.peer_optimizer == "fused" or None
            yield job("peer", name, "torch", precision, form=form, fused=fused)
    for precision, form in itertools.product(options.precision, options.forms):
        name = "keras_smlp" if form == "plain" else f"keras_smlp, {form}"
        for backend in options.backends:
            yield job("ours", name, backend, precision, form=form)
    for export, precision in itertools.product(options.exports, options.precision):
        if precision in export.endings:
            name, is_own = f"exported, {export.name}", export.file is None
            file = export.file or scratch / f"{variant}_{size}{export.endings[precision]}"
            yield job("export", name, export.runtime, precision, file=file, is_own=is_own)


def limit_precision(precision):
    """The dtype of the matrix product that is the limit of a precision."""
    return "bfloat16" if "bfloat16" in precision else "float32"


def peer_precision(precision):
    """The precision of the peer that a precision is compared with."""
    return "float32" if precision == "int8" else precision


def run(options, variant, size, batch, scratch):
    """The rows of one case."""
    todo, workers = list(jobs(options, variant, size, batch, scratch)), []
    write_files(todo, options, scratch)
    with contextlib.ExitStack() as stack:
        for job in todo:
            worker = Worker(job, options, scratch)
            stack.callback(worker.close)
            worker.warm()
            workers.append(worker)
            say(f"{worker.job}: ready, {worker.about['compile_seconds']:.1f} s of compiling")
        check_losses(workers)
        for i in range(options.rounds):
            for worker in workers:
                worker.turn(options.seconds)
            say(f"round {i + 1} of {options.rounds}")
    return rows(workers)


def write_files(jobs, options, scratch):
    """Writes the weights and the exported models, in a process that is gone afterwards."""
    files = tuple(job.file for job in jobs if job.file and job.is_own)
    own = {"kind": "files", "contender": "the weights and exported models", "form": "folded"}
    job = replace(jobs[0], precision="float32", files=files, **own)
    with contextlib.closing(Worker(job, options, scratch)) as worker:
        worker.warm()


def say(line):
    """Tells how far it is, beside the tables."""
    print(line, file=sys.stderr, flush=True)


def check_losses(workers):
    """All must have the same loss at their first training step."""
    trained = [worker for worker in workers if "first_loss" in worker.about]
    for worker in trained:
        loss, expected = (x.about["first_loss"] for x in (worker, trained[0]))
        if not abs(loss - expected) <= SAME_LOSS[worker.job.precision] * abs(expected):
            raise RuntimeError(
                f"{worker.job} starts with the loss {loss}, {trained[0].job} with {expected}"
            )


def rows(workers):
    """One for each contender but the limits, whose rates stand in the others'."""
    limits, peers, found = {}, {}, []
    for worker in workers:
        kind, precision, least = worker.job.kind, worker.job.precision, min(worker.times)
        if kind == "limit":
            limits[precision] = worker.about["operations"] / least
        if kind == "peer":
            peers[precision] = min(least, peers.get(precision, math.inf))
    for worker in workers:
        job, seconds = worker.job, min(worker.times)
        if job.kind == "limit":
            continue
        limit = limit_precision(job.precision)
        macs = job.batch * PASSES[job.mode] * growth.macs(job.variant, job.size)
        peer, float32 = (peers.get(x) for x in (peer_precision(job.precision), "float32"))
        about = ("contender", "backend", "variant", "mode", "batch", "precision", "size", "threads")
        found.append(
            {
                **{key: getattr(job, key) for key in about},
                "ms_per_image": 1000 * seconds / job.batch,
                "median_ms_per_image": 1000 * statistics.median(worker.times) / job.batch,
                "images_per_second": job.batch / seconds,
                "ratio_to_peer": peer and seconds / peer,
                "ratio_to_float32_peer": float32 and seconds / float32,
                "ratio_to_limit": seconds * limits[limit] / (2 * macs),
                "limit": f"{limit} product {limits[limit] / 1e9:.0f} GFLOP/s",
                "calls": len(worker.times),
                "idle": worker.idle,
                **worker.costs,
                **worker.about,
            }
        )
    return found
