"""Parquet files of encoded images and labels, as the Hugging Face hub has data sets of images.

A row's image is a struct whose `bytes` are the image file, its label an integer. The names of the
classes are in the files' metadata.
"""

import collections
import contextlib
import glob
import json
import os
import re
import threading
from pathlib import Path

import numpy as np

from keras_smlp.checks import shown
from keras_smlp.data.splits import TRAIN, VALIDATION, Files, Source, drawn_validation

# bytes of the row groups that stay in memory
KEPT = 2**30
METADATA = b"huggingface"
ENDING = ".parquet"


def parquet(path, fraction, seed):
    """The rows of Parquet files, see `sources.load`.

    The split of a file is the beginning of its name up to a `-` or a dot, as in
    `train-00000-of-00294.parquet`, or else the name of its folder.
    """
    of_split = files_by_split(path)
    given = [name for name in VALIDATION if name in of_split]
    train = Rows(of_split[TRAIN])
    notes = [f"{x} is not used, but {given[0]}" for x in given[1:]]
    if train.size > KEPT:
        megabytes = train.size / len(train.groups) / 1e6
        notes.append(
            f"the images, {train.size / 1e9:.0f} GB, do not stay in memory, so each that is read "
            f"may cost its whole row group, {megabytes:.0f} MB on average; folders have no such "
            "cost"
        )
    if not given:
        names = class_names([train])
        chosen, note = drawn_validation(train.names(), train.labels.tolist(), fraction, seed)
        notes.append(note)
        return Source(names, train.files(~chosen), train.files(chosen), tuple(notes))
    validation = Rows(of_split[given[0]])
    if validation.class_names != train.class_names:
        raise ValueError(
            f"`path`: {shown(path)} has other classes in {given[0]} than in {TRAIN}, allowed: the "
            "same in all files"
        )
    names = class_names([train, validation])
    return Source(names, train.files(), validation.files(), tuple(notes))


def files_by_split(path):
    """Dict from the name of a split to the sorted paths of its files."""
    path = os.fspath(path)
    if os.path.isdir(path):
        found = [str(x) for x in Path(path).rglob("*" + ENDING)]
        hidden = (any(y.startswith(".") for y in Path(x).relative_to(path).parts) for x in found)
        found = [x for x, is_hidden in zip(found, hidden, strict=True) if not is_hidden]
    else:
        found = [path] if os.path.exists(path) else glob.glob(path, recursive=True)
    of_split: dict = {}
    for file in sorted({os.path.normpath(x) for x in found if x.endswith(ENDING)}):
        if not os.path.isfile(file):
            raise ValueError(f"`path`: {shown(file)} is no file or a broken link, allowed: files")
        split = re.split(r"[-.]", Path(file).name)[0]
        known = split in (TRAIN, *VALIDATION)
        of_split.setdefault(split if known else Path(file).parent.name, []).append(file)
    if TRAIN not in of_split:
        others = ", ".join(map(shown, of_split)) or "none"
        raise ValueError(
            f"`path`: {shown(path)} has Parquet files of the splits {others}, allowed: a folder or "
            "a pattern with train-*.parquet or train/*.parquet"
        )
    for files in of_split.values():
        numbered = [re.search(r"-of-(\d+)\.parquet$", file) for file in files]
        counts = {int(x[1]) for x in numbered if x}
        if counts and counts != {len(files)}:
            raise ValueError(
                f"`path`: {len(files)} files like {shown(files[0])} are there, allowed: as many as "
                "the names say, of one data set"
            )
    return of_split


def class_names(parts):
    """The names of the classes of some `Rows`: of the metadata, or the numbers of the labels."""
    for part in parts:
        if not len(part.labels):
            raise ValueError(
                f"`path`: {shown(part.paths[0])} has no rows, allowed: at least one in a split"
            )
    labels = np.concatenate([part.labels for part in parts])
    least, most = int(labels.min()), int(labels.max())
    names = parts[0].class_names
    # without names: of so many classes most would have no image
    last = len(names) - 1 if names else len(labels) - 1
    if least < 0 or most > last:
        why = "one for each class name" if names else "fewer than there are images"
        raise ValueError(
            f"`path`: the files with {shown(parts[0].paths[0])} have labels from {least} to "
            f"{most}, allowed: 0 to {last}, {why}"
        )
    names = names or tuple(map(str, range(most + 1)))
    empty = np.setdiff1d(np.arange(len(names)), parts[0].labels)
    if len(empty):
        raise ValueError(
            f"`path`: no training image is of the class {shown(names[empty[0]])}"
            f"{f' and {len(empty) - 1} more' if len(empty) > 1 else ''}, allowed: at least one of "
            "each"
        )
    return names


