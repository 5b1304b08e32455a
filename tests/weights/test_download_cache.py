"""The cache of `weights="imagenet"`: where it is, files put there by hand, files that changed."""

import json
import os
import re
from pathlib import Path

import filelock
import pytest
from helpers.damage import flipped
from helpers.publisher import MICRO, RECORD, left_in

from keras_smlp.weights import download

pytestmark = pytest.mark.once


# ---- where it is --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("home", "folder"), [(None, ".keras"), ("", ".keras"), ("~/elsewhere", "elsewhere")]
)
def test_home(home, folder, publisher, tmp_path, monkeypatch, fetch_good):
    (tmp_path / "user").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("KERAS_HOME")
    if home is not None:
        monkeypatch.setenv("KERAS_HOME", home)
    fetch_good(tmp_path / "user" / folder / "models" / "keras_smlp")
    assert list((tmp_path / "here").iterdir()) == []


def test_relative_home(publisher, tmp_path, monkeypatch, fetch_good):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", "near")
    fetch_good(Path("near/models/keras_smlp"))


def test_home_that_is_no_folder(publisher, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file" / "models"))):
        download.fetch(MICRO)
    assert publisher.paths == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root"
)
@pytest.mark.parametrize("place", ["", "models/keras_smlp"])
def test_read_only_home(place, publisher, tmp_path):
    folder = tmp_path / "keras" / place
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match=re.escape(str(folder))):
            download.fetch(MICRO)
    finally:
        folder.chmod(0o700)
    assert publisher.paths == []


def odd_link(cache):
    cache.mkdir(parents=True)
    (cache / MICRO.checkpoint).symlink_to("nothing")


def odd_home(cache):
    cache.parents[1].symlink_to("nothing")


def odd_record(cache):
    (cache / RECORD).mkdir(parents=True)


def odd_lock(cache):
    (cache / f".{MICRO.checkpoint}.lock").mkdir(parents=True)


@pytest.mark.parametrize("change", [odd_link, odd_home, odd_record, odd_lock])
def test_odd_paths_are_found_before_the_download(change, publisher, cache, load_fails):
    change(cache)
    before = left_in(cache)
    load_fails(OSError, f"The cache of the official weights {cache}", "set KERAS_HOME to a folder")
    assert publisher.paths == [] and left_in(cache) == before


def test_the_lock_file_of_another_user(publisher, monkeypatch, cache, load_fails):
    def no_permission(self):
        raise PermissionError(13, "Permission denied", self.lock_file)

    monkeypatch.setattr(filelock.FileLock, "_acquire", no_permission)
    load_fails(PermissionError, "Permission denied", ".smlp_micro.pth.lock", "KERAS_HOME")
    assert publisher.paths == []


def test_a_shared_cache_is_for_all(publisher, cache):
    before = os.umask(0)
    try:
        download.fetch(MICRO)
    finally:
        os.umask(before)
    assert (cache / f".{MICRO.checkpoint}.lock").stat().st_mode & 0o666 == 0o666


# ---- a file that was put there by hand ----------------------------------------------------------
def test_no_network_and_the_file_by_hand(publisher, published, cache, load_fails, fetch_good):
    publisher.close()
    file = cache / MICRO.checkpoint
    advice = (f"place the file at {file}", "KERAS_SMLP_WEIGHTS_URL")
    load_fails(RuntimeError, publisher.address, *advice)
    assert left_in(cache) == []

    for data in (published.other, published.data[:-1], b""):
        file.write_bytes(data)
        load_fails(ValueError, f"{file} is not the official")
        assert left_in(cache) == [MICRO.checkpoint] and file.read_bytes() == data

    file.write_bytes(published.data)
    fetch_good()
    assert json.loads((cache / RECORD).read_text())["origin"] == str(file)
    assert publisher.paths == []


# ---- what has changed ---------------------------------------------------------------------------
# the file, and what becomes of its bytes
CHANGES = {
    "weights, one bit": (MICRO.checkpoint, flipped),
    "weights, truncated": (MICRO.checkpoint, lambda data: data[:-1]),
    "weights, longer": (MICRO.checkpoint, lambda data: data + b"\0"),
    "weights, empty": (MICRO.checkpoint, lambda data: b""),
    "record, empty": (RECORD, lambda data: b""),
    "record, truncated": (RECORD, lambda data: data[:-5]),
    "record, not text": (RECORD, lambda data: b'{"sha256": "\xff\xfe"}'),
    "record, a list": (RECORD, lambda data: b"[]"),
    "record, a number": (RECORD, lambda data: b"1"),
    "record, no hash": (RECORD, lambda data: b'{"license": "MIT"}'),
    "record, deep": (RECORD, lambda data: b"[" * 100_000),
    "record, null": (RECORD, lambda data: b'{"sha256": null}'),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changed_cache(case, publisher, published, cache, load_fails, fetch_good):
    cache.mkdir(parents=True)
    (cache / MICRO.checkpoint).write_bytes(published.data)
    fetch_good()
    name, change = CHANGES[case]
    (cache / name).write_bytes(change((cache / name).read_bytes()))
    found = {p.name: p.read_bytes() for p in cache.iterdir()}
    for _ in range(2):
        load_fails(ValueError, f"remove them and {cache / RECORD} to fetch")
    assert {p.name: p.read_bytes() for p in cache.iterdir()} == found
    assert publisher.paths == []  # it is the user who decides to download again


def test_a_removed_file_is_downloaded_again(publisher, fetch_good):
    fetch_good().unlink()
    fetch_good()
    assert len(publisher.paths) == 2


def test_a_folder_in_place_of_the_file(publisher, cache, load_fails):
    (cache / MICRO.checkpoint).mkdir(parents=True)
    load_fails(IsADirectoryError, str(cache / MICRO.checkpoint))
    assert publisher.paths == []


def test_other_folders_are_left_alone(publisher, cache):
    others = [".smlp_micronesia-1/file", "smlp_micro-1/file"]
    for name in others:
        (cache / name).parent.mkdir(parents=True)
        (cache / name).touch()
    download.fetch(MICRO)
    found = [name for name in left_in(cache) if (cache / name).is_file()]
    assert found == sorted([*others, RECORD, MICRO.checkpoint])
