"""Parquet files against the same images in folders, and those that do not fit."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.parquet_files import pa, pq, shards, table
from helpers.photos import folder

from keras_smlp.data import parquet, sources

pytestmark = pytest.mark.once


@pytest.mark.parametrize("kept", [2**30, 1])
def test_rows_equal_the_files_in_folders(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(parquet, "KEPT", kept)
    expected = sources.load("folder", folder(tmp_path / "folder"))
    path = shards(tmp_path / "parquet", expected)
    for given in (path, path / "*.parquet"):
        source = sources.load("parquet", given)
        assert source.class_names == expected.class_names
        assert [x.startswith("the images, ") for x in source.notes] == [True] * (kept == 1)
        for own, other in (
            (source.train, expected.train),
            (source.validation, expected.validation),
        ):
            order = np.random.default_rng(0).permutation(len(other))
            contents, labels, names = own.read(order)
            assert contents == other.read(order)[0]
            assert labels.tolist() == other.read(order)[1].tolist()
            assert len(own) == len(other) and len(set(names)) == len(own)
    assert names[0].endswith(f"[{order[0] % 3}]")
    # of one row group there is always room
    rows = parquet.Rows(sorted(map(str, path.glob("train*"))))
    split = rows.files(np.ones(8, bool))
    with ThreadPoolExecutor(4) as pool:  # threads that want the same groups
        found = list(pool.map(lambda _: split.read(np.arange(8))[0], range(8)))
    assert all(contents == found[0] for contents in found)
    assert len(rows.kept) == (1 if kept == 1 else 5)
    assert rows.bytes_kept == sum(x.nbytes for x in rows.kept.values())


@pytest.mark.deep
def test_batches_equal_those_of_folders(tmp_path):
    pipeline = pytest.importorskip("keras_smlp.data.pipeline", reason="the batches are by tf.data")
    from keras_smlp.data.decode import BadFiles
    from keras_smlp.data.recipe import DataConfig

    path = folder(tmp_path / "folder")
    in_rows = sources.load("parquet", shards(tmp_path / "parquet", sources.load("folder", path)))
    recipe = DataConfig("folder", str(path), group_size=2, repeats=1)
    found = []
    for source in (sources.load("folder", path), in_rows):
        batches = pipeline.train_batches(source.train, recipe, 32, 2, 4, 0, BadFiles())
        found.append([(batch, y.numpy()) for batch, y in batches(1, range(2))])
    for (a, x), (b, y) in zip(*found, strict=True):
        np.testing.assert_array_equal(x, y)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_one_split_is_drawn(tmp_path):
    contents = [str(i).encode() for i in range(20)]
    (tmp_path / "train").mkdir()
    pq.write_table(table(contents, [0, 1] * 10), tmp_path / "train" / "0.parquet")
    source = sources.load("parquet", tmp_path)
    assert (len(source.train), len(source.validation)) == (16, 4)
    assert sorted(source.validation.read(np.arange(4))[1].tolist()) == [0, 0, 1, 1]
    both = [*source.train.read(np.arange(16))[0], *source.validation.read(np.arange(4))[0]]
    assert sorted(both) == sorted(contents)
    assert source.notes == ("no split is given: 4 of 20 images are for validation",)
    other = sources.load("parquet", tmp_path, fraction=0.5, seed=3)
    assert len(other.validation) == 10


def test_labels_without_names_and_rows_without_images(tmp_path):
    part = table([b"a", None, b"c"], [0, 2, 1], names=None, paths=["a.jpg", "b.jpg", None])
    for name in ("train-0.parquet", "test-0.parquet"):
        pq.write_table(part, tmp_path / name)
    source = sources.load("parquet", tmp_path)
    assert source.class_names == ("0", "1", "2")
    contents, labels, names = source.train.read(np.arange(3))
    assert contents == [b"a", b"", b"c"] and labels.tolist() == [0, 2, 1]
    assert names == [f"train-0.parquet[{i}]" for i in range(3)]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (table([b"a"], [2]), "have labels from 0 to 2, allowed: 0 to 1"),
        (table([b"a"], [9], names=None), "has other classes in test"),
        (table([b"a"], [-1]), "have labels from -1 to 0"),
        (table([b"a"], [0], names=None), "has other classes in test than in train"),
        (table([b"a"], [None]), "has rows without a label"),
        (table([], []), "has no rows, allowed: at least one"),
        (table([b"a"], [1]), "no training image is of the class n01, allowed: at least one"),
        (pa.table({"image": [{"bytes": "a"}], "label": [0]}), "has the columns image, label"),
        (pa.table({"image": [b"a"], "label": [0]}), "has the columns image, label, allowed: one"),
        (pa.table({"label": [0]}), "has the columns label, allowed: one with structs"),
        (table([b"a"], [0], names=None).rename_columns(["image", "x"]), "the columns image, x"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, part, message):
    pq.write_table(part, tmp_path / "train-0.parquet")
    pq.write_table(table([b"a"], [0]), tmp_path / "test-0.parquet")
    with pytest.raises(ValueError, match=f"^`path`: .*{message}"):
        sources.load("parquet", tmp_path)


def test_files_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has Parquet files of the splits none, allowed: a folder"):
        sources.load("parquet", tmp_path)
    whole = tmp_path / "train-0.parquet"
    pq.write_table(table([b"a", b"b"], [0, 1]), whole)
    pq.write_table(table([b"a"], [0], names=("x", "y")), tmp_path / "train-1.parquet")
    with pytest.raises(ValueError, match="train-1.parquet has other columns or classes than"):
        sources.load("parquet", tmp_path)
    content = whole.read_bytes()
    for cut in (content[:-9], content[: len(content) // 2], b"", b"PAR1"):
        (tmp_path / "train-1.parquet").write_bytes(cut)
        with pytest.raises(ValueError, match="train-1.parquet cannot be read: "):
            sources.load("parquet", tmp_path)


def test_a_file_that_is_damaged_later_counts_as_damaged_images(tmp_path):
    path = tmp_path / "train-0.parquet"
    pq.write_table(table([b"a", b"b", b"c", b"d"], [0, 1, 0, 1]), path)
    source = sources.load("parquet", tmp_path)
    content = path.read_bytes()
    path.unlink()
    assert source.train.read(np.arange(2))[0] == [b"", b""]
    path.write_bytes(content)
    assert b"" not in source.train.read(np.arange(2))[0]


def test_labels_without_names_are_fewer_than_the_images(tmp_path):
    for name in ("train-0.parquet", "test-0.parquet"):
        pq.write_table(table([b"a"], [10**12], names=None), tmp_path / name)
    with pytest.raises(ValueError, match="to 1000000000000, allowed: 0 to 1, fewer than there are"):
        sources.load("parquet", tmp_path)


@pytest.mark.parametrize("names", [None, 5, "ab", [1, 2], {"a": 1}])
def test_metadata_of_another_kind_have_no_names(tmp_path, names):
    part = table([b"a", b"b"], [0, 1]).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}})}
    )
    for name in ("train-0.parquet", "test-0.parquet"):
        pq.write_table(part, tmp_path / name)
    assert sources.load("parquet", tmp_path).class_names == ("0", "1")


def test_which_files_are_read(tmp_path):
    part = table([b"a", b"b"], [0, 1])
    for name in ("a[1]/train", "a[1]/val", ".hidden/train"):
        (tmp_path / name).mkdir(parents=True)
        pq.write_table(part, tmp_path / name / "0.parquet")
    source = sources.load("parquet", tmp_path)
    assert (len(source.train), len(source.validation)) == (2, 2)
    assert source.train.read(np.arange(1))[2] == ["0.parquet[0]"]
    (tmp_path / "a[1]" / "train" / "1.parquet").symlink_to("nothing")
    with pytest.raises(ValueError, match="1.parquet is no file or a broken link"):
        sources.load("parquet", tmp_path)
    (tmp_path / "half").mkdir()
    pq.write_table(part, tmp_path / "half" / "train-00000-of-00002.parquet")
    with pytest.raises(ValueError, match="1 files like .* are there, allowed: as many as"):
        sources.load("parquet", tmp_path / "half")
