"""Weights files of any format, and which sMLPNet one belongs to, read off its shapes."""

import collections
from dataclasses import asdict, dataclass
from os import PathLike
from types import ModuleType
from typing import NamedTuple

import numpy as np

from keras_smlp import naming
from keras_smlp.variants import VARIANTS
from keras_smlp.weights import keras_files, official


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

    def variant(self):
        """The name of the published variant of this width and depth, or `None`."""
        mine = (self.dim, self.depths)
        return next((v.name for v in VARIANTS.values() if (v.dim, v.depths) == mine), None)


class WeightsFile(NamedTuple):
    """What a weights file holds.

    Attributes:
        path: Its path, for messages.
        format: The module that read it and knows its names: `official` or `keras_files`.
        tensors: Dict of NumPy arrays by name.
    """

    path: str | PathLike
    format: ModuleType
    tensors: dict[str, np.ndarray]


def published(v):
    """The architecture of a published variant, as it was trained."""
    size = v.input_size
    return Architecture(v.dim, v.depths, v.expansion, v.patch_size, (size, size, 3), v.classes)


def infer(path, key="model"):
    """The architecture that a weights file was made for.

    Args:
        path: Path ending in `.pth`, `.safetensors`, `.weights.h5` or `.keras`.
        key: String. Entry of a `.pth` container to look at. Defaults to `"model"`.

    Returns:
        An `Architecture`.

    Raises:
        ValueError: If the file is damaged, or holds no sMLPNet.
        FileNotFoundError: If there is none.
    """
    return architecture_of(read(path, key))


def read(path, key="model"):
    """The `WeightsFile` at a path. Arguments and errors are those of `infer`."""
    if str(path).endswith(official.ENDINGS):
        return WeightsFile(path, official, official.read(path, key))
    return WeightsFile(path, keras_files, keras_files.read(path))


def architecture_of(file):
    """The `Architecture` that a `WeightsFile` was made for."""
    shapes = {name: x.shape for name, x in file.tensors.items()}
    try:
        return from_official(shapes) if file.format is official else from_keras(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        inside = any(name.endswith(f"/{naming.STEM}/0") for name in shapes)
        what = "has its sMLPNet as a layer of another model" if inside else "holds no sMLPNet"
        raise ValueError(f"{file.path} {what} ({error!r} among its tensors)") from error


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
    """The architecture behind the names of `keras_files.read`."""
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
