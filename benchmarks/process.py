"""What runs in the process of one contender of benchmarks/network.py."""

import os
import resource
import time
from pathlib import Path

import numpy as np

from benchmarks import contenders
from benchmarks.contenders import fastest, timed
from reference import stand_in

# what a contender's logits may differ by in float32; accelerators round the factors of products
DIFFERENCES = {"cpu": 1e-4, "other": 2e-2}
ROUNDED = 0.2  # and in 16 or 8 bits, where the same weights must still be recognizable
KINDS = {
    "ours": contenders.ours,
    "peer": contenders.peer,
    "export": contenders.exported,
    "limit": contenders.limit,
}


def check(job, result, device):
    """What the first call's result says: the difference to the golden logits, or the loss."""
    if job.kind != "limit" and job.mode == "training":
        return {"first_loss": result}
    if job.kind == "limit" or not contenders.has_golden(job):
        return {}
    if job.kind == "export":
        result = np.log(np.maximum(np.asarray(result, np.float64), 1e-30))
    difference = contenders.relative_to_golden(job, result)
    allowed = ROUNDED
    if job.precision == "float32":
        allowed = DIFFERENCES["cpu" if device == "cpu" else "other"]
    if job.is_own and not difference <= allowed:
        raise ValueError(f"the logits must be the golden ones, but differ by {difference}")
    return {"difference": difference}


def write_files(job):
    """Writes the stand-in weights, and the exported models that are asked for."""
    if not job.weights.exists():
        from safetensors.numpy import save_file

        save_file(stand_in.state_dict(job.variant), job.weights)
    for file in job.files:
        export(job, file)


def export(job, path):
    """Writes an exported model if it is not there; ONNX's 8 bits are made of the plain file."""
    import keras_smlp

    if path.exists():
        return
    if path.name.endswith(".int8.onnx"):
        from onnxruntime.quantization import quantize_dynamic

        plain = path.with_name(path.name.replace(".int8", ""))
        export(job, plain)
        quantize_dynamic(plain, path)
    else:
        format = {".onnx": "onnx", ".xml": "openvino", ".tflite": "litert"}[path.suffix]
        precision = "int8" if ".int8" in path.suffixes else "float32"
        keras_smlp.export(contenders.keras_model(job), path, format, precision=precision)


def resident():
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def turn(call, seconds):
    """The times of calls for that long, one at least; one before them is not counted."""
    call()
    times = []
    while not times or sum(times) < seconds:
        times.append(timed(call)[0])
    return times


def main(job, connection):
    """Serves a contender: gets it warm and says so, then has a turn whenever it is sent one.

    Args:
        job: A `contenders.Job`.
        connection: To the parent, which sends the seconds of each turn and gets its times; in
            between the process waits, and says how much processor time the waiting took.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what libraries print
        os.dup2(nowhere, stream)
    os.sched_setaffinity(0, job.processors)
    try:
        if job.kind == "files":
            write_files(job)
            connection.send({})
        else:
            serve(job, connection)
    except EOFError:  # no more turns
        pass
    except Exception as error:
        connection.send({"error": " ".join(f"{type(error).__name__}: {error}".split())})


def serve(job, connection):
    """The life of a contender; ends by the EOFError of a connection that the parent has closed."""
    contender = KINDS[job.kind](job)
    before = resident()

    def first_call():
        call = contender.start()
        return call, call()

    seconds, (call, result) = timed(first_call)
    about = {
        "setting": contender.setting,
        "version": contender.version,
        "device": contender.device,
        "operations": contender.operations,
        **check(job, result, contender.device),
        "compile_seconds": max(seconds - fastest(call), 0.0),
    }
    connection.send(about)
    while True:
        waited, used = time.perf_counter(), time.process_time()
        seconds = connection.recv()
        waited, used = time.perf_counter() - waited, time.process_time() - used
        times = turn(call, seconds)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        costs = {
            "memory_mb": peak / 1e6,
            "calls_memory_mb": (peak - before) / 1e6,
            "device_memory_mb": contender.device_memory and contender.device_memory() / 1e6,
        }
        connection.send({"times": times, "waited": waited, "used": used, "costs": costs})
