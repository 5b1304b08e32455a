"""Where images come from: arrays, folders, Parquet files, TensorFlow Datasets."""

from pathlib import Path

import numpy as np

from keras_smlp.checks import shown
from keras_smlp.data import folders, parquet, records
from keras_smlp.data.splits import FRACTION, Arrays, Source


def digits():
    """scikit-learn's bundled handwritten digits: 1,797 real 8x8 images, a fifth for validation.

    The split is stratified and always the same. Part of the
    [UCI data set](https://archive.ics.uci.edu/dataset/80), read from the installed package.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    # the pixels count the inked dots of a 4x4 cell: 0 to 16
    gray = np.round(data.images * (255 / 16)).astype("uint8")
    train_x, validation_x, train_y, validation_y = train_test_split(
        np.repeat(gray[..., None], 3, axis=-1),
        data.target.astype("int32"),
        test_size=360,
        stratify=data.target,
        random_state=0,
    )
    names = tuple(str(name) for name in data.target_names)
    return Source(names, Arrays(train_x, train_y), Arrays(validation_x, validation_y))


def npz(path):
    """Arrays in a `.npz` file: `train_images`, `train_labels`, `validation_images`, ...

    Images are uint8 `(n, height, width)` or `(n, height, width, 1 or 3)`, labels integers from 0;
    `class_names` is optional.
    """
    if not Path(path).is_file():
        raise ValueError(f"`path`: {path} is no file, allowed: the path of an .npz file")
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    splits = []
    for split in ("train", "validation"):
        images, labels = (arrays.get(f"{split}_{part}") for part in ("images", "labels"))
        if images is None or labels is None:
            raise ValueError(
                f"`path`: {path} holds {', '.join(arrays)}, allowed: a file with {split}_images "
                f"and {split}_labels"
            )
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"`path`: {split}_images of {path} are {images.dtype} {images.shape}, allowed: "
                "uint8 (n, height, width, 1 or 3)"
            )
        if not (labels.shape == images.shape[:1] and labels.dtype.kind in "iu" and len(labels)):
            raise ValueError(
                f"`path`: {split}_labels of {path} are {labels.dtype} {labels.shape}, allowed: "
                f"integers ({len(images)},), at least one"
            )
        images = np.broadcast_to(images, (*images.shape[:3], 3))
        splits.append(Arrays(np.ascontiguousarray(images), labels.astype("int32")))
    names = arrays.get("class_names")
    if names is None:
        names = range(max(int(split.labels.max()) for split in splits) + 1)
    for part in splits:
        if part.labels.min() < 0 or part.labels.max() >= len(names):
            raise ValueError(
                f"`path`: {path} has labels from {part.labels.min()} to {part.labels.max()}, "
                f"allowed: 0 to {len(names) - 1}, one for each class name"
            )
    train, validation = splits
    return Source(tuple(map(str, names)), train, validation)


def load(name, path=None, manual_dir=None, fraction=FRACTION, seed=0):
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

    Returns:
        A `Source`.

    Raises:
        ValueError: If there is no such data set, or its files are not as they should be: one line
            that begins with the argument.
    """
    if name == "digits":
        return digits()
    if name == "npz":
        return npz(path)
    if name in ("folder", "parquet"):
        read = {"folder": folders.folder, "parquet": parquet.parquet}[name]
        try:
            return read(path, fraction, seed)
        except OSError as error:  # such as a folder that this user may not read
            reason = error.strerror or error
            where = shown(error.filename or path)
            raise ValueError(f"`path`: {where}: {reason}, allowed: what can be read") from error
    return records.tfds(name, path, manual_dir)
