"""The argument `weights` of a network: what it may be, and how it fills the network."""

import contextlib
from pathlib import Path

from keras_smlp import checks
from keras_smlp.variants import list_models, variant_of
from keras_smlp.weights import channels, download, hub, identify, keras_files, official, resizing
from keras_smlp.weights.strict import assign

ENDINGS = (*keras_files.ENDINGS, *official.READABLE)


def check(weights, dim, depths, expansion, patch_size, include_top, classes):
    """Refuses invalid weights before the model is built; says what `load` is to fill it from.

    Args:
        weights: The argument of `SMLPNet`.
        dim: Channels of the first stage.
        depths: Blocks of each stage.
        expansion: Hidden width of the channel mixing.
        patch_size: Side of the stem's patches.
        include_top: Whether the model has its classifier.
        classes: Outputs of the classifier.

    Returns:
        The published `Variant` for `"imagenet"`, a `pathlib.Path` for a file, that of the hub
        downloaded, `None` for `None`.

    Raises:
        ValueError: If there are no such weights, or none for this model.
        FileNotFoundError: If it is the path of a file that is not there.
        OSError: Those of `hub.fetch`.
    """
    if weights is None:
        return None
    if not isinstance(weights, str) or weights != "imagenet":
        return check_path(weights, "weights")
    variant = variant_of(dim, depths, expansion, patch_size)
    if variant is None or variant.checkpoint is None:
        sizes = f"dim={dim}, depths={depths}, expansion={expansion}, patch_size={patch_size}"
        which = f"sMLPNet-{variant.name}" if variant else sizes
        raise ValueError(
            f"`weights='imagenet'` was never published for {which}: use one of "
            f"{list_models(pretrained=True)}, the path of a file of your own, or weights=None to "
            "train from scratch."
        )
    if include_top and classes != variant.classes:
        raise ValueError(
            f"`classes` must be {variant.classes} with weights='imagenet' and include_top=True. "
            f"Received: classes={classes}; build with include_top=False and add a head."
        )
    return variant


def check_path(path, argument, files=hub.OF_WEIGHTS):
    """The path of a weights file that exists and has a known ending.

    Args:
        path: What was received: a path, or an address on the Hugging Face hub.
        argument: String. What it is called there.
        files: What an address without a file stands for. Defaults to weights.
    """
    if hub.is_address(path):
        return hub.fetch(path, argument, files, ENDINGS).path
    others = "None, 'imagenet' or " if argument == "weights" else ""
    allowed = f"{others}the path of a file ending in one of {ENDINGS}, or hf://ACCOUNT/NAME"
    file = checks.check_path(argument, path, allowed)
    if not isinstance(path, str) and file.as_posix().startswith("hf:/"):  # a slash is lost
        raise ValueError(
            f"`{argument}` must not be an address of the hub as a path: give the address as text. "
            f"Received: {checks.received(argument, path)}"
        )
    if not file.name.endswith(ENDINGS):
        raise checks.refusal(argument, path, allowed)
    if not file.is_file():
        shown = checks.received(argument, str(file))
        raise FileNotFoundError(f"`{argument}` names no file. Received: {shown}")
    return file


def local(weights, argument="weights"):
    """What the weights are on this machine: the path of a file of the hub, as text; others as is.

    Args:
        weights: A path, an address on the hub, `"imagenet"` or `None`.
        argument: String. What it is called in messages. Defaults to `"weights"`.
    """
    return (
        str(check_path(weights, argument, hub.OF_COMMANDS)) if hub.is_address(weights) else weights
    )


def pinned(weights, argument="weights"):
    """The weights with a commit and a file in the address, if it is one on the hub."""
    if not hub.is_address(weights):
        return weights
    return hub.fetch(weights, argument, hub.OF_COMMANDS, ENDINGS).address


def load(model, source):
    """Fills a model from what `check` returned: a file, or the downloaded official one.

    Args:
        model: The built model.
        source: A `Variant`, a path or `None`.

    Returns:
        The model.

    Raises:
        ValueError: If a file is damaged or does not fit the model.
        RuntimeError: If the official weights can be neither found nor downloaded.
    """
    if source is None:
        return model
    with opened(source) as file:
        return fill(model, file)


@contextlib.contextmanager
def opened(source):
    """The `identify.WeightsFile` behind what `check` returned; `None` for `None`.

    That of a `Variant` is downloaded.
    """
    if source is None:
        yield None
        return
    path = source if isinstance(source, Path) else download.fetch(source)
    with identify.opened(path) as file:
        yield file


def fill(model, file):
    """Fills a model from an open `identify.WeightsFile`, made to fit its size and channels."""
    expected = file.format.targets(model)
    tensors = resizing.fitted(expected, file.tensors)
    tensors = channels.fitted(model, expected, tensors)
    try:
        assign(expected, tensors, file.path, file.format.CLASSIFIER)
    except ValueError as error:
        raise ValueError(f"{error}{identify.difference(file, model)}") from error
    return model
