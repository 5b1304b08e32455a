"""Several labels an image: CSV and .npz files, the drawn split, the listing, the targets."""

import csv

import numpy as np
import pytest
from helpers.photos import folder

tf = pytest.importorskip("tensorflow", reason="the data are read by tf.data")

from keras_smlp.data import fingerprint, labels, pipeline, sources, splits  # noqa: E402
from keras_smlp.data.decode import BadFiles  # noqa: E402 - see above
from keras_smlp.data.recipe import DataConfig  # noqa: E402
from keras_smlp.training.report import write_split  # noqa: E402

pytestmark = pytest.mark.once

PLAIN = {"crop": "center", "flip": 0.0, "augment": "none", "erase": 0.0, "mixup": 0.0}
PLAIN |= {"cutmix": 0.0, "label_smoothing": 0.0, "repeats": 1, "group_size": 4}


def written(path, *rows, head=("file", "label", "split")):
    """A CSV file of rows, and the empty files that it names."""
    for file, *_ in rows:
        (path / file).touch()
    with open(path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def load(path, **options):
    return sources.load("folder", path, several=True, **options)


def read(split):
    """The rows of all images of a split and the ends of their names."""
    _, found, names = split.read(np.arange(len(split)))
    return found.tolist(), [name.rpartition("/")[2] for name in names]


# ---- files --------------------------------------------------------------------------------------


def test_a_csv_file_names_any_number_of_labels(tmp_path):
    rows = [("1.jpg", "dog; cat", "train"), ("2.jpg", "", "train"), ("3.jpg", "owl", "train")]
    rows += [("4.jpg", "cat", "val"), ("5.jpg", "", "val"), ("6.jpg", "dog", "test")]
    source = load(written(tmp_path, *rows))
    assert source.class_names == ("cat", "dog", "owl") and source.several
    assert read(source.train) == (
        [[1, 1, 0], [0, 0, 0], [0, 0, 1]],
        ["1.jpg", "2.jpg", "3.jpg"],
    )
    assert read(source.validation) == ([[1, 0, 0], [0, 0, 0]], ["4.jpg", "5.jpg"])
    assert source.train.labels.dtype == np.uint8 and source.train.labels.shape == (3, 3)
    assert source.notes == (
        "images of the split test are not used, but val",
        "no image in val is of the classes dog, owl",
    )


@pytest.mark.parametrize("columns", [3, 2])
def test_without_several_a_cell_is_one_label_and_that_is_said(tmp_path, columns):
    rows = [("1.jpg", "a;b", "train"), ("2.jpg", "a", "train")]
    rows += [("3.jpg", "a", "val"), ("4.jpg", "a;b", "val")]
    head = ("file", "label", "split")[:columns]
    written(tmp_path, *(row[:columns] for row in rows), head=head)
    source = sources.load("folder", tmp_path)
    assert source.class_names == ("a", "a;b") and not source.several
    assert source.notes[0] == (
        "1 labels have a ; in them and are names of one class each; several labels an image need "
        "train.loss sigmoid"
    )
    assert len(source.notes) == (1 if columns == 3 else 2)
    assert not any("train.loss" in note for note in load(tmp_path).notes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("1.jpg", "a;", "train")],
            "line 2 of .* has the label a;, allowed: names separated by ;",
        ),
        ([("1.jpg", "a;;b", "train")], "line 2 of .* has the label a;;b, allowed"),
        ([("1.jpg", "", "train"), ("2.jpg", "", "val")], "has no label, allowed: at least one"),
        (
            [("1.jpg", "a", "train"), ("2.jpg", "a;b", "val")],
            "has the labels b in val, allowed: those of train",
        ),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=f"^`path`: .*{message}"):
        load(written(tmp_path, *rows))