class Rows:
    """The rows of some Parquet files in a row, read by whole row groups.

    Args:
        paths: Paths of the files.

    Attributes:
        labels: int64 array, the label of each row.
        class_names: Tuple of strings; empty if the metadata have none.
        size: Bytes of the images, about.
    """

    def __init__(self, paths):
        self.paths, self.groups, self.size, labels = paths, [], 0, []
        self.root = os.path.commonpath([os.path.dirname(os.path.abspath(x)) for x in paths])
        self.short = [os.path.relpath(path, self.root) for path in paths]
        for path in paths:
            with reading(path) as (pa, file):
                columns = columns_of(path, file.schema_arrow)
                if path == paths[0]:
                    self.image, self.label, self.class_names = columns
                elif columns != (self.image, self.label, self.class_names):
                    raise ValueError(
                        f"`path`: {shown(path)} has other columns or classes than "
                        f"{shown(paths[0])}, allowed: the same in all files"
                    )
                found = file.read([self.label], use_threads=False)[self.label]
                if found.null_count:
                    raise ValueError(
                        f"`path`: {shown(path)} has rows without a label, allowed: one for each"
                    )
                labels.append(found.cast(pa.int64()).to_numpy())
                for i in range(file.num_row_groups):
                    group = file.metadata.row_group(i)
                    self.groups.append((path, i, group.num_rows))
                    self.size += group.total_byte_size
        self.labels = np.concatenate(labels)
        self.file_ends = np.cumsum([len(x) for x in labels])
        self.ends = np.cumsum([rows for _, _, rows in self.groups])
        self.kept: collections.OrderedDict = collections.OrderedDict()
        self.bytes_kept, self.lock = 0, threading.Lock()
        self.locks = [threading.Lock() for _ in self.groups]

    def files(self, chosen=True):
        """The `Files` of all rows, or of some, for a boolean array."""
        rows = np.flatnonzero(np.broadcast_to(chosen, self.labels.shape))
        labels = self.labels[rows].astype("int32")

        def read(indices):
            places = rows[indices].tolist()
            return [self.content(row) for row in places], labels[indices], self.names(places)

        return Files(len(rows), read, list(map(os.path.abspath, self.paths)), self.root, labels)

    def names(self, rows=None):
        """What to call rows: the file's path below all of them, and the number of the row in it."""
        rows = np.arange(len(self.labels)) if rows is None else np.asarray(rows)
        files = np.searchsorted(self.file_ends, rows, side="right")
        numbers = rows - np.append(0, self.file_ends)[files]
        return [
            f"{self.short[k]}[{i}]" for k, i in zip(files.tolist(), numbers.tolist(), strict=True)
        ]

    def content(self, row):
        """The bytes of the image of a row; none where there are none, or the file is damaged."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        images = self.group(number)
        if images is None:
            return b""
        return images[row - int(self.ends[number] - self.groups[number][2])].as_py() or b""

    def group(self, number):
        """The images' bytes of a row group, kept as long as there is room; `None` if damaged."""
        with self.locks[number]:  # threads that want one group read it once
            with self.lock:
                if number in self.kept:
                    self.kept.move_to_end(number)
                    return self.kept[number]
            path, group, _ = self.groups[number]
            try:
                with reading(path) as (_, file):
                    column = f"{self.image}.bytes"
                    table = file.read_row_group(group, [column], use_threads=False)
                images = table[self.image].combine_chunks().field("bytes")
            except ValueError:  # counts as damaged files; it is tried again each time
                return None
            with self.lock:
                self.kept[number] = images
                self.bytes_kept += images.nbytes
                while self.bytes_kept > KEPT and len(self.kept) > 1:
                    self.bytes_kept -= self.kept.popitem(last=False)[1].nbytes
            return images


@contextlib.contextmanager
def reading(path):
    """Context manager: pyarrow and an open Parquet file; its errors become a `ValueError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield pa, file
    except (pa.ArrowException, OSError, KeyError) as error:
        said = shown((str(error).splitlines() or [type(error).__name__])[0])
        raise ValueError(f"`path`: {shown(path)} cannot be read: {said}") from error


def columns_of(path, schema):
    """The names of the columns with the images and the labels, and those of the classes."""
    import pyarrow as pa

    features = features_of(schema)
    images = [x.name for x in schema if is_image(x.type)]
    integers = [x.name for x in schema if pa.types.is_integer(x.type)]
    named = [x for x in integers if features.get(x)]
    labels = [x for x in integers if x in ("label", "labels")] or named
    if len(images) != 1 or len(labels) != 1:
        found = ", ".join(map(shown, schema.names))
        raise ValueError(
            f"`path`: {shown(path)} has the columns {found}, allowed: one with structs of an "
            "image's bytes, and integers named label, or the only ones with names of classes in "
            "the metadata"
        )
    return images[0], labels[0], features.get(labels[0], ())


def is_image(kind):
    """Whether a type is a struct with binary `bytes`."""
    import pyarrow as pa

    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return pa.types.is_binary(content) or pa.types.is_large_binary(content)


def features_of(schema):
    """The names of the classes by column, of the Hugging Face hub's metadata if there are any."""
    try:
        found = json.loads((schema.metadata or {}).get(METADATA, b"{}"))["info"]["features"]
        named = {name: x.get("names") for name, x in found.items() if isinstance(x, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: tuple(names)
        for name, names in named.items()
        if isinstance(names, list) and all(isinstance(x, str) for x in names)
    }
