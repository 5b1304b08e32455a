"""The published sMLPNets: one frozen table, read by the model, the weights and the tools."""

import types
from dataclasses import dataclass

from keras_smlp.checks import check_boolean

RELEASE = "https://github.com/microsoft/SPACH/releases/download/v1.0"


@dataclass(frozen=True)
class Variant:
    """One published sMLPNet.

    Attributes:
        name: What `list_models()` and the tools call it.
        dim: Channels of the first stage; each later stage doubles them.
        depths: Blocks of each stage.
        drop_path_rate: Stochastic depth rate of the last block in the official training.
        parameters: Exact number of trainable parameters with 1000 classes at `input_size`.
        checkpoint: File name in the official release, or `None` where none was published.
        published_top1: ImageNet-1K top-1 accuracy in percent as the paper reports it.
        expansion: Hidden width of the channel mixing, in multiples of the channels.
        patch_size: Side in pixels of the stem's patches.
        input_size: Side in pixels of the images that it was trained on.
        classes: Classes of the published head (ImageNet-1K).
        license: License of the published weights and code.
    """

    name: str
    dim: int
    depths: tuple[int, ...]
    drop_path_rate: float
    parameters: int
    checkpoint: str | None
    published_top1: float
    expansion: int = 3
    patch_size: int = 4
    input_size: int = 224
    classes: int = 1000
    license: str = "MIT"


VARIANTS = types.MappingProxyType(
    {
        variant.name: variant
        for variant in (
            Variant("tiny", 80, (2, 8, 14, 2), 0.0, 24_123_584, None, 81.9),
            Variant("small", 96, (2, 10, 24, 2), 0.2, 48_558_136, "smlp_s.pth", 83.1),
            Variant("base", 112, (2, 10, 24, 2), 0.3, 65_880_408, "smlp_b.pth", 83.4),
        )
    }
)


def variant_of(dim, depths, expansion, patch_size):
    """The published `Variant` of these sizes, or `None`."""
    sizes = (dim, tuple(depths), expansion, patch_size)
    for v in VARIANTS.values():
        if (v.dim, v.depths, v.expansion, v.patch_size) == sizes:
            return v
    return None


def list_models(pretrained: bool = False) -> list[str]:
    """Names of the published variants, smallest first.

    Args:
        pretrained: Boolean. Only those with an official checkpoint, which
            `weights="imagenet"` can load. Defaults to `False`.

    Returns:
        A list of keys of `keras_smlp.VARIANTS`.

    Example:

    >>> keras_smlp.list_models()
    ['tiny', 'small', 'base']
    >>> keras_smlp.list_models(pretrained=True)
    ['small', 'base']
    """
    pretrained = check_boolean("pretrained", pretrained)
    return [name for name, v in VARIANTS.items() if v.checkpoint or not pretrained]
