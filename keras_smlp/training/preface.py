"""What a run says before its first step: what it is about to do."""

import importlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_smlp.checks import shown
from keras_smlp.data.splits import Arrays, Files, Source

NAMED = 3  # classes in a line
UNEVEN = 10  # images of the largest class for one of the smallest, from which on it is said
COMPILES = "The first step compiles: until it is done, which may take minutes, nothing is said."


def lines(
    config: Any,
    source: Source,
    steps: int,
    place: tuple[int, int],
    parameters: tuple[int, int],
    runs_on: str,
    compiles: bool,
) -> list[str]:
    """The beginning of a run, in words.

    Args:
        config: A `config.Config`.
        source: The data set.
        steps: Positive integer. Steps of an epoch.
        place: Pair of integers. The epochs that are done, and the steps of the next one.
        parameters: Pair of integers. Parameters of the network that are trained, and all.
        runs_on: String. Backend and devices, see `hardware`.
        compiles: Boolean. Whether the first step compiles.

    Returns:
        A list of strings, a line each.
    """
    left = steps * (config.train.epochs - place[0]) - place[1]
    found = about_data(config, source)
    found += about_network(config, parameters, runs_on)
    found += about_steps(config, len(source.train), steps)
    found.append(row("output", shown(config.output_dir, None)))
    if place != (0, 0):
        found.append(row("goes on", f"after {in_epochs(*place)}; {left:,} steps are left"))
    return found + [COMPILES] * (compiles and left > 0)


def about_data(config, source):
    """Lines on the images of each split, and on what is odd about them."""
    data, classes = config.data, source.class_names
    name = data.name if data.dir is None else f"{data.name}, {shown(data.dir, None)}"
    notes = [f"data.dir: {note}" for note in source.notes]
    counts = class_counts(source.train, len(classes))
    if counts is not None and data.balance == "none" and not source.several:
        cures = "sampling" if config.train.loss == "sigmoid" else "sampling or weights"
        most, least = counts.max(), max(counts.min(), 1)
        if most >= UNEVEN * least:
            notes.append(
                f"data.balance: none, with {most // least} times as many images of the largest "
                f"class as of the smallest ({cures} can make up for it)"
            )
    return [
        row("data", f"{name}: {len(classes):,} classes"),
        row("training", in_classes(source.train, classes)),
        row("validation", in_classes(source.validation, classes)),
        *notes,
    ]


def about_network(config, parameters, runs_on):
    """Lines on what is trained, and on what."""
    model, (trained, every) = config.model, parameters
    architecture = model.architecture()
    depths = ", ".join(map(str, architecture["depths"]))
    variant = f"{model.variant}, " if model.variant else ""
    origin = f"random initial values, seed {config.train.seed}"
    return [
        row(
            "network",
            f"{variant}dim {architecture['dim']}, depths {depths}, images of {model.input_size} x "
            f"{model.input_size}; {every:,} parameters, {trained:,} of them trained",
        ),
        row("weights", origin if model.weights is None else shown(model.weights, None)),
        row("runs on", f"{runs_on}, {config.train.precision}"),
    ]


def about_steps(config, images, steps):
    """A line on the length of the run."""
    train, over = config.train, images - steps * config.train.batch_size
    shows_each_once = config.data.repeats == 1 and config.data.balance != "sampling"
    unused = f"; {over:,} images are left over in each epoch" * (over > 0 and shows_each_once)
    return [
        row(
            "steps",
            f"{steps * train.epochs:,} in {train.epochs:,} epochs, {steps:,} of "
            f"{train.batch_size:,} images in each{unused}",
        )
    ]


def row(name, text):
    """A line with its name in a column of its own."""
    return f"{name:<12}{text}"


def in_epochs(epoch, step):
    """A place in a run, in words."""
    return f"epoch {epoch}" if step == 0 else f"step {step:,} of epoch {epoch + 1}"


# ---- classes ------------------------------------------------------------------------------------
def class_counts(split: Arrays | Files, classes: int) -> np.ndarray | None:
    """How many images each class has; `None` if the labels are read with the images alone."""
    if split.labels is None or np.ndim(split.labels) == 2:  # several labels an image
        return None if split.labels is None else np.sum(split.labels, axis=0, dtype="int64")
    return np.bincount(split.labels, minlength=classes)


def in_classes(split, names):
    """The images of a split; how many the smallest and the largest class have, by name."""
    text, counts = f"{len(split):,} images", class_counts(split, len(names))
    if counts is None:
        return f"{text}; how many of a class is known only when they are read"
    least, most = counts.min(), counts.max()
    if least == most:
        return f"{text}, {least:,} of each class"
    ends = (f"{count:,} ({named(names, counts == count)})" for count in (least, most))
    return f"{text}, {' to '.join(ends)} of a class"


def named(names: Sequence[str], chosen: np.ndarray) -> str:
    """The first few of some classes."""
    found = [shown(names[i]) for i in np.flatnonzero(chosen)]
    more = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    return ", ".join(found[:NAMED] + more)


# ---- backend and devices ------------------------------------------------------------------------
def hardware(engine: Any, network: keras.Model) -> str:
    """The backend with its version, Keras', and the devices: what distributes, and their kind."""
    backend = keras.backend.backend()
    version = importlib.import_module(backend).__version__
    number = f"{engine.devices} x " * (engine.devices > 1)
    return (
        f"{backend} {version}, Keras {keras.__version__}, {engine.name} "
        f"({number}{device_kind(network.weights[0].value)})"
    )


def device_kind(value: Any) -> str:
    """What the device of a tensor is called: `"NVIDIA H100 80GB HBM3"`, `"TPU v4"`, `"CPU"`."""
    backend = keras.backend.backend()
    if backend == "jax":
        kind = next(iter(value.devices())).device_kind
    elif backend == "torch":
        import torch

        is_cuda = value.device.type == "cuda"
        kind = torch.cuda.get_device_name(value.device) if is_cuda else value.device.type
    else:
        import tensorflow as tf

        gpus, kind = tf.config.list_physical_devices("GPU"), "CPU"
        if tf.config.list_physical_devices("TPU"):
            kind = "TPU"
        elif gpus:
            kind = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return kind.upper() if kind in ("cpu", "mps") else kind


def compiles(model: keras.Model) -> bool:
    """Whether the first step of a compiled model is far slower than the others."""
    return keras.backend.backend() != "torch" or model.jit_compile
