"""Where images come from: arrays, folders, Parquet files, TensorFlow Datasets."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from keras_smlp.checks import shown
from keras_smlp.data import folders, parquet, records
from keras_smlp.data.splits import FRACTION, Arrays, Source
from keras_smlp.inference.photos import OF_PHOTOS


def digits(channels=3):
    """scikit-learn's bundled handwritten digits: 1,797 real 8x8 images, a fifth for validation.

    They are gray, or RGB for 3 channels. The split is stratified and always the same. Part of the
    [UCI data set](https://archive.ics.uci.edu/dataset/80), read from the installed package.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    # the pixels count the inked dots of a 4x4 cell: 0 to 16
    gray = np.round(data.images * (255 / 16)).astype("uint8")
    train_x, validation_x, train_y, validation_y = train_test_split(
        np.repeat(gray[..., None], channels, axis=-1),
        data.target.astype("int32"),
        test_size=360,
        stratify=data.target,
        random_state=0,
    )
    names = tuple(str(name) for name in data.target_names)
    return Source(names, Arrays(train_x, train_y), Arrays(validation_x, validation_y))


def npz(path, several=False, channels=3):
    """Arrays in a `.npz` file: `train_images`, `train_labels`, `validation_images`, ...

    Images are uint8 `(n, height, width)` or `(n, height, width, 1 or 3)`, of which each becomes the
    other if `channels` says so, or `(n, height, width, channels)`. Labels are integers from 0, with
    `several` also zeros and ones `(n, classes)`; `class_names` is optional.
    """
    if not Path(path).is_file():
        raise ValueError(f"`path`: {path} is no file, allowed: the path of an .npz file")
    arrays = arrays_of(path)
    splits = []
    for split in ("train", "validation"):
        images, labels = (arrays.get(f"{split}_{part}") for part in ("images", "labels"))
        if images is None or labels is None:
            raise ValueError(
                f"`path`: {path} holds {', '.join(arrays) or 'no arrays'}, allowed: a file with "
                f"{split}_images and {split}_labels"
            )
        if images.ndim == 3:
            images = images[..., None]
        allowed = OF_PHOTOS if channels in OF_PHOTOS else (channels,)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in allowed:
            raise ValueError(
                f"`path`: {split}_images of {path} are {images.dtype} {images.shape}, allowed: "
                f"uint8 (n, height, width, {' or '.join(map(str, allowed))})"
            )
        if several and labels.ndim == 2:
            kind = "uint8"
            fits = labels.dtype.kind in "biuf" and np.isin(labels, (0, 1)).all()
        else:
            kind, fits = "int32", labels.ndim == 1 and labels.dtype.kind in "iu"
        if not (fits and len(labels) == len(images) and len(labels)):
            rows = f", or zeros and ones ({len(images)}, classes)" if several else ""
            raise ValueError(
                f"`path`: {split}_labels of {path} are {labels.dtype} {labels.shape}, allowed: "
                f"integers ({len(images)},){rows}, at least one"
            )
        if channels < images.shape[-1]:
            images = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in images])[
                ..., None
            ]
        images = np.broadcast_to(images, (*images.shape[:3], channels))
        splits.append(Arrays(np.ascontiguousarray(images), labels.astype(kind)))
    names = arrays.get("class_names")
    if names is not None and names.ndim != 1:
        raise ValueError(
            f"`path`: class_names of {path} are {names.dtype} {names.shape}, allowed: (classes,), "
            "a name for each class"
        )
    train, validation = splits
    if train.labels.ndim == 2 or validation.labels.ndim == 2:
        names = range(train.labels.shape[-1]) if names is None else names
        for split, part in (("train", train), ("validation", validation)):
            if part.labels.shape[1:] != (len(names),):
                raise ValueError(
                    f"`path`: {split}_labels of {path} are {part.labels.shape}, allowed: "
                    f"({len(part)}, {len(names)}), as the other labels and class_names"
                )
        return Source(tuple(map(str, names)), train, validation)
    if names is None:
        names = range(max(int(split.labels.max()) for split in splits) + 1)
    for part in splits:
        if part.labels.min() < 0 or part.labels.max() >= len(names):
            raise ValueError(
                f"`path`: {path} has labels from {part.labels.min()} to {part.labels.max()}, "
                f"allowed: 0 to {len(names) - 1}, one for each class name"
            )
    return Source(tuple(map(str, names)), train, validation)


def arrays_of(path):
    """The arrays in a `.npz` file by their names."""
    try:
        # what is no archive NumPy would take for something else
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            return {name: x for name, x in file.items() if isinstance(x, np.ndarray)}
    except Exception as error:  # a damaged file makes NumPy and zipfile raise almost anything
        reason = shown(str(error) or type(error).__name__)
        raise ValueError(
            f"`path`: {shown(path)} cannot be read ({reason}), allowed: an .npz file, as "
            "numpy.savez writes it"
        ) from error


def load(name, path=None, manual_dir=None, fraction=FRACTION, seed=0, several=False, channels=3):
    """Loads a data set.

    Args:
        name: String. `"digits"`; `"npz"`; `"folder"`, image files in `train/` and `val/` (or
            `valid/`, `validation/`, `test/`), each with a folder for each class, or in folders for
            the classes alone, or as a CSV file says with the columns `file` and `label`, and
            perhaps `split`; `"parquet"`, Parquet files as the Hugging Face hub has them; or the
            name of a TensorFlow Dataset.
        path: Path of the `.npz` file, of the folder or of the CSV file; a folder of Parquet files
            or a pattern; of TensorFlow Datasets the folder of the prepared sets, `None` for its
            own.
        manual_dir: Path of the folder with files that TensorFlow Datasets cannot download.
        fraction: Float in `(0, 1)`. Part of each class that is for validation, where files do not
            say it. Defaults to `0.2`.
        seed: Integer. Another one chooses other images for that. Defaults to `0`.
        several: Boolean. Whether an image of an `.npz` or a CSV file may have several labels or
            none: there rows of zeros and ones, here `label` cells of names separated by `;`.
            Defaults to `False`.
        channels: Positive integer. Channels of images in memory; those of files count when they are
            decoded. Defaults to `3`.

    Returns:
        A `Source`.

    Raises:
        ValueError: If there is no such data set, or its files are not as they should be: one line
            that begins with the argument.
    """
    if name == "digits":
        return digits(channels)
    if name == "npz":
        return npz(path, several, channels)
    try:
        if name == "folder":
            return folders.folder(path, fraction, seed, several)
        if name == "parquet":
            return parquet.parquet(path, fraction, seed)
    except OSError as error:  # such as a folder that this user may not read
        where, reason = shown(error.filename or path), error.strerror or error
        raise ValueError(f"`path`: {where}: {reason}, allowed: what can be read") from error
    return records.tfds(name, path, manual_dir)