def test_a_class_folder_that_would_be_two_labels_in_its_split_is_refused(tmp_path):
    for name in ("cat;dog", "owl"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.jpg").touch()
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"`path`: {tmp_path} has the classes cat;dog, allowed: names without ;, which separates "
        "labels in the split.csv of such a run"
    )
    # one label an image is read back as it was written
    source = sources.load("folder", tmp_path)
    write_split(tmp_path / "split.csv", source.drawn)
    again = sources.load("folder", tmp_path / "split.csv")
    assert again.class_names == source.class_names == ("cat;dog", "owl")


def test_folders_have_one_label_an_image(tmp_path):
    source = load(folder(tmp_path / "data"))
    assert not source.several and source.train.labels.ndim == 1


def test_arrays_of_zeros_and_ones(tmp_path):
    images = np.zeros((3, 4, 4), "uint8")
    rows = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    content = {"train_images": images, "train_labels": rows, "validation_images": images[:1]}
    content |= {"validation_labels": rows[:1].astype(bool)}
    np.savez(tmp_path / "a.npz", **content, class_names=["x", "y", "z"])
    source = sources.load("npz", tmp_path / "a.npz", several=True)
    assert source.class_names == ("x", "y", "z") and source.several
    assert source.train.labels.tolist() == rows.tolist()
    assert source.validation.labels.dtype == np.uint8
    with pytest.raises(ValueError, match=r"train_labels .* allowed: integers \(3,\), at least one"):
        sources.load("npz", tmp_path / "a.npz")
    for changed, message in (
        ({"train_labels": rows * 2}, r"integers \(3,\), or zeros and ones \(3, classes\), at"),
        ({"validation_labels": rows[:1, :2]}, r"validation_labels .* allowed: \(1, 3\), as the"),
        ({"validation_labels": np.array([1])}, r"validation_labels .* allowed: \(1, 3\), as the"),
        ({"class_names": ["x"]}, r"train_labels .* allowed: \(3, 1\), as the other"),
    ):
        np.savez(tmp_path / "b.npz", **{**content, **changed})
        with pytest.raises(ValueError, match=f"^`path`: .*{message}"):
            sources.load("npz", tmp_path / "b.npz", several=True)


# ---- the drawn split ----------------------------------------------------------------------------


def test_a_drawn_split_has_a_part_of_each_class_and_can_be_repeated(tmp_path):
    rng = np.random.default_rng(0)
    names = ["rare", "some", "many", "most"]
    found = [np.flatnonzero(rng.random(4) < (0.06, 0.2, 0.5, 0.9)) for _ in range(200)]
    rows = [(f"{i}.jpg", labels.in_words(x, names)) for i, x in enumerate(found)]
    (tmp_path / "data").mkdir()
    source = load(written(tmp_path / "data", *rows, head=("file", "label")))
    train, judged = (
        dict(zip(source.class_names, np.sum(split.labels, axis=0), strict=True))
        for split in (source.train, source.validation)
    )
    for name in names:
        validation, every = judged[name], train[name] + judged[name]
        assert every == sum(name in x.split(";") for _, x in rows)
        if name == "rare":  # decided on first
            assert validation == round(0.2 * every)
        assert 0.15 * every < validation < 0.3 * every, name
    assert read(load(tmp_path / "data").validation) == read(source.validation)
    assert read(load(tmp_path / "data", seed=1).validation) != read(source.validation)
    write_split(tmp_path / "split.csv", source.drawn)
    again = load(tmp_path / "split.csv")
    for split in ("train", "validation"):
        assert read(getattr(again, split)) == read(getattr(source, split))


def test_every_class_keeps_an_image_to_train_on():
    """Also where rarer classes have chosen all images of a class."""
    found = [(x, *more) for x in "abc" for more in ((), ("z",))]
    for seed in range(40):
        chosen, _ = splits.drawn_validation(list("012345"), found, 0.5, seed)
        of_class = {x: [c for c, y in zip(chosen, found, strict=True) if x in y] for x in "abcz"}
        assert not any(all(x) for x in of_class.values())
    one = [("a",), ("a",), ()]
    assert not splits.drawn_validation(list("012"), one, 0.9, 0)[0][2]  # no label, one image
    with pytest.raises(ValueError, match="^`path`: a single image of the class b, allowed: at"):
        splits.drawn_validation(list("012"), [("a",), ("a", "b"), ("a",)], 0.5, 0)


