"""Folders of classes alone, other names of the validation, CSV files."""

import csv
import os

import numpy as np
import pytest
from helpers.photos import folder

from keras_smlp.data import sources
from keras_smlp.training.report import write_split

pytestmark = pytest.mark.once


def classes_alone(path, **counts):
    """`<class>/<number>.jpg`, empty files: nothing decodes them here."""
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            (path / name / f"{i}.jpg").write_bytes(f"{name}{i}".encode())
    return path


def written(path, *rows, head=("file", "label", "split")):
    """A CSV file beside what `classes_alone` makes."""
    with open(path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def names_of(split):
    return split.read(np.arange(len(split)))[2]


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_other_names_of_the_validation(tmp_path, name):
    path = folder(tmp_path / "data")
    (path / "val").rename(path / name)
    source = sources.load("folder", path)
    assert (len(source.train), len(source.validation)) == (8, 6) and not source.notes
    assert names_of(source.validation)[0].startswith(str(path / name))


def test_of_several_splits_the_first_is_used(tmp_path):
    path = folder(tmp_path / "data")
    (path / "test").mkdir()
    source = sources.load("folder", path)
    assert source.notes == ("test/ is not used, but val/",)
    assert str(path / "val") in names_of(source.validation)[0]


def test_classes_alone_are_split_by_class_the_same_way_each_time(tmp_path):
    path = classes_alone(tmp_path / "data", cat=10, dog=25, owl=2)
    source = sources.load("folder", path)
    assert source.class_names == ("cat", "dog", "owl")
    labels = source.validation.read(np.arange(len(source.validation)))[1]
    assert np.bincount(labels).tolist() == [2, 5, 1]  # a fifth, rounded; one at least
    train, validation = names_of(source.train), names_of(source.validation)
    assert sorted(train + validation) == sorted(map(str, path.rglob("*.jpg")))
    again = sources.load("folder", path)
    assert names_of(again.validation) == validation
    assert names_of(sources.load("folder", path, seed=1).validation) != validation
    half = sources.load("folder", path, fraction=0.5)
    assert len(half.validation) == 5 + 12 + 1
    # an image more moves at most one other
    (path / "cat" / "10.jpg").touch()
    assert len(set(names_of(sources.load("folder", path).validation)) ^ set(validation)) <= 2


def test_a_drawn_split_is_repeated_by_its_rows(tmp_path):
    path = classes_alone(tmp_path / "data", **{"2": 6, "10": 6, "01": 2})
    (path / "2" / os.fsdecode(b"\xff.jpg")).touch()
    source = sources.load("folder", path)
    assert source.class_names == ("01", "10", "2")
    assert source.notes == ("no split is given: 3 of 15 images are for validation",)
    (tmp_path / "elsewhere").mkdir()
    write_split(tmp_path / "elsewhere" / "split.csv", source.drawn)
    again = sources.load("folder", tmp_path / "elsewhere" / "split.csv")
    assert again.class_names == source.class_names and again.drawn == ()
    for a, b in ((again.train, source.train), (again.validation, source.validation)):
        indices = np.arange(len(a))
        assert a.read(indices)[2] == b.read(indices)[2]
        assert a.read(indices)[1].tolist() == b.read(indices)[1].tolist()


def test_a_csv_file_with_splits(tmp_path):
    path = classes_alone(tmp_path / "data", a=3, b=3)
    rows = [(f"{x}/{i}.jpg", {"a": 10, "b": 9}[x], ("train", "val", "test")[i]) for x in "ab"
            for i in range(3)]  # fmt: skip
    source = sources.load("folder", written(path, *rows))
    assert source.class_names == ("10", "9")  # as folders are sorted
    contents, labels, _ = source.train.read(np.arange(2))
    assert contents == [b"a0", b"b0"] and labels.tolist() == [0, 1]
    assert source.notes == ("images of the split test are not used, but val",)


def test_a_csv_file_without_splits(tmp_path):
    path = classes_alone(tmp_path / "data", a=4, b=4)
    rows = [(f"{x}/{i}.jpg", f" {x}" if i else x) for x in "ab" for i in range(4)]
    source = sources.load("folder", written(path, *rows, head=("\ufefffile", " label")))
    assert source.class_names == ("a", "b")
    assert (len(source.train), len(source.validation), len(source.drawn)) == (6, 2, 8)


ROWS = [("a/0.jpg", "a", "train"), ("a/1.jpg", "a", "val")]


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        (("file", "label", "file"), ROWS, "has the columns file, label, file, allowed"),
        (("file", "label", "split"), [], "has no rows, allowed: one for each image"),
        (("file", "label"), ROWS, "line 2 of .* has 3 cells, allowed: 2"),
        (("file", "label", "split"), [("", "a", "train")], "line 2 of .* with a file and a label"),
        (("file", "label", "split"), [*ROWS, ROWS[0]], "names .*a/0.jpg more than once"),
        (
            ("file", "label", "split"),
            [*ROWS, ("./a/0.jpg", "a", "val")],
            "names .*a/0.jpg more than once",
        ),
        (("file", "label", "split"), [*ROWS, ("no.jpg", "a", "val")], "names 1 files that are not"),
        (("file", "label", "split"), ROWS[:1], "the column split of .* has train, allowed"),
        (
            ("file", "label", "split"),
            [*ROWS, ("a/2.jpg", "b", "dev")],
            "the column split of .* has dev, allowed: train and one of val, valid",
        ),
        (
            ("file", "label", "split"),
            [*ROWS, ("a/2.jpg", "b", "val")],
            "has the labels b in val, allowed: those of train",
        ),
        (("file", "label"), [("a/0.jpg", "a")], "a single image of the class a, allowed"),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused(tmp_path, head, rows, message):
    path = written(classes_alone(tmp_path / "data", a=3), *rows, head=head)
    with pytest.raises(ValueError, match=f"^`path`: .*{message}") as found:
        sources.load("folder", path)
    assert str(found.value).isprintable()


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="^`path`: .* is no folder, allowed: a folder that holds"):
        sources.load("folder", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="^`path`: .* has no folders, allowed"):
        sources.load("folder", tmp_path)
    path = classes_alone(tmp_path / "data", a=3, b=1)
    with pytest.raises(ValueError, match="a single image of the class b, allowed: at least 2"):
        sources.load("folder", path)
    (path / "history.csv").write_text("epoch,loss\n")
    for name in ("x.csv", "y.CSV"):
        (path / name).write_text("label,file\n")
    with pytest.raises(ValueError, match="holds 2 CSV files with the columns file and label, all"):
        sources.load("folder", path)
    (path / "train").mkdir()
    with pytest.raises(ValueError, match="holds train/ alone, allowed: val, valid, validation"):
        sources.load("folder", path)


@pytest.mark.parametrize("names", [("Train", "Test"), ("a", "training"), ("only",)])
def test_folders_that_are_no_classes_are_refused(tmp_path, names):
    path = classes_alone(tmp_path / "data", **dict.fromkeys(names, 3))
    with pytest.raises(ValueError, match="^`path`: .* holds the folders .*, allowed: a folder"):
        sources.load("folder", path)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("file,class\n")
    with pytest.raises(ValueError, match="has the columns file, class, allowed: file and label"):
        sources.load("folder", tmp_path / "a.csv")
