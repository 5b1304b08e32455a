"""Which sMLPNet a weights file belongs to, read off the shapes in it."""

import collections
from dataclasses import asdict, dataclass

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
        for v in VARIANTS.values():
            if (v.dim, v.depths) == (self.dim, self.depths):
                return v.name
        return None


def published(variant):
    """The architecture of a published variant, as it was trained."""
    size = variant.input_size
    return Architecture(
        variant.dim,
        variant.depths,
        variant.expansion,
        variant.patch_size,
        (size, size, 3),
        variant.classes,
    )


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
    return architecture_of(*read(path, key), path)


def read(path, key="model"):
    """The tensors of a file, as the module reads them that knows its kind.

    Args:
        path: As for `infer`.
        key: As for `infer`.

    Returns:
        The module, `official` or `keras_files`, and a dict of NumPy arrays by its names.
    """
    if str(path).endswith(official.ENDINGS):
        return official, official.read(path, key)
    return keras_files, keras_files.read(path)


def architecture_of(kind, tensors, path):
    """The `Architecture` behind what `read` returned; `path` is for the message."""
    shapes = {name: x.shape for name, x in tensors.items()}
    try:
        return from_official(shapes) if kind is official else from_keras(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{path} holds no sMLPNet ({error!r} among its tensors)") from error


def from_official(shapes):
    """The architecture behind official keys."""
    dim, channels, patch, _ = shapes["to_patch_embedding.0.0.weight"]
    fused = [shape[0] for name, shape in shapes.items() if name.endswith(".1.fuse.weight")]
    hidden, inner = shapes["channel_mix.0.2.net.0.weight"]
    (height,), (width,) = shapes["token_mix.0.1.proh_w.bias"], shapes["token_mix.0.1.proj_h.bias"]
    return Architecture(
        dim=dim,
        depths=tuple(fused.count(c) for c in sorted(set(fused))),
        expansion=hidden // inner,
        patch_size=patch,
        input_shape=(height * patch, width * patch, channels),
        classes=shapes.get("mlp_head.0.weight", (None,))[0],
    )


def from_keras(shapes):
    """The architecture behind the names of `keras_files.read`."""
    patch, _, channels, dim = shapes[f"{naming.STEM}/0"]
    inner, hidden = shapes[f"{naming.channel_mixing(1, 1)}/dense1/0"]
    mix = f"{naming.token_mixing(1, 1)}/mix"
    (height, _), (width, _) = shapes[f"{mix}/height/0"], shapes[f"{mix}/width/0"]
    places = [name.removesuffix("/mix/fuse/0") for name in shapes if name.endswith("/mix/fuse/0")]
    blocks = collections.Counter(filter(None, map(naming.stage_of, places)))
    return Architecture(
        dim=dim,
        depths=tuple(blocks[stage] for stage in sorted(blocks)),
        expansion=hidden // inner,
        patch_size=patch,
        input_shape=(height * patch, width * patch, channels),
        classes=shapes.get(f"{naming.HEAD}/0", (None, None))[1],
    )
