"""Names of classes: ImageNet-1K's, listed in `imagenet_classes.txt`, and those in a JSON file."""

import functools
import json
from importlib import resources
from pathlib import Path

import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_smlp.checks import check_integer, read_text, refusal, shown
from keras_smlp.weights.keras_files import CLASSES

MAX_CLASSES = 16 << 20  # bytes of such a file


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """The classes of ImageNet-1K in the order of the published networks' outputs.

    Returns:
        A tuple of 1000 pairs `(wnid, name)`: WordNet's number of the class and the first of its
        words there, with underscores for spaces. Two names stand twice, `crane` and `maillot`.

    Example:

    >>> keras_smlp.imagenet_classes()[207]
    ('n02099601', 'golden_retriever')
    """
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text("utf-8")
    return tuple((wnid, name) for wnid, name in map(str.split, text.splitlines()))


def decode_predictions(
    probabilities: ArrayLike, top: int = 5
) -> list[list[tuple[str, str, float]]]:
    """The likeliest classes of ImageNet-1K for each image, as in `keras.applications`.

    Args:
        probabilities: Array or tensor `(n, 1000)`, a row per image.
        top: Integer from 1 to 1000. Classes per image. Defaults to `5`.

    Returns:
        A list per image of `top` tuples `(wnid, name, probability)`, the likeliest first; of
        equally likely ones that with the lower index.

    Raises:
        ValueError: If the shape or `top` is another, or a probability is not finite.

    Example:

    >>> probabilities = np.eye(1000)[[207]]
    >>> keras_smlp.decode_predictions(probabilities, top=1)
    [[('n02099601', 'golden_retriever', 1.0)]]
    """
    classes = imagenet_classes()
    try:
        rows = np.asarray(ops.convert_to_numpy(probabilities)).astype("float64")
    except Exception as error:  # each backend has its own for what is no array of numbers
        raise refusal("probabilities", probabilities, f"(n, {len(classes)}) numbers") from error
    if rows.ndim != 2 or rows.shape[1] != len(classes):
        raise ValueError(
            f"`probabilities` must be (n, {len(classes)}), for the names are ImageNet-1K's. "
            f"Received: probabilities of the shape {rows.shape}"
        )
    top = check_integer("top", top, 1, len(classes))
    return [[(*classes[k], float(row[k])) for k in likeliest(row, top)] for row in rows]


def likeliest(row, top):
    """Indices of the `top` largest values, the largest first; refuses what is not finite."""
    if not np.isfinite(row).all():
        wrong = np.count_nonzero(~np.isfinite(row))
        raise ValueError(
            "`probabilities` must be finite numbers. "
            f"Received: {wrong} of {row.size} in a row that are not"
        )
    return np.argsort(-row, kind="stable")[:top].tolist()


# ---- of a file ----------------------------------------------------------------------------------
def beside(weights):
    """The path of the `classes.json` beside a `.keras` file, `None` where there is none."""
    path = Path(weights).with_name(CLASSES)
    return path if str(weights).endswith(".keras") and path.is_file() else None


def read_names(path):
    """The names of classes in a JSON file.

    Args:
        path: Path of the file.

    Returns:
        A list of strings, at least one.

    Raises:
        ValueError: If it is no JSON list of strings; the message begins with the path.
        OSError: If it cannot be read.
    """
    try:
        names = json.loads(read_text(path, MAX_CLASSES))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown(path)} is no JSON file ({shown(error)})") from error
    if not isinstance(names, list) or not names or not all(isinstance(x, str) for x in names):
        raise ValueError(f"{shown(path)} is no JSON list of names")
    return names
