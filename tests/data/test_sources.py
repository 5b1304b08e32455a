"""Where images come from: digits, arrays, folders, TensorFlow Datasets."""

import os
import re
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.photos import encoded, folder, imagenet_archives, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from keras_smlp.data import fingerprint, sources
from keras_smlp.inference import photos

pytestmark = pytest.mark.once


def arrays(path, **changed):
    """An .npz file of three training images and two others, of two classes."""
    content = {
        "train_images": np.arange(3 * 4 * 5 * 3, dtype="uint8").reshape(3, 4, 5, 3),
        "train_labels": np.array([0, 1, 1]),
        "validation_images": np.zeros((2, 4, 5, 3), "uint8"),
        "validation_labels": np.array([1, 0], "uint8"),
        **changed,
    }
    np.savez(path / "a.npz", **{k: v for k, v in content.items() if v is not None})
    return str(path / "a.npz")


# ---- digits -------------------------------------------------------------------------------------


def test_digits_are_all_of_scikit_learns_split_by_class():
    digits = sources.load("digits")
    assert digits.class_names == tuple("0123456789")
    assert (len(digits.train), len(digits.validation)) == (1437, 360)
    for split in (digits.train, digits.validation):
        assert split.images.shape == (len(split), 8, 8, 3) and split.images.dtype == np.uint8
        assert split.labels.shape == (len(split),) and split.labels.dtype == np.int32
        assert (split.images == split.images[..., :1]).all()
    assert set(np.bincount(digits.validation.labels)) <= {35, 36, 37}
    assert digits.validation.labels[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]
    original = load_digits()
    both = np.concatenate([digits.train.images, digits.validation.images])[..., 0]
    labels = np.concatenate([digits.train.labels, digits.validation.labels])
    expected = np.round(original.images / 16 * 255)
    assert sorted((label, image.tolist()) for label, image in zip(labels, both, strict=True)) == (
        sorted((t, image.tolist()) for t, image in zip(original.target, expected, strict=True))
    )


# ---- .npz ---------------------------------------------------------------------------------------


def test_arrays_of_a_file(tmp_path):
    source = sources.load("npz", arrays(tmp_path))
    assert source.class_names == ("0", "1")
    assert source.train.labels.tolist() == [0, 1, 1] and source.train.labels.dtype == np.int32
    images, labels, names = source.train.read(np.array([2, 0]))
    np.testing.assert_array_equal(images[1], np.arange(60, dtype="uint8").reshape(4, 5, 3))
    assert labels.tolist() == [1, 0] and names == ["image 2", "image 0"]


def test_gray_arrays_and_class_names(tmp_path):
    gray = np.arange(60, dtype="uint8").reshape(3, 4, 5)
    path = arrays(tmp_path, train_images=gray, class_names=np.array(["cat", "dog", "owl"]))
    source = sources.load("npz", path)
    assert source.class_names == ("cat", "dog", "owl")
    np.testing.assert_array_equal(source.train.images[..., 2], gray)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels": None}, "allowed: a file with train_images and train_labels"),
        ({"train_images": np.zeros((3, 4, 5, 3))}, r"train_images .* are float64 \(3, 4, 5, 3\)"),
        ({"train_images": np.zeros((3, 4, 5, 2), "uint8")}, r"allowed: uint8 \(n, height, width"),
        ({"train_labels": np.zeros(2, int)}, r"train_labels .* allowed: integers \(3,\)"),
        ({"train_labels": np.zeros(3)}, "train_labels .* are float64"),
        ({"class_names": np.array(["cat"])}, "has labels from 0 to 1, allowed: 0 to 0"),
        (
            {"class_names": np.array("cat")},
            r"class_names of .* are <U3 \(\), allowed: \(classes,\)",
        ),
        (
            {"class_names": np.array([["cat", "dog"]])},
            r"are <U3 \(1, 2\), allowed: \(classes,\), a n",
        ),
        ({"train_labels": np.array([0, -1, 0])}, "has labels from -1 to 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=rf"^`path`: .*{message}"):
        sources.load("npz", arrays(tmp_path, **changed))


def test_no_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^`path`: .* is no file"):
        sources.load("npz", tmp_path / "nothing.npz")


def changed_in_its_values(content):
    at = content.index(b"NUMPY") + 200  # past the header: only the checksum notices
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[: len(content) // 2], "File is not a zip file"),
        (changed_in_its_values, "Bad CRC-32 for file 'train_images.npy'"),
        (lambda content: b"", "File is not a zip file"),
        (lambda content: content[content.index(b"\x93NUMPY") :][:400], "File is not a zip file"),
        (lambda content: b"no array", "File is not a zip file"),
    ],
    ids=["truncated", "changed", "empty", "an array alone", "text"],
)
def test_a_file_of_arrays_that_is_damaged_is_refused(tmp_path, damage, reason):
    path = Path(arrays(tmp_path))
    path.write_bytes(damage(path.read_bytes()))
    refused_with(reason, path)


