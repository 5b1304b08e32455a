"""Parquet files of encoded images and labels, as the Hugging Face hub has data sets of images.

A row's image is a struct whose `bytes` are the image file (and whose `path` may name it), its label
an integer. The names of the classes are in the files' metadata.
"""

import collections
import glob
import json
import re
import threading
from pathlib import Path

import numpy as np

from keras_smlp.checks import shown
from keras_smlp.data.splits import TRAIN, VALIDATION, Files, Source, drawn_validation

# bytes of the images of row groups that stay in memory
KEPT = 2**30
METADATA = b"huggingface"


def shards(path, fraction, seed):
    """The rows of Parquet files, see `sources.load`.

    The split of a file is the beginning of its name up to a `-` or a dot, as in
    `train-00000-of-00294.parquet`, or else the name of its folder.
    """
    of_split = files_by_split(path)
    there = [name for name in VALIDATION if name in of_split]
    train = Shards(of_split[TRAIN])
    if not there:
        names = class_names(train, train.labels)
        rows = train.names(np.arange(len(train.labels)))
        of_row = [names[label] for label in train.labels]
        chosen = drawn_validation(rows, of_row, fraction, seed)
        return Source(names, train.files(~chosen), train.files(chosen))
    validation = Shards(of_split[there[0]])
    if validation.class_names != train.class_names:
        raise ValueError(
            f"`path`: {shown(path)} has other classes in {there[0]} than in {TRAIN}, allowed: the "
            "same in all files"
        )
    names = class_names(train, np.concatenate([train.labels, validation.labels]))
    if not len(validation.labels):
        raise ValueError(f"`path`: {there[0]} of {shown(path)} has no rows, allowed: at least one")
    every, notes = slice(None), tuple(f"{x} is not used, but {there[0]}" for x in there[1:])
    return Source(names, train.files(every), validation.files(every), notes)


def files_by_split(path):
    """Dict from the name of a split to the sorted paths of its files."""
    path = str(path)
    found = glob.glob(path, recursive=True)
    if Path(path).is_dir():
        found = [str(x) for x in Path(path).rglob("*.parquet")]
    of_split: dict = {}
    for file in sorted(x for x in found if x.endswith(".parquet") and Path(x).is_file()):
        split = re.split(r"[-.]", Path(file).name)[0]
        known = split in (TRAIN, *VALIDATION)
        of_split.setdefault(split if known else Path(file).parent.name, []).append(file)
    if TRAIN not in of_split:
        others = ", ".join(map(shown, of_split)) or "none"
        raise ValueError(
            f"`path`: {shown(path)} has Parquet files of the splits {others}, allowed: a folder or "
            "a pattern with train-*.parquet or train/*.parquet"
        )
    return of_split


def class_names(shards, labels):
    """The names of the classes: of the metadata, or the numbers up to the largest label."""
    names = shards.class_names or tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    if not len(shards.labels):
        raise ValueError(f"`path`: {shown(shards.paths[0])} has no rows, allowed: at least one")
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(
            f"`path`: the files with {shown(shards.paths[0])} have labels from {labels.min()} to "
            f"{labels.max()}, allowed: 0 to {len(names) - 1}, one for each class name"
        )
    return names


