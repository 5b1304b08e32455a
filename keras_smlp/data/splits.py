"""A data set in memory or in files, of which any image can be read by its index."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from keras_smlp.checks import shown

TRAIN = "train"
# what the other split may be called, in files and folders; of several the first one counts
VALIDATION = ("val", "valid", "validation", "test")
FRACTION = 0.2  # of each class, for validation, where no split is given


@dataclass(frozen=True)
class Arrays:
    """Images in memory.

    Attributes:
        images: uint8 array `(n, height, width, channels)` in [0, 255].
        labels: int32 array `(n,)`, indices into the source's `class_names`; or uint8
            `(n, classes)` of several labels an image, 1 where it is of a class.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    def read(self, indices):
        """Pixels, labels and names, as `Files.read` gives contents."""
        return self.images[indices], self.labels[indices], [f"image {i}" for i in indices]


@dataclass(frozen=True)
class Files:
    """Encoded images.

    Attributes:
        count: Number of images.
        read: Function from an int64 array of indices to a list of file contents (bytes), the
            labels of these images and a list of names, in the order of the indices.
        paths: Paths of the files that hold them, in their order; empty if it is not known.
        root: Folder of the files; a listing names them relative to it, so that it may be moved.
        labels: All labels, as in `Arrays`; `None` if they are not known without reading the
            images, of which each has one then.
    """

    count: int
    read: Callable
    paths: Sequence[str] = ()
    root: str | os.PathLike = ""
    labels: np.ndarray | None = None

    def __len__(self):
        return self.count


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        class_names: The name of each label.
        train: The `Arrays` or `Files` to fit.
        validation: Those to judge by.
        notes: Sentences on what a user may have meant otherwise, such as files that are not used.
        drawn: Where the split of image files was drawn here, and not given: the path, label(s) and
            split of each, the rows of a CSV file that gives it again. Empty otherwise.
    """

    class_names: tuple[str, ...]
    train: Arrays | Files
    validation: Arrays | Files
    notes: tuple[str, ...] = ()
    drawn: tuple[tuple[str, str, str], ...] = ()

    @property
    def several(self):
        """Whether an image has any number of labels, and not one."""
        return np.ndim(self.train.labels) == 2


# ---- a split that is not given ------------------------------------------------------------------
def drawn_validation(names, labels, fraction, seed):
    """Which images are for validation: this part of each class, the same ones each time.

    An image is chosen by a hash of its name: if some are added or removed, most of the others stay
    where they are.

    Where images have several labels, the classes choose in turn, the rarest one first: each among
    its images that no rarer class has decided on, as many as it still lacks. This is iterative
    stratification (Sechidis et al. 2011) in one pass. Images without a label are one more class. A
    frequent class, whose images rarer ones have chosen, may get a larger or smaller part.

    Args:
        names: List of strings, one for each image.
        labels: Sequence of the class of each, or of tuples of classes.
        fraction: Float in `(0, 1)`. Part of each class, rounded; at least one image, and all but
            one at most.
        seed: Integer. Another one chooses other images.

    Returns:
        A boolean array, true for validation, and a sentence on it. Each class has an image that is
        not for validation.

    Raises:
        ValueError: If a class has a single image.
    """
    texts = [f"{seed} {name}".encode("utf-8", "surrogateescape") for name in names]
    keys = [(hashlib.sha256(text).digest(), i) for i, text in enumerate(texts)]
    of_class: dict = {}
    for (_, i), found in zip(keys, labels, strict=True):
        for label in (found or (None,)) if isinstance(found, tuple) else (found,):
            of_class.setdefault(label, []).append(i)
    for label, members in of_class.items():
        if len(members) < 2 and label is not None:
            raise ValueError(
                f"`path`: a single image of the class {shown(label)}, allowed: at least 2 of each "
                "class, where no split is given"
            )
    chosen, decided = np.zeros((2, len(names)), bool)
    for members in sorted(of_class.values(), key=len):
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        free = sorted(keys[i] for i in members if not decided[i])
        chosen[[i for _, i in free[: max(count - chosen[members].sum(), 0)]]] = True
        decided[members] = True
    for members in of_class.values():
        if chosen[members].all():  # rarer classes have taken them all
            chosen[max(members, key=lambda i: keys[i])] = False
    return chosen, f"no split is given: {chosen.sum()} of {len(chosen)} images are for validation"
