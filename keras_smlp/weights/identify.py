"""Weights files of any format, and which sMLPNet one belongs to, read off its shapes."""

import collections
import contextlib
import json
from dataclasses import asdict, dataclass
from os import PathLike
from types import ModuleType
from typing import NamedTuple

from keras_smlp import naming
from keras_smlp.checks import check_positive_integer, shown
from keras_smlp.shapes import check_depths
from keras_smlp.variants import variant_of
from keras_smlp.weights import keras_files, official
from keras_smlp.weights.stored import Stored, one_sentence


@dataclass(frozen=True)
class Architecture:
    """What `keras_smlp.SMLPNet` must be called with, to hold the weights of a file.

    Attributes:
        dim: Channels of the first stage.
        depths: Blocks of each stage.
        expansion: Hidden width of the channel mixing, in multiples of the channels.
        patch_size: Side in pixels of the stem's patches.
        input_shape: `(height, width, channels)` of the images.
        classes: Outputs of the classifier; `None` where the file has none.
    """

    dim: int
    depths: tuple[int, ...]
    expansion: int
    patch_size: int
    input_shape: tuple[int, int, int]
    classes: int | None

    def arguments(self):
        """The keyword arguments of `SMLPNet`, the classifier included or left out."""
        arguments = asdict(self)
        if self.classes is None:
            del arguments["classes"]
            arguments["include_top"] = False
        return arguments

    def values(self):
        """How many numbers the network holds, the statistics of its normalizations included."""
        height, width, channels = self.input_shape
        total, c, step = 0, self.dim, self.patch_size
        for stage, depth in enumerate(self.depths):
            total += channels * step**2 * c  # the stem, or the downsampling
            h, w = (side // (self.patch_size * 2**stage) for side in (height, width))
            token_mixing = 4 * c + 9 * c + 4 * c + h * h + h + w * w + w + 3 * c * c
            channel_mixing = 2 * c + 2 * self.expansion * c * c + self.expansion * c + c
            total += depth * (token_mixing + channel_mixing)
            channels, c, step = c, 2 * c, 2
        return total + 4 * channels + (self.classes or 0) * (channels + 1)

    def variant(self):
        """The name of the published variant of these sizes, or `None`."""
        found = variant_of(self.dim, self.depths, self.expansion, self.patch_size)
        return found and found.name


class WeightsFile(NamedTuple):
    """What an open weights file holds.

    Attributes:
        path: What it is called in messages.
        format: The module that reads it and knows its names: `official` or `keras_files`.
        tensors: Dict of `stored.Stored` by name.
    """

    path: str | PathLike
    format: ModuleType
    tensors: dict[str, Stored]


def published(v):
    """The architecture of a published variant, as it was trained."""
    size = v.input_size
    return Architecture(v.dim, v.depths, v.expansion, v.patch_size, (size, size, 3), v.classes)


def infer(path, key="model"):
    """The architecture that a weights file was made for.

    Args:
        path: Path with one of `loading.ENDINGS`.
        key: String. Entry of a `.pth` container to look at. Defaults to `"model"`.

    Returns:
        An `Architecture`.

    Raises:
        ValueError: If the file is damaged, or holds no sMLPNet.
        FileNotFoundError: If there is none.
    """
    with opened(path, key) as file:
        return architecture_of(file)


class Ends(NamedTuple):
    """The two ends of a saved model, `None` for what is not known.

    Attributes:
        channels: Channels of the images that it takes; those of its stem may be others.
        activation: String. Keras' name of what it answers with.
    """

    channels: int | None = None
    activation: str | None = None


def ends(path):
    """The `Ends` of the model in a `.keras` file, by its configuration; unknown in other files.

    Errors are those of `infer`.
    """
    if not str(path).endswith(".keras"):
        return Ends()
    with one_sentence(path), keras_files.open_archive(path) as archive:
        info = archive.entries[keras_files.CONFIG]
        is_small = info.file_size <= keras_files.MAX_CONFIG
        config = json.loads(archive.read(info)) if is_small else {}
    try:
        layers = config["config"]["layers"]
        (shape,) = (x["config"]["batch_shape"] for x in layers if x["class_name"] == "InputLayer")
        channels, last = shape[-1], layers[-1]
        softmax = "softmax" if last["class_name"] == "Softmax" else None
        activation = softmax or last["config"].get("activation")
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):  # none of our models
        return Ends()
    return Ends(
        channels if isinstance(channels, int) else None,
        activation if isinstance(activation, str) else None,
    )


