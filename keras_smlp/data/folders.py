"""Folders of image files: of train/ and val/, of classes alone, or with a CSV file."""

import contextlib
import csv
import os
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_smlp.checks import shown
from keras_smlp.data import labels as several_labels
from keras_smlp.data.splits import TRAIN, VALIDATION, Files, Source, drawn_validation
from keras_smlp.inference.photos import ENDINGS, images_below, in_words, visible

# names of classes in a message
NAMED = 5
# of a file that is read; no photo is as large
MOST_BYTES = 2**30
# no names of classes, whatever their case
SPLITS = {TRAIN, *VALIDATION, "training", "testing", "dev"}
# of a CSV file
COLUMNS, OPTIONAL = ("file", "label"), "split"


def folder(path, fraction, seed, several=False):
    """Image files in folders, see `sources.load`.

    What is hidden, because its name begins with a dot, is not there.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".csv":
        return table(path, fraction, seed, several)
    if not path.is_dir():
        raise ValueError(f"`path`: {shown(path)} is no folder, allowed: {LAYOUTS}")
    if (path / TRAIN).is_dir():
        return official(path)
    entries = visible(path)
    tables = [x.path for x in entries if x.name.lower().endswith(".csv") and is_table(x.path)]
    if len(tables) > 1:
        raise ValueError(
            f"`path`: {shown(path)} holds {len(tables)} CSV files with the columns file and "
            "label, allowed: one, or the path of one"
        )
    if tables:
        return table(Path(tables[0]), fraction, seed, several)
    if not any(x.is_dir() for x in entries):
        raise ValueError(f"`path`: {shown(path)} has no folders, allowed: {LAYOUTS}")
    return classes_alone(path, fraction, seed, several)


LAYOUTS = (
    "a folder that holds train/ and val/, or a folder for each class, or a CSV file with the "
    "columns file and label"
)


def official(path):
    """The official layout: `train/<class>/<image>` and `val/<class>/<image>`.

    The classes are the sorted names of `train`'s folders.
    """
    there = [name for name in VALIDATION if (path / name).is_dir()]
    if not there:
        raise ValueError(
            f"`path`: {shown(path)} holds train/ alone, allowed: {', '.join(VALIDATION)} beside it"
        )
    train, validation = path / TRAIN, path / there[0]
    names, others = class_folders(train)
    found, others_there = class_folders(validation)
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ValueError(
            f"`path`: {shown(validation)} has the classes {listed(unknown)}, allowed: those of "
            f"{shown(train)}"
        )
    splits, notes = [], [f"{name}/ is not used, but {there[0]}/" for name in there[1:]]
    for split, classes in ((train, names), (validation, found)):
        files, unused = images_of(split, classes)
        others += unused
        empty = [name for name in names if not files.get(name)]
        if len(empty) == len(names) or (empty and split == train):
            raise empty_classes(split, empty, unused)
        if empty:
            notes.append(f"no image in {shown(split)} is of the classes {listed(empty)}")
        splits.append(encoded_files(split, [files.get(name, []) for name in names]))
    notes += not_used(others + others_there)
    return Source(names, splits[0], splits[1], tuple(notes))


def classes_alone(path, fraction, seed, several):
    """`<class>/<image>`: of each class a part is for validation."""
    names, others = class_folders(path)
    splits = [name for name in names if name.lower() in SPLITS]
    if splits or len(names) == 1:
        what = listed(splits) if splits else f"{shown(names[0])} alone"
        raise ValueError(f"`path`: {shown(path)} holds the folders {what}, allowed: {LAYOUTS}")
    mark = several_labels.SEPARATOR
    if several and (marked := [name for name in names if mark in name]):
        raise ValueError(
            f"`path`: {shown(path)} has the classes {listed(marked)}, allowed: names without "
            f"{mark}, which separates labels in the split.csv of such a run"
        )
    files, unused = images_of(path, names)
    empty = [name for name in names if not files[name]]
    if empty:
        raise empty_classes(path, empty, unused)
    found = [(os.path.relpath(file, path), (name,)) for name in names for file in files[name]]
    return drawn_source(path, names, found, tuple(not_used(others + unused)), fraction, seed)


def drawn_source(root, names, found, notes, fraction, seed, several=False):
    """A `Source` of pairs (path relative to a folder, labels), with a part for validation."""
    chosen, note = drawn_validation([x for x, _ in found], [x for _, x in found], fraction, seed)
    pairs = list(zip(found, chosen, strict=True))
    parts = [[x for x, is_chosen in pairs if is_chosen == kind] for kind in (False, True)]
    train, validation = (split_of(root, names, part, several) for part in parts)
    drawn = tuple(
        (
            os.path.abspath(os.path.join(root, file)),
            several_labels.SEPARATOR.join(labels),
            VALIDATION[0] if is_chosen else TRAIN,
        )
        for (file, labels), is_chosen in pairs
    )
    notes = (*notes, note, *not_judged(VALIDATION[0], *map(labels_in, parts)))
    return Source(names, train, validation, notes, drawn)


def labels_in(found):
    """The set of all labels in pairs (path, labels)."""
    return {label for _, labels in found for label in labels}


def not_judged(split, trained, judged):
    """A sentence on the classes of which no image is for validation, if there are some."""
    missing = sorted(trained - judged)
    return [f"no image in {split} is of the classes {listed(missing)}"] if missing else []


def split_of(root, names, found, several):
    """The `Files` of pairs (path relative to a folder, labels)."""
    if several:
        rows = several_labels.rows_of([labels for _, labels in found], names)
        return labeled_files(root, [os.path.join(root, file) for file, _ in found], rows)
    of_class: dict = {name: [] for name in names}
    for file, [name] in found:
        of_class[name].append(os.path.join(root, file))
    return encoded_files(root, list(of_class.values()))


# ---- a CSV file ---------------------------------------------------------------------------------
def table(path, fraction, seed, several):
    """The rows `file,label` of a CSV file, and perhaps `split`; files are relative to its folder.

    The classes are the distinct labels, sorted as the names of folders are. With `several` an image
    has any number of them.
    """
    rows, has_split = rows_of(path, several)
    found = [(file, labels) for file, labels, _ in rows]
    names = tuple(sorted(labels_in(found)))
    if not names:
        raise ValueError(f"`path`: {shown(path)} has no label, allowed: at least one")
    same = Counter(os.path.normpath(path.parent / file) for file, _ in found)
    twice = [file for file, n in same.items() if n > 1]
    if twice:
        raise ValueError(
            f"`path`: {shown(path)} names {shown(twice[0])} more than once, allowed: a row for "
            "each file"
        )
    with ThreadPoolExecutor(16) as pool:  # of a network's disk, each takes a while
        there = pool.map(os.path.isfile, [path.parent / file for file, _ in found])
        gone = [file for (file, _), is_there in zip(found, there, strict=True) if not is_there]
    if gone:
        raise ValueError(
            f"`path`: {shown(path)} names {len(gone)} files that are not there, the first "
            f"{shown(gone[0])}, allowed: paths relative to its folder"
        )
    notes = [] if several else not_divided(names)
    if not has_split:
        return drawn_source(path.parent, names, found, tuple(notes), fraction, seed, several)
    kinds = {split for _, _, split in rows}
    unknown = kinds - {TRAIN, *VALIDATION}
    given = [x for x in VALIDATION if x in kinds]
    if unknown or TRAIN not in kinds or not given:
        wrong = ", ".join(shown(x) for x in sorted(unknown or kinds)) or "nothing"
        raise ValueError(
            f"`path`: the column split of {shown(path)} has {wrong}, allowed: train and one of "
            f"{', '.join(VALIDATION)}"
        )
    train, validation = (
        [(file, labels) for file, labels, split in rows if split == kind]
        for kind in (TRAIN, given[0])
    )
    trained, judged = labels_in(train), labels_in(validation)
    names = tuple(name for name in names if name in trained)
    if untrained := sorted(judged - trained):
        raise ValueError(
            f"`path`: {shown(path)} has the labels {listed(untrained)} in {given[0]}, allowed: "
            "those of train"
        )
    notes += [f"images of the split {x} are not used, but {given[0]}" for x in given[1:]]
    notes += not_judged(given[0], trained, judged)
    first, second = (split_of(path.parent, names, x, several) for x in (train, validation))
    return Source(names, first, second, tuple(notes))


def not_divided(names):
    """A sentence on the labels that are one name but look like several, if there are some."""
    mark = several_labels.SEPARATOR
    count = sum(mark in name for name in names)
    note = (
        f"{count} labels have a {mark} in them and are names of one class each; several labels an "
        "image need train.loss sigmoid"
    )
    return [note] if count else []


def head_of(reader):
    """The names of the columns of an open CSV file."""
    return [name.strip() for name in next(reader, [])]


def is_table(path):
    """Whether a file is a CSV file with the columns that are needed."""
    try:
        with opened_table(path) as file:
            return set(COLUMNS) <= set(head_of(csv.reader(file)))
    except (csv.Error, OSError):
        return False


def opened_table(path):
    """The open text file; names of files need not be UTF-8."""
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")


def rows_of(path, several):
    """The file, the labels and the split of each row of a CSV file; whether it gives splits."""
    try:
        with opened_table(path) as file:
            reader = csv.reader(file, strict=True)
            head = head_of(reader)
            wrong = [name for name in COLUMNS if head.count(name) != 1]
            if wrong or head.count(OPTIONAL) > 1:
                raise ValueError(
                    f"`path`: {shown(path)} has the columns {', '.join(map(shown, head)) or 'none'}"
                    f", allowed: {' and '.join(COLUMNS)}, each once, and perhaps {OPTIONAL}"
                )
            file_column, label_column = (head.index(x) for x in COLUMNS)
            split = head.index(OPTIONAL) if OPTIONAL in head else None
            rows = []
            for row in filter(None, reader):
                row = [cell.strip() for cell in row]
                name, cell = (row[i] if i < len(row) else "" for i in (file_column, label_column))
                if len(row) != len(head) or not (name and (cell or several)):
                    raise ValueError(
                        f"`path`: line {reader.line_num} of {shown(path)} has {len(row)} cells, "
                        f"allowed: {len(head)}, with a file and a label"
                    )
                try:
                    labels = several_labels.of_cell(cell) if several else (cell,)
                except ValueError as error:
                    where = f"line {reader.line_num} of {shown(path)}"
                    raise ValueError(f"`path`: {where} has {error}") from error
                rows.append((name, labels, "" if split is None else row[split]))
    except (csv.Error, OSError) as error:
        raise ValueError(f"`path`: {shown(path)} cannot be read: {error}") from error
    if not rows:
        raise ValueError(f"`path`: {shown(path)} has no rows, allowed: one for each image")
    return rows, split is not None


# ---- what is in a folder ------------------------------------------------------------------------
def class_folders(path):
    """The names of a split's folders, sorted; and its other entries, as `images_below` has them."""
    entries = visible(path)[::-1]
    names = tuple(entry.name for entry in entries if entry.is_dir())
    others = [("in no class folder", entry.path) for entry in entries if not entry.is_dir()]
    return names, others