def test_images_of_one_label_each_are_split_as_those_of_their_class():
    names = [str(i) for i in range(50)]
    own = ["ab"[i % 3 == 0] for i in range(50)]
    plain, _ = splits.drawn_validation(names, own, 0.2, 3)
    several, _ = splits.drawn_validation(names, [(x,) for x in own], 0.2, 3)
    assert plain.tolist() == several.tolist() and plain.sum() == 3 + 7


# ---- what depends on labels ---------------------------------------------------------------------


def test_a_changed_label_is_noticed(tmp_path):
    rows = [("1.jpg", "a;b", "train"), ("2.jpg", "a", "train"), ("3.jpg", "a", "val")]
    before = fingerprint.listing(load(written(tmp_path, *rows)))
    again = fingerprint.listing(load(written(tmp_path, *rows)))
    assert fingerprint.changes(before, again) == ("", True)
    rows[1] = ("2.jpg", "a;b", "train")
    after = fingerprint.listing(load(written(tmp_path, *rows)))
    assert fingerprint.changes(before, after) == ("training images: 1 changed (2.jpg)", True)


@pytest.mark.parametrize("in_files", [False, pytest.param(True, marks=pytest.mark.deep)])
def test_targets_are_smoothed_and_mixed_rows(tmp_path, in_files):
    rows = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]] * 2, "uint8")
    if in_files:  # one of them is damaged: another image takes its place, with its labels
        path = folder(tmp_path / "data", train=4)
        files = sorted((path / "train").rglob("*.JPEG"))
        files[1].write_text("no image")
        given = [(str(x), labels.in_words(np.flatnonzero(row), "abc"), "train")
                 for x, row in zip(files, rows, strict=True)]  # fmt: skip
        given.append((str(next((path / "val").rglob("*.JPEG"))), "a", "val"))
        with open(tmp_path / "list.csv", "w", newline="") as file:
            csv.writer(file).writerows([("file", "label", "split"), *given])
        split = load(tmp_path / "list.csv").train
    else:
        split = splits.Arrays(np.arange(8 * 48, dtype="uint8").reshape(8, 4, 4, 3), rows)

    def targets(**changed):
        recipe = DataConfig(name="digits", **{**PLAIN, **changed})
        batches = pipeline.train_batches(split, recipe, 4, 3, 4, 0, BadFiles())
        return np.concatenate([y for _, y in batches(0, range(2)).as_numpy_iterator()])

    plain = targets()
    assert plain.dtype == np.float32 and plain.shape == (8, 3)
    expected = rows.tolist()
    if in_files:
        expected[1] = expected[2]
    assert sorted(plain.tolist()) == sorted(expected)
    smooth = targets(label_smoothing=0.3)
    np.testing.assert_allclose(smooth, plain * 0.7 + 0.1, rtol=1e-6)
    mixed = targets(mixup=1.0).reshape(2, 4, 3)
    groups = plain.reshape(2, 4, 3)
    for got, own in zip(mixed, groups, strict=True):
        other = own[::-1]
        differ = own != other
        [part] = np.unique(np.round((got - other)[differ] / (own - other)[differ], 5))
        np.testing.assert_allclose(got, part * own + (1 - part) * other, atol=1e-5)


def test_an_evaluation_gets_the_rows():
    rows = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]], "uint8")
    split = splits.Arrays(np.zeros((3, 4, 4, 3), "uint8"), rows)
    recipe = DataConfig(name="digits", **PLAIN)
    [(_, found, indices, _)] = pipeline.validation_batches(
        split, recipe, 4, 4, BadFiles()
    ).as_numpy_iterator()
    assert indices.tolist() == [0, 1, 2, -1] and found[:3].tolist() == rows.tolist()