def test_arrays_of_python_objects_are_refused(tmp_path):
    path = arrays(tmp_path, train_labels=np.array([{}, {}, {}]))
    refused_with("Object arrays cannot be loaded when allow_pickle=False", path)


def refused_with(reason, path):
    with pytest.raises(ValueError) as caught:
        sources.load("npz", path)
    start = f"`path`: {path} cannot be read ("
    end = "), allowed: an .npz file, as numpy.savez writes it"
    message = str(caught.value)
    assert message.startswith(start) and message.endswith(end)
    assert reason in message[len(start) : -len(end)]


def test_an_archive_of_other_files_has_no_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("train_images", "train_labels"):
            archive.writestr(name, "text")
    with pytest.raises(ValueError, match="holds no arrays, allowed: a file with train_images and"):
        sources.load("npz", tmp_path / "a.npz")


# ---- folders ------------------------------------------------------------------------------------


def test_a_folder_in_the_official_layout(tmp_path):
    path = folder(tmp_path / "data")
    (path / "train" / "n01" / "notes.txt").write_text("no image")
    (path / "train" / "n01" / "more").mkdir()
    (path / "train" / "n01" / "more" / "a.PNG").write_bytes(encoded(photo("flower"), "PNG"))
    source = sources.load("folder", path)
    assert source.class_names == ("n01", "n02")  # sorted
    assert (len(source.train), len(source.validation)) == (9, 6)
    contents, labels, names = source.train.read(np.arange(9))
    assert labels.tolist() == [0] * 5 + [1] * 4
    assert names[0] == str(path / "train" / "n01" / "more" / "a.PNG")  # sorted by path
    assert contents[5] == (path / "train" / "n02" / "n02_0.JPEG").read_bytes()


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"allowed: a folder that holds train/ and val/"):
        sources.load("folder", tmp_path)
    path = folder(tmp_path / "data")
    (path / "val" / "n03").mkdir()
    with pytest.raises(ValueError, match="has the classes n03, allowed: those of"):
        sources.load("folder", path)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "val").mkdir()
    with pytest.raises(ValueError, match="train has no images, allowed: <class>/<image>"):
        sources.load("folder", tmp_path / "empty")


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = folder(tmp_path / "data")
    scandir = os.scandir

    def forbidden(place):
        if str(place).endswith("val"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(ValueError) as caught:
        sources.load("folder", path)
    assert str(caught.value) == (
        f"`path`: {path}/val: Permission denied, allowed: what can be read"
    )


def test_a_class_without_images_is_refused(tmp_path):
    path = folder(tmp_path / "data")
    for name in ("cat", "dog"):
        (path / "train" / name).mkdir()
    (path / "train" / "cat" / "0.heic").touch()
    words = (
        r"train has no images of the classes cat, dog \(1 .heic \(first .*0.heic\) are there\), "
    )
    with pytest.raises(ValueError, match=words):
        sources.load("folder", path)


def test_what_is_not_used_is_said_in_a_sentence(tmp_path):
    path = folder(tmp_path / "data")
    assert sources.load("folder", path).notes == ()
    for name in ("a.heic", "b.HEIC", "notes"):
        (path / "train" / "n01" / name).touch()
    (path / "val" / "list.txt").touch()
    shutil.rmtree(path / "val" / "n02")
    source = sources.load("folder", path)
    assert source.class_names == ("n01", "n02") and set(source.validation.read([0, 1, 2])[1]) == {0}
    assert source.notes == (
        f"no image in {path}/val is of the classes n02",
        f"4 files or links are not used: 2 .heic (first {path}/train/n01/a.heic), "
        f"1 file without an ending (first {path}/train/n01/notes), "
        f"1 in no class folder (first {path}/val/list.txt)",
    )


NAMES = st.one_of(
    st.sampled_from(
        ["a.jpg", "b.PNG", "._0.jpg", ".hidden", "c.heic", "d", "e.tiff", "\udcff.jpg"]
    ),
    st.sampled_from(["$x$.gif", "f\n.bmp", "g.jpg.txt", "h.jfif", ".i.d", "jpg", "k.", "l .jpg"]),
)
ENTRIES = ("file", "pipe", "socket", "link", "broken link", "link to a folder", "folder")


@given(
    classes=st.dictionaries(
        st.sampled_from(["cat", "dog", ".ipynb_checkpoints", "\udc80", "$n$"]),
        st.dictionaries(NAMES, st.sampled_from(ENTRIES), max_size=6),
        min_size=1,
    )
)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_any_folder_gives_its_visible_image_files_or_a_sentence(classes):
    expected, others = {}, 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "elsewhere").mkdir()
        (root / "elsewhere" / "x.jpg").write_bytes(b"x.jpg")
        for split in ("train", "val"):
            for label, entries in classes.items():
                below = root / split / label
                below.mkdir(parents=True)
                for entry, kind in entries.items():
                    taken = make(below / entry, kind, root / "elsewhere")
                    if split == "val" or label.startswith(".") or entry.startswith("."):
                        continue
                    is_image = os.path.splitext(entry)[1].lower() in photos.ENDINGS
                    if kind == "folder":
                        is_image, taken = True, taken / "x.jpg"
                    if is_image and taken:
                        expected.setdefault(label, []).append(taken)
                    else:
                        others += 1
        visible = sorted(x for x in classes if not x.startswith("."))
        if not all(x in expected for x in visible) or not visible:
            with pytest.raises(ValueError, match="^`path`: .*train has no images") as found:
                sources.load("folder", root)
            assert str(found.value).isprintable()
            return
        source = sources.load("folder", root)
        assert source.class_names == tuple(visible)
        contents, labels, names = source.train.read(np.arange(len(source.train)))
        assert names == [str(x) for label in visible for x in sorted(expected[label])]
        assert labels.tolist() == [i for i, x in enumerate(visible) for _ in expected[x]]
        assert contents == [x.read_bytes() for label in visible for x in sorted(expected[label])]
        note = [f"{2 * others} files or links are not used: "] if others else []
        assert [x.partition(": ")[0] + ": " for x in source.notes] == note
        assert all(x.isprintable() for x in source.notes)