class Shards:
    """The rows of some Parquet files in a row, read by whole row groups.

    Args:
        paths: Paths of the files.

    Attributes:
        labels: int64 array, the label of each row.
        class_names: Tuple of strings; empty if the metadata have none.
    """

    def __init__(self, paths):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.paths, self.groups, labels = paths, [], []
        self.image, self.label, self.class_names = columns_of(paths[0])
        for path in paths:
            try:
                file = pq.ParquetFile(path)
                labels.append(file.read([self.label])[self.label])
            except (pa.ArrowException, OSError, KeyError) as error:
                said = str(error).splitlines()[0]
                raise ValueError(f"`path`: {shown(path)} cannot be read: {said}") from error
            if columns_of(path) != (self.image, self.label, self.class_names):
                raise ValueError(
                    f"`path`: {shown(path)} has other columns or classes than {shown(paths[0])}, "
                    "allowed: the same in all files"
                )
            numbers = range(file.metadata.num_row_groups)
            rows = [file.metadata.row_group(i).num_rows for i in numbers]
            self.groups += [(path, i, n) for i, n in zip(numbers, rows, strict=True)]
            if labels[-1].null_count:
                raise ValueError(
                    f"`path`: {shown(path)} has rows without a label, allowed: one for each image"
                )
        self.labels = np.concatenate([x.to_numpy() for x in labels]).astype("int64")
        self.ends = np.cumsum([n for _, _, n in self.groups])
        self.kept: collections.OrderedDict = collections.OrderedDict()
        self.size, self.lock = 0, threading.Lock()

    def files(self, chosen):
        """The `Files` of some rows, given as NumPy takes them for an index."""
        rows = np.arange(len(self.labels))[chosen]
        labels = self.labels[rows].astype("int32")

        def read(indices):
            contents, names = zip(*map(self.row, rows[indices].tolist()), strict=True)
            return list(contents), labels[indices], list(names)

        return Files(len(rows), read, self.paths, Path(self.paths[0]).parent, labels)

    def names(self, rows):
        """What to call rows: the file's name and the number of the row in it."""
        starts: dict = {}
        before = 0
        for path, _, count in self.groups:
            starts.setdefault(path, before)
            before += count
        groups = np.searchsorted(self.ends, rows, side="right")
        found = [self.groups[i][0] for i in groups]
        return [
            f"{Path(path).name}[{row - starts[path]}]"
            for path, row in zip(found, np.asarray(rows).tolist(), strict=True)
        ]

    def row(self, row):
        """The bytes and the name of the image of a row; no bytes where there are none."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        images = self.group(number)
        place = row - (self.ends[number - 1] if number else 0)
        image = images[int(place)].as_py() or {}
        return image.get("bytes") or b"", image.get("path") or self.names([row])[0]

    def group(self, number):
        """The images of a row group, which stay in memory as long as there is room."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with self.lock:
            if number in self.kept:
                self.kept.move_to_end(number)
                return self.kept[number]
        path, group, rows = self.groups[number]
        try:
            images = pq.ParquetFile(path).read_row_group(group, [self.image])[self.image]
            images = images.combine_chunks()
        except (pa.ArrowException, OSError):  # counts as damaged files
            images = pa.nulls(rows)
        with self.lock:
            if number not in self.kept:
                self.kept[number] = images
                self.size += images.nbytes
            while self.size > KEPT and len(self.kept) > 1:
                self.size -= self.kept.popitem(last=False)[1].nbytes
        return images


def columns_of(path):
    """The names of the columns with the images and the labels, and those of the classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"`path`: {shown(path)} cannot be read: {said}") from error
    features = features_of(schema)
    images = [
        x.name
        for x in schema
        if pa.types.is_struct(x.type) and x.type.get_field_index("bytes") >= 0
    ]
    integers = [x.name for x in schema if pa.types.is_integer(x.type)]
    labels = [x for x in integers if "names" in features.get(x, {})] or [
        x for x in integers if x in ("label", "labels")
    ]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"`path`: {shown(path)} has the columns {', '.join(map(shown, schema.names))}, "
            "allowed: one with structs of an image's bytes, and integers named label or with names "
            "of classes in the metadata"
        )
    names = features.get(labels[0], {}).get("names", ())
    return images[0], labels[0], tuple(map(str, names))


def features_of(schema):
    """What the metadata of the Hugging Face hub say of each column; empty if there are none."""
    try:
        found = json.loads((schema.metadata or {}).get(METADATA, b"{}"))["info"]["features"]
        return {name: x for name, x in found.items() if isinstance(x, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
