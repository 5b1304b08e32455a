"""Where images come from: arrays, folders, TensorFlow Datasets; any image by its index."""

import contextlib
import os
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_smlp.checks import shown
from keras_smlp.inference.photos import ENDINGS, images_below, in_words, visible

# names of classes in a message
NAMED = 5
# of a file that is read; no photo is as large
MOST_BYTES = 2**30


@dataclass(frozen=True)
class Arrays:
    """Images in memory.

    Attributes:
        images: uint8 array `(n, height, width, 3)`, RGB in [0, 255].
        labels: int32 array `(n,)`, indices into the source's `class_names`.
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
        read: Function from an int64 array of indices to a list of file contents (bytes), an int
            array of labels and a list of names, in the order of the indices.
        paths: Paths of the files that hold them, in their order; empty if it is not known.
        root: Folder of the files; a listing names them relative to it, so that it may be moved.
    """

    count: int
    read: Callable
    paths: Sequence[str] = ()
    root: str | os.PathLike = ""

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
    """

    class_names: tuple[str, ...]
    train: Arrays | Files
    validation: Arrays | Files
    notes: tuple[str, ...] = ()


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


def folder(path):
    """The official layout: `train/<class>/<image>` and `val/<class>/<image>`.

    The classes are the sorted names of `train`'s folders. `validation` may stand for `val`. What is
    hidden, because its name begins with a dot, is not there.
    """
    path = Path(path)
    train = path / "train"
    validation = next((path / n for n in ("val", "validation") if (path / n).is_dir()), None)
    if not train.is_dir() or validation is None:
        raise ValueError(f"`path`: {path}, allowed: a folder that holds train/ and val/")
    names, others = class_folders(train)
    found, others_there = class_folders(validation)
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ValueError(
            f"`path`: {validation} has the classes {listed(unknown)}, allowed: those of {train}"
        )
    splits, notes = [], []
    for split, there in ((train, names), (validation, found)):
        files, unused = {}, []
        for name in there:
            files[name], more = images_below(split / name)
            unused += more
        others += unused
        empty = [name for name in names if not files.get(name)]
        if len(empty) == len(names) or (empty and split == train):
            of = f" of the classes {listed(empty)}" if empty else ""
            what = f" ({in_words(unused)} are there)" if unused else ""
            raise ValueError(
                f"`path`: {split} has no images{of}{what}, allowed: <class>/<image> ending in one "
                f"of {', '.join(ENDINGS)}; in train/ of each class"
            )
        if empty:
            notes.append(f"no image in {shown(split)} is of the classes {listed(empty)}")
        splits.append(encoded_files(split, [files.get(name, []) for name in names]))
    others += others_there
    if others:
        notes.append(f"{len(others)} files or links are not used: {in_words(others)}")
    return Source(names, splits[0], splits[1], tuple(notes))


def class_folders(path):
    """The names of a split's folders, sorted; and its other entries, as `images_below` has them."""
    entries = visible(path)[::-1]
    names = tuple(entry.name for entry in entries if entry.is_dir())
    others = [("in no class folder", entry.path) for entry in entries if not entry.is_dir()]
    return names, others