def make(path, kind, elsewhere):
    """Makes an entry of a folder; the path where a file can be read there, or `None`."""
    if kind == "file":
        path.write_bytes(os.fsencode(path.name))
    elif kind == "folder":
        path.mkdir()
        (path / "x.jpg").write_bytes(b"below")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "broken link":
        path.symlink_to("nothing")
    elif kind == "link to a folder":
        path.symlink_to(elsewhere)
    else:
        path.symlink_to(elsewhere / "x.jpg")
    return path if kind in ("file", "link", "folder") else None


def test_names_that_are_not_utf_8_go_through_tf_data(tmp_path):
    pipeline = pytest.importorskip("keras_smlp.data.pipeline", reason="the batches are by tf.data")
    path = folder(tmp_path / "data")
    odd = path / "train" / "n01" / "\udcff.jpg"
    (path / "train" / "n01" / "n01_0.JPEG").rename(odd)
    split = sources.load("folder", path).train
    _, labels, names = pipeline.reader(split)(tf_indices(range(8)))
    assert (
        os.fsencode(odd) in names.numpy().tolist() and labels.numpy().tolist() == [0] * 4 + [1] * 4
    )


def tf_indices(values):
    import tensorflow as tf

    return tf.constant(list(values), "int64")


def test_a_file_that_is_gone_or_has_become_something_else_counts_as_damaged(tmp_path):
    path = folder(tmp_path / "data")
    source = sources.load("folder", path)
    files = [path / "val" / "n01" / f"n01_{i}.JPEG" for i in range(3)]
    for file in files:
        file.unlink()
    os.mkfifo(files[1])
    with open(files[2], "wb") as sparse:
        sparse.truncate(2**40)
    assert source.validation.read(np.arange(3))[0] == [b""] * 3