@contextlib.contextmanager
def opened(path, key="model", called=None):
    """The `WeightsFile` at a path, whose tensors can be read while it is open.

    Arguments and errors are those of `infer`; `called` is what it is called in messages instead of
    its path.
    """
    called = path if called is None else called
    if str(path).endswith(official.READABLE):
        with official.opened(path, key, called) as tensors:
            yield WeightsFile(called, official, tensors)
    else:
        with keras_files.opened(path, called) as tensors:
            yield WeightsFile(called, keras_files, tensors)


def architecture_of(file):
    """The `Architecture` that a `WeightsFile` was made for."""
    shapes = {name: x.shape for name, x in file.tensors.items()}
    try:
        found = from_official(shapes) if file.format is official else from_keras(shapes)
        check_depths(found.depths)
        for name in ("dim", "expansion", "patch_size"):
            check_positive_integer(name, getattr(found, name))
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        inside = any(name.endswith(f"/{naming.STEM}/0") for name in shapes)
        what = "has its sMLPNet as a layer of another model" if inside else "holds no sMLPNet"
        raise ValueError(
            f"{shown(file.path)} {what} ({shown(repr(error))} among its tensors)"
        ) from error
    return found


def check_size(file, architecture):
    """Refuses a file whose first tensors are of a network far larger than the file.

    To be called before the network is built; the names and shapes are compared when it is filled.
    """
    found = sum(x.size for x in file.tensors.values())
    if architecture.values() > 2 * found:
        raise ValueError(
            f"{shown(file.path)} holds no whole sMLPNet: it has {found} values of the "
            f"{architecture.values()} of dim={architecture.dim}, depths={architecture.depths}"
        )


def difference(file, model):
    """How the architectures of an open `WeightsFile` and a model differ, a sentence or nothing."""
    variables = keras_files.targets(model)
    try:
        mine = from_keras({name: tuple(v.shape) for name, (v, _) in variables.items()})
        other = architecture_of(file)
    except (KeyError, IndexError, ValueError):  # no whole network
        return ""
    sizes = ("dim", "depths", "expansion", "patch_size")
    names = [name for name in sizes if getattr(mine, name) != getattr(other, name)]
    if not names:
        return ""
    theirs, ours = (", ".join(f"{n}={getattr(x, n)}" for n in names) for x in (other, mine))
    return f" The file is of a network with {theirs}, the model has {ours}."


def from_official(shapes):
    """The architecture behind official keys."""
    dim, channels, patch, _ = shapes["to_patch_embedding.0.0.weight"]
    fused = [shape[0] for name, shape in shapes.items() if name.endswith(".1.fuse.weight")]
    depths = tuple(fused.count(c) for c in sorted(set(fused)))
    hidden, inner = shapes["channel_mix.0.2.net.0.weight"]
    (height,), (width,) = shapes["token_mix.0.1.proh_w.bias"], shapes["token_mix.0.1.proj_h.bias"]
    input_shape = (height * patch, width * patch, channels)
    classes = shapes.get("mlp_head.0.weight", (None,))[0]
    return Architecture(dim, depths, hidden // inner, patch, input_shape, classes)


def from_keras(shapes):
    """The architecture behind the names of `keras_files.opened`."""
    patch, _, channels, dim = shapes[f"{naming.STEM}/0"]
    inner, hidden = shapes[f"{naming.channel_mixing(1, 1)}/dense1/0"]
    mix = f"{naming.token_mixing(1, 1)}/mix"
    (height, _), (width, _) = shapes[f"{mix}/height/0"], shapes[f"{mix}/width/0"]
    places = [name.removesuffix("/mix/fuse/0") for name in shapes if name.endswith("/mix/fuse/0")]
    blocks = collections.Counter(filter(None, map(naming.stage_of, places)))
    depths = tuple(blocks[stage] for stage in sorted(blocks))
    input_shape = (height * patch, width * patch, channels)
    classes = shapes.get(f"{naming.HEAD}/0", (None, None))[1]
    return Architecture(dim, depths, hidden // inner, patch, input_shape, classes)
