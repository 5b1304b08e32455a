"""The contenders of a case (a variant, size and batch), their turns, and the rows of it."""

import contextlib
import itertools
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import growth
from benchmarks.workers import Worker, write_files


@dataclass(frozen=True)
class Export:
    """A format: what its files end in, and what precisions its runtime offers."""

    ending: str
    precisions: tuple[str, ...]


BACKENDS = ("tensorflow", "jax", "torch")
PRECISIONS = ("float32", "mixed_bfloat16", "bfloat16", "int8")
PEER_MODES = ("eager", "channels_last", "compile")
EXPORTS = {
    "onnx": Export(".onnx", ("float32", "int8")),
    "openvino": Export(".xml", ("float32", "mixed_bfloat16", "int8")),
    "litert": Export(".tflite", ("float32", "int8")),
}
RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino", ".tflite": "ai_edge_litert"}
PASSES = {"inference": 1, "training": 3}  # forward; and backward, for inputs and for weights
SAME_LOSS = {"float32": 1e-3, "mixed_bfloat16": 0.05, "bfloat16": 0.05}


def jobs(options, variant, size, batch, scratch):
    """What each contender is to do, the limits first."""
    common = {
        "variant": variant,
        "size": size,
        "batch": batch,
        "mode": options.mode,
        "threads": options.threads,
        "processors": sorted(os.sched_getaffinity(0))[: options.threads],
        "weights": str(scratch / f"{variant}.safetensors"),
    }

    def job(kind, contender, backend, precision, **fields):
        own = {"kind": kind, "contender": contender, "backend": backend, "precision": precision}
        return {**common, **own, **fields}

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
    for export in options.exports:
        if export not in EXPORTS:
            precision, _, file = export.partition(":")
            runtime = RUNTIMES[Path(file).suffix]
            name = f"exported, {Path(file).name}"
            yield job("export", name, runtime, precision, file=file, own=False)
            continue
        for precision in options.precision:
            if precision in EXPORTS[export].precisions:
                ending = EXPORTS[export].ending
                if precision == "int8":  # OpenVINO reads ONNX's
                    ending = ".int8" + (".onnx" if export == "openvino" else ending)
                file = str(scratch / f"{variant}_{size}{ending}")
                runtime = RUNTIMES[EXPORTS[export].ending]
                name = f"exported, {export}"
                yield job("export", name, runtime, precision, file=file, own=True)


def limit_precision(precision):
    """Of the matrix product that limits one."""
    return "bfloat16" if "bfloat16" in precision else "float32"


def peer_precision(precision):
    """Of the peer that one is compared with."""
    return "float32" if precision == "int8" else precision


def run(options, variant, size, batch, scratch):
    """The rows of one case."""
    todo = list(jobs(options, variant, size, batch, scratch))
    write_files(todo, options, scratch)
    workers = []
    with contextlib.ExitStack() as stack:
        for job in todo:
            worker = Worker(job, options, scratch)
            stack.callback(worker.close)
            workers.append(worker)
            say(f"{worker.name}: ready, {worker.about['compile_seconds']:.1f} s of compiling")
        check_losses(workers)
        for i in range(options.rounds):
            for worker in workers:
                worker.turn(options.seconds)
            say(f"round {i + 1} of {options.rounds}")
    return rows(workers)


def say(line):
    """Tells how far it is, beside the tables."""
    print(line, file=sys.stderr, flush=True)


def check_losses(workers):
    """All must have the same loss at their first training step."""
    trained = [worker for worker in workers if "first_loss" in worker.about]
    for worker in trained:
        loss, expected = (x.about["first_loss"] for x in (worker, trained[0]))
        if not abs(loss - expected) <= SAME_LOSS[worker.job["precision"]] * abs(expected):
            raise RuntimeError(
                f"{worker.name} starts with the loss {loss}, {trained[0].name} with {expected}"
            )


def rows(workers):
    """One for each contender but the limits, whose rates stand in the others'."""
    limits = {x.job["precision"]: x for x in workers if x.job["kind"] == "limit"}
    peers = {}
    for worker in workers:
        if worker.job["kind"] == "peer":
            peers.setdefault(worker.job["precision"], []).append(min(worker.times))
    found = []
    for worker in workers:
        job = worker.job
        if job["kind"] == "limit":
            continue
        seconds, limit = min(worker.times), limits[limit_precision(job["precision"])]
        rate = limit.about["operations"] / min(limit.times)
        macs = job["batch"] * PASSES[job["mode"]] * growth.macs(job["variant"], job["size"])
        peer, float32 = (peers.get(x) for x in (peer_precision(job["precision"]), "float32"))
        found.append(
            {
                "contender": job["contender"],
                "backend": job["backend"],
                "variant": job["variant"],
                "mode": job["mode"],
                "batch": job["batch"],
                "precision": job["precision"],
                "ms_per_image": 1000 * seconds / job["batch"],
                "ratio_to_peer": peer and seconds / min(peer),
                "ratio_to_limit": seconds * rate / (2 * macs),
                "ratio_to_float32_peer": float32 and seconds / min(float32),
                "median_ms_per_image": 1000 * statistics.median(worker.times) / job["batch"],
                "images_per_second": job["batch"] / seconds,
                "limit": f"{limit.job['precision']} product {rate / 1e9:.0f} GFLOP/s",
                "size": job["size"],
                "threads": job["threads"],
                "calls": len(worker.times),
                "idle": worker.idle,
                **worker.last,
                **worker.about,
            }
        )
    return found