# ---- TensorFlow Datasets ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """TFDS' own imagenet2012 from miniature archives: function from a file format to its folder."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="the data set is prepared by TFDS")
    root = tmp_path_factory.mktemp("tfds")
    manual = imagenet_archives(root / "manual")

    def prepared(file_format):
        path = root / file_format
        builder = tfds.builder("imagenet2012", data_dir=path, file_format=file_format)
        config = tfds.download.DownloadConfig(manual_dir=manual)
        builder.download_and_prepare(download_config=config)
        return path

    return prepared


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_imagenet_prepared_by_tfds(imagenet, file_format):
    source = sources.load("imagenet2012", imagenet(file_format))
    assert len(source.class_names) == 1000 and source.class_names[:2] == ("n01440764", "n01443537")
    assert (len(source.train), len(source.validation)) == (12, 5)
    contents, labels, names = source.train.read(np.arange(12))
    for content, label, name in zip(contents, labels, names, strict=True):
        assert name.startswith(source.class_names[label]) and content[:2] == b"\xff\xd8"
    again, _, [name] = source.train.read(np.array([7]))
    assert again == [contents[7]] and name == names[7]
    names = source.validation.read(np.arange(5))[2]
    assert sorted(names)[0] == "ILSVRC2012_val_00000001.JPEG"
    # by name, version and number, wherever the folder is
    for name, size in fingerprint.entries(source.train):
        assert re.fullmatch(r"imagenet2012/\d\.\d\.\d/imagenet2012-train\.\S+-of-\d+", name)
        assert size > 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_set", "allowed: digits, npz, folder, parquet or a set of TensorFlow"),
        ("coco/2017", "has image, .*, allowed: a set with image and label"),
        ("imagenet2012", "could not be prepared: Manual directory"),
    ],
)
def test_sets_that_cannot_be_had_are_refused(tmp_path, name, message):
    pytest.importorskip("tensorflow_datasets", reason="the data set is prepared by TFDS")
    with pytest.raises(ValueError, match=f"^`name`: {name}.*{message}"):
        sources.load(name, tmp_path, tmp_path / "manual")


def test_a_file_of_records_that_is_cut_is_named(imagenet):
    root = imagenet("tfrecord")
    [path] = root.rglob("imagenet2012-validation.tfrecord*")
    whole, first = path.read_bytes(), 16 + int.from_bytes(path.read_bytes()[:8], "little")
    damaged = {first: 1, first - 1: 0, first + 3: 1, first + 15: 1, first + 100: 1, 0: 0}
    try:
        for size, records in damaged.items():
            path.write_bytes(whole[:size])
            with pytest.raises(ValueError) as caught:
                sources.load("imagenet2012", root)
            assert str(caught.value) == (
                f"`path`: {path} is cut or damaged ({records} whole records), allowed: the 5 that "
                "dataset_info.json says"
            )
        path.write_bytes(b"\xff" * 8 + whole[8:])  # a length beyond the file
        with pytest.raises(ValueError, match="is cut or damaged .0 whole records"):
            sources.load("imagenet2012", root)
    finally:
        path.write_bytes(whole)


def test_the_bytes_are_those_of_the_photo(imagenet):
    source = sources.load("imagenet2012", imagenet("tfrecord"))
    contents, _, names = source.validation.read(np.arange(5))
    for content, name in zip(contents, names, strict=True):
        number = int(name[-13:-5])
        assert content == encoded(photo("china", (98 + number, 80)))