def listed(names):
    """Some names of classes in a message."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(shown, names[:NAMED])) + more


def encoded_files(root, paths):
    """The `Files` below a folder, from the paths of each class."""
    files = [file for found in paths for file in found]
    labels = np.repeat(np.arange(len(paths), dtype="int32"), [len(found) for found in paths])

    def read(indices):
        chosen = [files[i] for i in indices]
        return [content_of(file) for file in chosen], labels[indices], chosen

    return Files(len(files), read, files, root)


def content_of(file):
    """A file's bytes; none of one that cannot be read or is too large, which counts as damaged."""

    def opener(path, flags):  # what has become a pipe meanwhile would wait for a writer
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    with contextlib.suppress(OSError), open(file, "rb", opener=opener) as opened:
        found = os.fstat(opened.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_size <= MOST_BYTES:
            return opened.read()
    return b""


def tfds(name, data_dir=None, manual_dir=None):
    """A classification set of TensorFlow Datasets, prepared first where it is not yet.

    Args:
        name: String. Such as `imagenet2012` or `imagenette/320px-v2`.
        data_dir: Folder of the prepared sets, on a local disk; `None` for TFDS' own.
        manual_dir: Folder of files that were downloaded by hand, such as
            `ILSVRC2012_img_train.tar`; `None` for TFDS' own.
    """
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir)
    except ValueError as error:
        raise ValueError(
            f"`name`: {name}, allowed: digits, npz, folder or a set of TensorFlow Datasets "
            f"({str(error).splitlines()[0]})"
        ) from error
    features = builder.info.features or {}
    if not {"image", "label"} <= set(features):
        raise ValueError(
            f"`name`: {name} has {', '.join(features)}, allowed: a set with image and label"
        )
    if not builder.is_prepared():
        config = tensorflow_datasets.download.DownloadConfig(manual_dir=manual_dir)
        try:
            builder.download_and_prepare(download_config=config)
        except Exception as error:  # no network, files that must be fetched by hand: TFDS says it
            raise ValueError(f"`name`: {name} could not be prepared: {error}") from error
    splits = builder.info.splits
    validation = next((n for n in ("validation", "test") if n in splits), None)
    if "train" not in splits or validation is None:
        raise ValueError(
            f"`name`: {name} has the splits {', '.join(splits)}, allowed: a set with train and "
            "validation or test"
        )
    return Source(
        tuple(features["label"].names),
        records(builder, "train"),
        records(builder, validation),
    )


def records(builder, split):
    """The encoded images of one split of a prepared builder."""
    import tensorflow_datasets

    decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
    if builder.info.file_format.value == "tfrecord":
        serialized = TFRecords(builder.info.splits[split].filepaths)
        features = builder.info.features

        def examples_at(indices):
            return [
                features.deserialize_example_np(serialized[i], decoders=decoders) for i in indices
            ]
    else:
        serialized = builder.as_data_source(split, decoders=decoders)

        def examples_at(indices):
            return serialized.__getitems__([int(i) for i in indices])

    def read(indices):
        examples = examples_at(indices)
        names = [os.fsdecode(example.get("file_name", b"")) for example in examples]
        names = [n or f"{split}[{i}]" for n, i in zip(names, indices, strict=True)]
        labels = np.array([example["label"] for example in examples], "int32")
        return [example["image"] for example in examples], labels, names

    # the folder of the version ends in name, configuration and version
    root = str(builder.data_path).removesuffix(builder.info.full_name)
    paths = [str(path) for path in builder.info.splits[split].filepaths]
    return Files(len(serialized), read, paths, root)


class TFRecords:
    """Records of TFRecord files by their index, which TensorFlow itself only reads in a row.

    Every record's place is read once, at the start. A record is its length (8 bytes), a checksum
    of it (4), the content and a checksum of that (4); the checksums are not verified.

    Args:
        paths: Paths of the files.
    """

    def __init__(self, paths):
        self.paths, places = list(paths), []
        for number, path in enumerate(self.paths):
            with open(path, "rb", buffering=0) as file:
                place, end = 0, os.fstat(file.fileno()).st_size
                while place < end:
                    (length,) = struct.unpack("<Q", os.pread(file.fileno(), 8, place))
                    places.append((number, place + 12, length))
                    place += length + 16
        self.places = np.array(places, "int64")

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        number, place, length = self.places[index].tolist()
        # opened for each record: ImageNet has more files than a process may keep open
        with open(self.paths[number], "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, place)


def load(name, path=None, manual_dir=None):
    """Loads a data set.

    Args:
        name: String. `"digits"`, `"npz"`, `"folder"`, or the name of a TensorFlow Dataset.
        path: Path of the `.npz` file or of the folder; of TensorFlow Datasets the folder of the
            prepared sets, `None` for its own.
        manual_dir: Path of the folder with files that TensorFlow Datasets cannot download.

    Returns:
        A `Source`.

    Raises:
        ValueError: If there is no such data set, or its files are not as they should be: one line
            that begins with the argument.
    """
    if name == "digits":
        return digits()
    if name in ("npz", "folder"):
        return {"npz": npz, "folder": folder}[name](path)
    return tfds(name, path, manual_dir)
