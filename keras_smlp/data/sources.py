"""Where images come from: labelled uint8 RGB arrays, split once and for all."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images: uint8 array `(n, height, width, 3)`, RGB in [0, 255].
        labels: int32 array `(n,)`, indices into the source's `class_names`.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        class_names: The name of each label.
        train: The `Split` to fit.
        validation: The `Split` to judge by.
    """

    class_names: tuple[str, ...]
    train: Split
    validation: Split


def digits():
    """scikit-learn's bundled handwritten digits: 1,797 real 8x8 images, a fifth for validation.

    The split is stratified and always the same. Part of the
    [UCI data set](https://archive.ics.uci.edu/dataset/80), read from the installed package.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    # the pixels count the inked dots of a 4x4 cell: 0 to 16
    grey = np.round(data.images * (255 / 16)).astype("uint8")
    train_x, validation_x, train_y, validation_y = train_test_split(
        np.repeat(grey[..., None], 3, axis=-1),
        data.target.astype("int32"),
        test_size=360,
        stratify=data.target,
        random_state=0,
    )
    names = tuple(str(name) for name in data.target_names)
    return Source(names, Split(train_x, train_y), Split(validation_x, validation_y))


SOURCES: dict[str, Callable[[], Source]] = {"digits": digits}


def load(name):
    """Loads a data set by its name.

    Args:
        name: String. A key of `SOURCES`.

    Returns:
        A `Source`.

    Raises:
        ValueError: If there is no such data set.
    """
    if name not in SOURCES:
        raise ValueError(f"`name` must be one of {list(SOURCES)}. Received: name={name!r}")
    return SOURCES[name]()
