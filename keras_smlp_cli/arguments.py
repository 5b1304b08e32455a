"""What the command lines share.

The commands import Keras in functions: `--help` and wrong arguments then answer at once, and a
backend that is not installed is an error of one line.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from keras_smlp_cli.failures import one_line

VARIANTS = ("tiny", "small", "base")  # of keras_smlp.VARIANTS
# of keras_smlp.export
INPUTS = ("auto", "pixels", "normalized", "unknown")
OUTPUTS = ("auto", "probabilities", "sigmoid", "logits", "unknown")


class Parser(argparse.ArgumentParser):
    """A parser that prints its description as it is, and errors as one line."""

    def __init__(self, description, prog=None):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, formatter_class=form)

    def add_variant_option(self):
        """The option for `open_model`."""
        self.add_argument(
            "--variant",
            choices=VARIANTS,
            help="the published network (default: small); a file says it itself",
        )

    def add_network_options(self):
        """The options for `open_model` and `read_names`."""
        self.add_variant_option()
        self.add_argument(
            "--classes",
            metavar="FILE.json",
            help="list of the names of the classes (default: the classes.json beside a .keras "
            "file, or ImageNet's for 1000)",
        )

    def add_meaning_options(self):
        """The options that say what a model takes and answers with, where its graph does not."""
        self.add_argument(
            "--inputs",
            choices=INPUTS,
            default="auto",
            help="what the model takes (default: auto, read off its graph)",
        )
        self.add_argument(
            "--outputs",
            choices=OUTPUTS,
            default="auto",
            help="what the model answers with (default: auto, read off its graph)",
        )

    def add_view_options(self):
        """The options for `view`."""
        self.add_argument(
            "--exif-orientation",
            action=argparse.BooleanOptionalAction,
            help="photos are turned upright as their EXIF data say (default: as "
            "data.exif_orientation in the config.yaml beside a .keras file, or not)",
        )
        self.add_argument(
            "--resize-size",
            type=positive,
            metavar="PIXELS",
            help="shorter side before the central crop (default: data.resize_size in the "
            "config.yaml beside a .keras file, or 256 / 224 of the model's side)",
        )

    def error(self, message):
        """Ends the program with one line, in which nothing can move a terminal; status 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def positive(text):
    """A positive integer from the command line."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"must be a positive integer. Received: {text!r}")
    return int(text)


def png(text):
    """The path of a picture to write."""
    if not text.endswith(".png") or not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no .png file in a folder that exists")
    return text


def located(weights, option):
    """What is named on the command line, of the Hugging Face hub as a path on this machine.

    Args:
        weights: String: `imagenet`, the path of a file, or `hf://ACCOUNT/NAME@REVISION/FILE`.
        option: What the command line calls it, for messages.

    Returns:
        A path as a string, or `imagenet`; and what names it elsewhere: the address with its commit.

    Raises:
        ValueError: If it is no good address.
        OSError: If it cannot be downloaded.
    """
    from keras_smlp.weights import loading

    try:
        with contextlib.redirect_stdout(sys.stderr):  # where the commit is said
            address = loading.pinned(weights, option)
            return loading.local(address, option), address
    except ValueError as error:
        raise ValueError(str(error).replace(f"`{option}`", option)) from error


def open_model(weights, variant, option):
    """The model that is named on the command line, not compiled.

    Args:
        weights: String: `imagenet`, or the path of a file.
        variant: Name of the published network; `None` is small, or whatever a file holds.
        option: What the command line calls `weights`, for messages.

    Raises:
        ValueError: If the file cannot be read, is of another variant, or the official weights
            cannot be had.
        FileNotFoundError: If there is no such file.
    """
    import keras_smlp
    from keras_smlp.weights import identify

    if weights == "imagenet":
        published = keras_smlp.list_models(pretrained=True)
        if variant and variant not in published:
            raise ValueError(f"--variant must be one of {published} with imagenet, not {variant!r}")
        constructor = getattr(keras_smlp, f"SMLPNet{(variant or 'small').capitalize()}")
        try:
            return constructor(weights=weights)
        except RuntimeError as error:  # neither found nor downloaded
            raise ValueError(f"{weights}: {error}") from error
    if variant and weights.endswith(".keras"):
        raise ValueError("--variant must not stand with a .keras file, which says it itself")
    try:
        model = keras_smlp.load_model(weights, compile=False)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(str(error).replace("`path`", option)) from error
    if variant and identify.infer(weights).variant() != variant:
        raise ValueError(f"--variant must be that of the file; {weights} holds no {variant}")
    return model


def source(arguments, address):
    """Origin and license of the weights, for the metadata.

    Args:
        arguments: What was parsed: `model`, `variant`, `origin`, `license`.
        address: The second that `located` returned.
    """
    import keras_smlp
    from keras_smlp.variants import RELEASE
    from keras_smlp.weights import hub

    if arguments.model != "imagenet":
        name = address if hub.is_address(address) else Path(address).name
        return arguments.origin or name, arguments.license
    variant = keras_smlp.VARIANTS[arguments.variant or "small"]
    origin = arguments.origin or f"{RELEASE}/{variant.checkpoint}"
    return origin, arguments.license or variant.license


def read_names(weights, path=None):
    """The names of the classes, in a file that says them.

    Args:
        weights: What `open_model` takes.
        path: Path of a JSON list of names. `None` is the `classes.json` beside a `.keras` file, if
            there is one, as a training leaves it.

    Returns:
        A list of strings, or `None` if no file says them.

    Raises:
        ValueError: If the file is no JSON list of strings.
        OSError: If it cannot be read.
    """
    from keras_smlp.inference import classes

    path = path or classes.beside(weights)
    try:
        return classes.read_names(path) if path else None
    except ValueError as error:
        raise ValueError(f"--classes must be a JSON list of names: {error}") from error
    except OSError as error:
        raise ValueError(f"--classes: {path} cannot be read ({error.strerror})") from error


def view(arguments, weights, model):
    """How photos are prepared: as the command line says, else as the run did that left the model.

    Args:
        arguments: What was parsed: `resize_size`, `exif_orientation`.
        weights: What `open_model` takes.
        model: The model that it is.

    Returns:
        A dict with the arguments `resize_size` and `exif_orientation` of `keras_smlp.load_image`.

    Raises:
        ValueError: If the `config.yaml` beside the file is none, or the size is too small.
        OSError: If that cannot be read.
    """
    from keras_smlp.checks import shown
    from keras_smlp.inference import evaluated

    given = {name: getattr(arguments, name) for name in ("resize_size", "exif_orientation")}
    given = {name: value for name, value in given.items() if value is not None}
    found: dict = {"resize_size": None, "exif_orientation": False}
    path = evaluated.beside(weights)
    if path and given.keys() != found.keys():
        try:
            found = evaluated.read(path)
        except ValueError as error:
            turned = "--exif-orientation or --no-exif-orientation"
            instead = f"it is not read where both --resize-size and {turned} are given"
            raise ValueError(f"{error} ({instead})") from error
    size, least = (found | given)["resize_size"], max(model.inputs[0].shape[1:3])
    if size is not None and size < least:
        name = "--resize-size" if "resize_size" in given else f"{shown(path)}: data.resize_size"
        raise ValueError(f"{name} must be at least {least}, the model's side, not {size}")
    return found | given


def labels(names, classes):
    """The WordNet id and the name of each class of a model.

    Args:
        names: What `read_names` returned.
        classes: Integer, how many classes the model has.

    Returns:
        A list of pairs; the id is `None` for what is no class of ImageNet. ImageNet's own for 1000
        classes that no file names; `None` for any other number of them.

    Raises:
        ValueError: If there is another number of names.
    """
    from keras_smlp import imagenet_classes

    known = imagenet_classes()
    if names is None:
        return known if classes == len(known) else None
    if len(names) != classes:
        raise ValueError(f"--classes must name the model's {classes} classes, not {len(names)}")
    of = dict(known)  # a folder of ImageNet's is named by the wnid
    return [(name, of[name]) if name in of else (None, name) for name in names]
