"""The listing of a data set: any change of its images is noticed and put in words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tensorflow", reason="the data are read by tf.data")

from keras_smlp.data import fingerprint, sources, splits  # noqa: E402 - see above
from keras_smlp.data.fingerprint import changes, listing  # noqa: E402

pytestmark = pytest.mark.once


def folder(path, **files):
    """A source in folders: name -> size of the files in train/a; one file in train/b, val/a."""
    for name in ("train/a", "train/b", "val/a"):
        (path / name).mkdir(parents=True, exist_ok=True)
    for name in ("train/b/1.png", "val/a/1.png"):
        (path / name).write_bytes(b"1")
    for old in (path / "train/a").iterdir():
        old.unlink()
    for name, size in files.items():
        (path / "train" / "a" / f"{name}.png").write_bytes(b"1" * size)
    return listing(sources.load("folder", path))


def test_a_folder_that_moves_is_the_same(tmp_path):
    one, other = folder(tmp_path / "x", p=1, q=2), folder(tmp_path / "long" / "y", p=1, q=2)
    assert one == other and changes(one, other) == ("", True)


def test_the_words(tmp_path):
    one = folder(tmp_path, p=1, q=2, r=3)
    other = folder(tmp_path, q=2, r=4, s=5, t=6, **{"u\n": 7})
    added = "3 added (a/s.png and others), 1 removed (a/p.png), 1 changed (a/r.png)"
    assert changes(one, other) == (f"training images: {added}", True)
    (tmp_path / "train" / "c\n").mkdir()
    (tmp_path / "train" / "c\n" / "p.png").touch()
    words, fits = changes(other, listing(sources.load("folder", tmp_path)))
    words_of_class = "classes: 1 added (c\\n); training images: 1 added (c\\n/p.png)"
    assert words == words_of_class and not fits


def test_images_in_memory():
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), "uint8")
    labels = np.arange(4, dtype="int32") % 2

    def source(images, labels):
        arrays = splits.Arrays(images, labels)
        return listing(splits.Source(("0", "1"), arrays, arrays))

    one = source(images, labels)
    assert changes(one, source(images.copy(order="F"), labels)) == ("", True)
    words = "training images: {0}; validation images: {0}"
    for changed, what in (
        (source(images[:3], labels[:3]), "1 removed (image 3)"),
        (source(images, labels[[0, 1, 2, 0]]), "1 changed (image 3)"),
        (source(images[[0, 2, 1, 3]], labels), "2 changed (image 1 and others)"),
    ):
        assert changes(one, changed) == (words.format(what), True)


def test_files_of_which_nothing_is_known_are_counted():
    def source(count):
        files = splits.Files(count, None)
        return listing(splits.Source(("0",), files, files))

    assert changes(source(3), source(3)) == ("", True)
    assert changes(source(3), source(4))[0].startswith("training images: 1 changed (number)")


NAMES = st.lists(st.text(max_size=4), unique=True, max_size=6)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(old=NAMES, new=NAMES, resized=st.sets(st.integers(0, 5)))
def test_every_change_is_counted(old, new, resized):
    was = {name: 1 for name in old}
    now = {name: 2 if i in resized else 1 for i, name in enumerate(new)}
    words = fingerprint.compared("x", was, now)
    counts = {
        "added": len({*new} - {*old}),
        "removed": len({*old} - {*new}),
        "changed": sum(was.get(name, size) != size for name, size in now.items()),
    }
    found = [f"{n} {how} (" for how, n in counts.items() if n]
    assert all(part in words for part in found) and words.count(" (") >= len(found)
    assert bool(words) == (list(was.items()) != list(now.items()))
    assert words.isprintable()