def images_of(split, names):
    """The images of each class; and what else is in the classes' folders."""
    files, unused = {}, []
    for name in names:
        files[name], more = images_below(split / name)
        unused += more
    return files, unused


def empty_classes(split, empty, unused):
    """The error of classes without an image."""
    of = f" of the classes {listed(empty)}" if empty else ""
    what = f" ({in_words(unused)} are there)" if unused else ""
    return ValueError(
        f"`path`: {shown(split)} has no images{of}{what}, allowed: <class>/<image> ending in one "
        f"of {', '.join(ENDINGS)}; in train/ of each class"
    )


def not_used(others):
    """A sentence on the entries that are not used, if there are some."""
    return [f"{len(others)} files or links are not used: {in_words(others)}"] if others else []


def listed(names):
    """Some names of classes in a message."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(shown, names[:NAMED])) + more


def encoded_files(root, paths):
    """The `Files` below a folder, from the paths of each class."""
    files = [file for found in paths for file in found]
    labels = np.repeat(np.arange(len(paths), dtype="int32"), [len(found) for found in paths])
    return labeled_files(root, files, labels)


def labeled_files(root, files, labels):
    """The `Files` below a folder, from the path and the label of each."""

    def read(indices):
        chosen = [files[i] for i in indices]
        return [content_of(file) for file in chosen], labels[indices], chosen

    return Files(len(files), read, files, root, labels)


def content_of(file):
    """A file's bytes; none of one that cannot be read or is too large, which counts as damaged."""

    def opener(path, flags):  # what has become a pipe meanwhile would wait for a writer
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    with contextlib.suppress(OSError), open(file, "rb", opener=opener) as opened:
        found = os.fstat(opened.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_size <= MOST_BYTES:
            return opened.read()
    return b""
