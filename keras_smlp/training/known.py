"""What weights know: architecture and size, for the configuration, and classes, for evaluations."""

import contextlib
import dataclasses
import functools
import os
import sys
from pathlib import Path

import numpy as np

from keras_smlp.checks import shown
from keras_smlp.data.splits import Arrays
from keras_smlp.inference.classes import CLASSES, beside, imagenet_classes, read_names
from keras_smlp.weights import hub, identify, loading

NULL = (None, "null", "~")  # on the command line and in YAML
NETWORK = ("variant", "dim", "depths", "expansion", "patch_size", "input_size")
SIZE, RESIZED = "model.input_size", "data.resize_size"
LOSSES = ("softmax", "sigmoid")  # and the activations that they end in


def is_file(weights):
    """Whether it is the path of a weights file, or the address of one on the Hugging Face hub."""
    if hub.is_address(weights):
        return True
    return (
        isinstance(weights, str) and weights.endswith(loading.ENDINGS) and Path(weights).is_file()
    )


def inferred(path):
    """The `identify.Architecture` of a weights file, which is opened once while it stays as it is.

    Errors are those of `identify.infer`.
    """
    found = os.stat(path)
    return of_file(str(path), found.st_ino, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def of_file(path, *_):
    """`identify.infer`; what follows the path tells one file from another."""
    return identify.infer(path)


def pinned(values):
    """The values of a configuration, `model.weights` with the commit if it is on the hub."""
    weights = values.get("model.weights")
    if not hub.is_address(weights):
        return values
    with contextlib.redirect_stdout(sys.stderr):  # the configuration may be printed
        return values | {"model.weights": loading.pinned(weights, "model.weights")}


def completed(values, presets=frozenset(), evaluates=False):
    """The values of a configuration and what it leaves to the file of its weights.

    Args:
        values: Dict of the values that the configuration says, by their whole keys.
        presets: Set of the keys whose values are those of a configuration of this package. Where
            they say the network, they give way to the file; `data.resize_size` with them, if the
            images then have another size. Defaults to none.
        evaluates: Boolean. Whether the network's own answers are evaluated: then `train.loss` is
            the file's too. Defaults to `False`.

    Returns:
        A dict of values by their keys.

    Raises:
        ValueError: If the file must be read and cannot be, or if it has another `train.loss`.
    """
    path = values.get("model.weights")
    if not is_file(path):
        return dict(values)
    given = presets & {f"model.{name}" for name in NETWORK}
    said = {key: value for key, value in values.items() if key not in given}
    taken = architecture(said)
    if SIZE in given and SIZE not in taken:  # its images are not square
        taken[SIZE] = values[SIZE]
    elif SIZE in given and taken[SIZE] != values[SIZE] and RESIZED in presets:
        del said[RESIZED]
    return said | taken | (loss(said, path) if evaluates else {})


def loss(values, path):
    """The `train.loss` of the model in a file, in a dict, where it is known and not said."""
    answers = None
    with contextlib.suppress(ValueError, OSError):  # it will be read, and refused, once more
        answers = identify.ends(loading.local(path)).activation
    said = values.get("train.loss")
    if answers not in LOSSES or said == answers:
        return {}
    if said is not None:
        raise ValueError(
            f"train.loss: {shown(said)} with --eval, allowed: {answers}, as in {shown(path)}"
        )
    return {"train.loss": answers}


def architecture(values):
    """The keys of the network that a configuration leaves to the file of its weights.

    Args:
        values: Dict of the values that the configuration says, by their whole keys.

    Returns:
        Dict of further values: `model.variant`, or else those of the architecture, and
        `model.input_size`; `data.channels` where they are not RGB. None that is said already.

    Raises:
        ValueError: If the file must be read and cannot be.
    """

    def said(*names, section="model"):
        return any(values.get(f"{section}.{name}") not in NULL for name in names)

    weights = values.get("model.weights")
    complete = said("variant") or (said("dim") and said("depths"))
    asked = ("input_size",) if said("variant") else ("expansion", "patch_size", "input_size")
    of_images = said("channels", section="data")
    if not is_file(weights) or (complete and all(map(said, asked)) and of_images):
        return {}
    try:
        file = loading.local(weights)
        found = inferred(file)
        height, width, channels = images_of(found, identify.ends(file))
    except (ValueError, OSError) as error:
        if complete:  # it will be read, and refused, once more
            return {}
        raise ValueError(f"model.weights: {error}") from error
    known: dict = {"depths": list(found.depths)}
    known |= {name: getattr(found, name) for name in ("dim", "expansion", "patch_size")}
    if said("variant"):
        known = {}
    elif found.variant() and not said("dim", "depths"):
        known = {"variant": found.variant()}
    if height == width:
        known["input_size"] = height
    taken = {f"model.{name}": value for name, value in known.items() if not said(name)}
    return taken | ({} if of_images or channels == 3 else {"data.channels": channels})


def images_of(found, ends):
    """`(height, width, channels)` of the images of an `Architecture` and `identify.Ends`.

    A model in a `.keras` file may make RGB of gray images before its stem.
    """
    *size, channels = found.input_shape
    return *size, ends.channels or channels


def in_words(path):
    """One line on a weights file: `smlp_s.pth is small (dim 96, ..., 224 px, 1000 classes)`."""
    file = loading.local(path)
    found, ends = inferred(file), identify.ends(file)
    height, width, channels = images_of(found, ends)
    size = f"{height}" if height == width else f"{height} x {width}"
    depths = ", ".join(map(str, found.depths))
    head = f"{found.classes} classes" if found.classes else "no head"
    head += ", sigmoid" if ends.activation == "sigmoid" else ""
    other = {1: ", gray", 3: ""}.get(channels, f", {channels} channels")
    name = found.variant() or "an sMLPNet"
    return f"{shown(path)} is {name} (dim {found.dim}, depths {depths}, {size} px{other}, {head})"


# ---- classes ------------------------------------------------------------------------------------
def with_classes(source, weights):
    """A data set with the classes of weights, where these are its own and perhaps more.

    So a network is evaluated on images of some of its classes, or in another order of them. The
    classes of a `.keras` file are those of the `classes.json` beside it; 1000 classes that no file
    names are ImageNet's, by WordNet's numbers.

    Args:
        source: A `splits.Source`.
        weights: `"imagenet"` or the path of a file.

    Returns:
        A `splits.Source`, and a sentence on what was done, `""` for nothing.
    """
    names, origin = class_names(weights)
    own = source.class_names
    others = [name for name in own if name not in set(names)]
    if others and origin == CLASSES and len(names) == len(own):
        return source, f"{origin} does not name {shown(others[0])}; the classes go by their numbers"
    if others or tuple(names) == own or len(set(names)) < len(names):
        return source, ""
    numbers = np.array([names.index(name) for name in own], "int32")
    train, validation = (
        renumbered(x, numbers, len(names)) for x in (source.train, source.validation)
    )
    changed = dataclasses.replace(
        source, class_names=tuple(names), train=train, validation=validation
    )
    return changed, f"the {len(names)} classes are those of {origin}, the data have {len(own)}"


def class_names(weights):
    """The names of the classes of weights, none if they are not known, and where they stand."""
    weights = loading.local(weights)
    if path := beside(weights):
        try:
            return read_names(path), CLASSES
        except (ValueError, OSError) as error:
            raise ValueError(f"model.weights: {error}, allowed: a JSON list of names") from error
    official = [wnid for wnid, _ in imagenet_classes()]
    classes = len(official) if weights == "imagenet" else None
    with contextlib.suppress(ValueError, OSError):  # it will be read, and refused, once more
        classes = classes or inferred(weights).classes
    return (official, "ImageNet") if classes == len(official) else ([], "")


def renumbered(split, numbers, classes):
    """A split whose labels have other numbers."""

    def new(labels):
        labels = np.asarray(labels)
        if labels.ndim < 2:
            return numbers[labels]
        wide = np.zeros((len(labels), classes), labels.dtype)
        wide[:, numbers] = labels
        return wide

    if isinstance(split, Arrays):
        return Arrays(split.images, new(split.labels))

    def read(indices):
        contents, labels, names = split.read(indices)
        return contents, new(labels), names

    labels = None if split.labels is None else new(split.labels)
    return dataclasses.replace(split, read=read, labels=labels)
