"""`weights=`: what may stand there, and where it goes."""

from pathlib import Path

from keras_smlp.variants import VARIANTS, list_models
from keras_smlp.weights import endings, imagenet, keras_files, official, resizing
from keras_smlp.weights.strict import assign

ENDINGS = endings.KERAS + endings.OFFICIAL


def check(weights, dim, depths, expansion, patch_size, include_top, classes, channels):
    """Refuses, before anything is built, what `load` could not do.

    Args:
        weights: The argument of `SMLPNet`.
        dim: Channels of the first stage.
        depths: Blocks of each stage.
        expansion: Hidden width of the channel mixing.
        patch_size: Side of the stem's patches.
        include_top: Whether the model has its classifier.
        classes: Outputs of the classifier.
        channels: Channels of the images.

    Returns:
        The published `Variant` for `"imagenet"`, a `pathlib.Path` for a file, `None` for `None`.

    Raises:
        ValueError: If there are no such weights, or none for this model.
        FileNotFoundError: If it is the path of a file that is not there.
    """
    if weights is None:
        return None
    if not isinstance(weights, str) or weights != "imagenet":
        return check_path(weights)
    published = {(v.dim, v.depths, v.expansion, v.patch_size): v for v in VARIANTS.values()}
    variant = published.get((dim, depths, expansion, patch_size))
    if variant is None or variant.checkpoint is None:
        which = f"sMLPNet-{variant.name}" if variant else f"dim={dim}, depths={depths}"
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
    if channels != 3:
        raise ValueError(
            "`input_shape` must have 3 channels with weights='imagenet'. "
            f"Received: {channels} channels"
        )
    return variant


def check_path(weights):
    """The path of a weights file that exists and has a known ending."""
    if not isinstance(weights, (str, Path)) or not str(weights).endswith(ENDINGS):
        raise ValueError(
            "`weights` must be None, 'imagenet' or the path of a file ending in one of "
            f"{ENDINGS}. Received: weights={weights!r}"
        )
    if not Path(weights).is_file():
        raise FileNotFoundError(f"`weights` names no file. Received: weights={str(weights)!r}")
    return Path(weights)


def load(model, source, build=None, key="model"):
    """Fills a model from what `check` returned, the axial kernels resampled to its size.

    Args:
        model: The built model.
        source: A `Variant`, a path or `None`.
        build: Function without arguments that returns the whole published model, to convert the
            download with; read where `source` is a `Variant`.
        key: String. Which entry of a `.pth` training container to take. Defaults to `"model"`.

    Returns:
        The model.

    Raises:
        ValueError: If a file is damaged or does not fit the model.
        RuntimeError: If the official weights can be neither found nor downloaded.
    """
    if source is None:
        return model
    path = source if isinstance(source, Path) else imagenet.fetch(source, build)
    if str(path).endswith(official.ENDINGS):
        form, tensors = official, official.read(path, key)
    else:
        form, tensors = keras_files, keras_files.read(path)
    expected = form.targets(model)
    assign(expected, resizing.fitted(expected, tensors), path, form.CLASSIFIER)
    return model
