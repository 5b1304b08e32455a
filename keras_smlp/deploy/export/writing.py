"""What writes each format: which backend does, what it is given, and the process that runs it."""

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras

from keras_smlp import naming
from keras_smlp.deploy.export import class_maps
from keras_smlp.deploy.export.meaning import LOGITS, PIXELS, UNKNOWN, is_graph
from keras_smlp.deploy.precision import PRECISIONS
from keras_smlp.saving import PortableModel


@dataclass(frozen=True)
class Format:
    """How one format is written.

    Attributes:
        ending: What the path must end in; empty for a folder.
        backends: Those that write it; if another one is running, the first does.
        packages: What must be installed.
        extra: The extra of this package that installs them.
        precisions: What its weights can be stored in.
        reduces: Whether the format's own converter reduces the weights of a float32 network; else
            the network is first rebuilt in that precision.
    """

    ending: str
    backends: tuple[str, ...]
    packages: tuple[str, ...]
    extra: str
    precisions: tuple[str, ...] = PRECISIONS
    reduces: bool = False


# ONNX Runtime and LiteRT compute nothing in bfloat16
NO_BFLOAT16 = ("float32", "float16")
FORMATS = {
    "tf_saved_model": Format("", ("tensorflow", "jax"), ("tensorflow",), "tensorflow"),
    "onnx": Format(".onnx", ("torch",), ("torch", "onnxscript"), "onnx", NO_BFLOAT16),
    "openvino": Format(
        ".xml", ("torch",), ("torch", "onnxscript", "openvino"), "openvino", NO_BFLOAT16, True
    ),
    "litert": Format(
        ".tflite", ("tensorflow",), ("tensorflow",), "tensorflow", (*NO_BFLOAT16, "int8"), True
    ),
    "torch": Format(".pt2", ("torch",), ("torch",), "torch"),
    # a page around a LiteRT file
    "web": Format("", ("tensorflow",), ("tensorflow",), "tensorflow", (*NO_BFLOAT16, "int8"), True),
}


def endpoint(model, means, features, maps=False):
    """The model as it is exported: from `images` to a dict of float32 outputs, its answer first."""
    inner, more = model, {}
    if is_graph(model):
        # whatever the structure of its own input and output is
        if features:
            more["features"] = model.get_layer(naming.AVG_POOL).output
        if maps and class_maps.size(model):
            more["maps"] = class_maps.of(model)
        inner = keras.Model(model.inputs[0], [model.outputs[0], *more.values()], name="network")
    images = keras.Input(model.inputs[0].shape[1:], name="images", dtype="float32")
    found = keras.tree.flatten(inner(images))
    # layers, for under 16-bit policies they are not float32
    layer = keras.layers.Softmax if means.outputs == LOGITS else keras.layers.Identity
    outputs = {output_name(means): layer(name="answer", dtype="float32")(found[0])}
    for name, x in zip(more, found[1:], strict=True):
        outputs[name] = keras.layers.Identity(name=name, dtype="float32")(x)
    return PortableModel(images, outputs, name=model.name)


def output_name(means):
    """What the model's answer is called in an exported file."""
    return "outputs" if means.outputs == UNKNOWN else "probabilities"


def is_written_here(model, format):
    """Whether this process writes a format; PyTorch on a GPU does not: the file would need one."""
    backend = keras.backend.backend()
    if backend == "torch" and any(x.value.device.type != "cpu" for x in model.weights):
        return False
    return backend in FORMATS[format].backends


def write(model, path, format, means, features, precision, metadata):
    """Writes a format that the running backend writes."""
    if "tensorflow" in FORMATS[format].backends:
        from keras_smlp.deploy.export.tensorflow_formats import WRITERS
    else:
        from keras_smlp.deploy.export.torch_formats import WRITERS
    takes_pixels = means.inputs == PIXELS
    made = endpoint(model, means, features, maps=format == "web")
    WRITERS[format](made, path, precision, metadata, takes_pixels)


# what the other process runs; before this package is imported, it must be found there as here
PROGRAM = """
import json, sys
job = json.load(sys.stdin)
sys.path = job.pop("sys.path")
from keras_smlp.deploy.export import process
process.run(job)
"""


def modules(saved):
    """The modules that have registered with Keras what is in a saved model."""
    config = zipfile.ZipFile(saved).read("config.json").decode()
    objects = keras.saving.get_custom_objects()
    used = {x.__module__ for name, x in objects.items() if json.dumps(name) in config}
    return sorted(used - {"__main__"})


def write_in_subprocess(model, path, format, means, features, precision, metadata):
    """Writes a format in a process of its own, which runs the backend for it."""
    backend = FORMATS[format].backends[0]
    saved = path.with_name("saved.keras")
    model.save(saved)
    job = {"model": str(saved), "path": str(path), "format": format, "means": means}
    job["modules"] = modules(saved)
    job |= {"features": features, "precision": precision, "metadata": metadata}
    # its modules, this package first, are those of this process
    package = str(Path(__file__).resolve().parents[3])
    job["sys.path"] = [package, *(os.path.abspath(x) for x in sys.path if isinstance(x, str))]
    environment = os.environ | {"KERAS_BACKEND": backend, "KERAS_TORCH_DEVICE": "cpu"}
    environment["TF_CPP_MIN_LOG_LEVEL"] = "2"
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        input=json.dumps(job),
        env=environment,
        capture_output=True,
        text=True,
    )
    saved.unlink()
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"Exporting {format!r} on {backend} failed: {lines[-1]}")
