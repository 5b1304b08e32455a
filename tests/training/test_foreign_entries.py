"""Whatever stands among the checkpoints: ours are found in their order, the rest is left alone."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.processes import TESTS
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_smlp.training.checkpoints import DATA, STATE, WEIGHTS, Checkpoints, place

pytestmark = pytest.mark.once

# it writes what stands for weights
MODEL = SimpleNamespace(save_weights=lambda path: path.write_bytes(os.urandom(32)))
PLACES = st.tuples(
    st.sampled_from([0, 1, 2, 99_998, 99_999, 100_000, 1_000_000]),
    st.sampled_from([0, 7, 8, 9_999_999, 10_000_000, 123_456_789]),
)
FOREIGN = st.sampled_from(
    [".backup", ".DS_Store", "#notes.txt", "best_so_far", "00001-0000007 copy", "00001-0000007.bak"]
    + ["000001-0000007", "00001-00000007", "1-7", "-1-0000007", ".12345678", ".12345678.best.keras"]
    # named as checkpoints are, and none
    + [
        "00001-0000007",
        "00002-0000000",
        "99999-9999999",
        "100000-0000000",
        "00000-0000007-0123abcd",
    ]
) | st.text("0123456789abcdef-.# \n\u0664", min_size=1, max_size=20)
KINDS = st.sampled_from(["file", "empty", "notes", "copy", "folder link", "dangling link", "mixed"])
by_hypothesis = settings(derandomize=True, deadline=None, max_examples=20)


def state(place):
    epoch, step = place
    best = {"epoch": 1, "weights": "val", "top1": 50.0, "loss": 1.0}
    row = {"epoch": 1, "loss": 0.75}
    config = {"output_dir": "o", "train": {"epochs": 3, "seed": 0}, "data": {"crop": [0.1, 1.0]}}
    state = {"epoch": epoch, "step": step, "means": {"loss": 0.5}, "rows": [row], "best": best}
    return {**state, "config": config}


@contextlib.contextmanager
def empty_folder():
    """Hypothesis needs a new one for each example."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def put(path, kind):
    """Makes a foreign entry."""
    if kind == "file":
        path.write_text("mine")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "folder link":
        path.symlink_to(path.parent.parent)
    else:
        path.mkdir()
        if kind in ("notes", "mixed"):
            (path / "notes.txt").write_text("mine")
        if kind in ("copy", "mixed"):
            (path / WEIGHTS).write_text("weights")
            (path / STATE).write_text("{}")


def content(path):
    """All that is in a file, link or folder."""
    if path.is_symlink():
        return os.readlink(path)
    return path.read_bytes() if path.is_file() else {x.name: content(x) for x in path.iterdir()}


@by_hypothesis
@given(
    entries=st.dictionaries(FOREIGN, KINDS, max_size=6),
    places=st.lists(PLACES, min_size=1, max_size=5, unique=True),
    keep=st.integers(1, 3),
)
def test_foreign_entries_are_left_alone_and_the_newest_is_found(entries, places, keep):
    assume(not {".", ".."} & set(entries))
    with empty_folder() as top:
        folder, places = top / "checkpoints", sorted(places)
        folder.mkdir()
        checkpoints = Checkpoints(folder, keep)
        for name, kind in entries.items():
            path = folder / name
            put(path, kind)
            # what is named and filled as ours are is ours; or was being written
            removable = kind == "copy" and (path in checkpoints.paths() or name == ".12345678")
            if removable or kind == "empty" and name == ".12345678":
                shutil.rmtree(path)
        before = content(folder)
        for done, now in enumerate(places, start=1):
            path = checkpoints.save(MODEL, state(now), b"data")
            checkpoints.clean()
            found, read, _ = checkpoints.newest()
            assert found == path and (read["epoch"], read["step"]) == now
            ours = [x for x in checkpoints.paths() if x.name not in before]
            assert [place(x) for x in ours] == places[:done][-keep:][::-1]
        after = content(folder)
        assert {name: after[name] for name in before} == before
        assert len(after) == len(before) + len(ours)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def edited(data, value):
    """The value with one part added, removed or replaced somewhere in it."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = data.draw(st.sampled_from(keys))
    copy, part = value.copy(), value[key]
    if part and isinstance(part, (dict, list)) and data.draw(st.booleans()):
        copy[key] = edited(data, part)
        return copy
    how = data.draw(st.sampled_from(["add", "remove", "replace"]))
    if how == "remove":
        copy.pop(key)
    elif how == "add" and isinstance(value, dict):
        copy[data.draw(st.text(max_size=5))] = data.draw(JSON)
    else:
        copy[key] = data.draw(JSON)
    return copy


@by_hypothesis
@given(data=st.data(), damaged=st.integers(1, 3))
def test_an_edited_state_is_damage_and_the_one_before_is_used(data, damaged):
    with empty_folder() as folder:
        checkpoints = Checkpoints(folder, 4)
        paths = [checkpoints.save(MODEL, state((epoch, 0)), b"data") for epoch in range(4)]
        for path in paths[4 - damaged :]:
            old = json.loads((path / STATE).read_text())
            new = edited(data, old)
            assume(json.dumps(new, sort_keys=True) != json.dumps(old, sort_keys=True))
            (path / STATE).write_text(json.dumps(new))
        found, read, said = checkpoints.newest()
        assert found == paths[3 - damaged] and read["epoch"] == 3 - damaged
        assert len(said) == damaged and not any("\n" in line for line in said)
        # trained again, it takes the place of the damaged one
        assert checkpoints.save(MODEL, state((4 - damaged, 0))) == paths[4 - damaged]
        assert len(checkpoints.paths()) == 4 and checkpoints.newest()[0] == paths[4 - damaged]


OLD = next((TESTS / "files_of_0_1_0" / "checkpoints").iterdir())
WRONG = {
    "epoch": ["0", True, -1, 0.0, 7],
    "step": [None, 3, [10]],
    "means": [None, [], {"loss": "1"}],
    "rows": [None, {}, [1], [{"loss": None}]],
    "best": [3, [], {}],
    "config": [None, []],
    "sha256": [None, 1, "0" * 64],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_state_without_a_hash_of_its_own_has_its_types_checked(tmp_path, key):
    path = tmp_path / OLD.name
    shutil.copytree(OLD, path)
    checkpoints = Checkpoints(tmp_path, 1)
    assert checkpoints.newest()[0] == path
    whole = json.loads((OLD / STATE).read_text())
    without = {name: value for name, value in whole.items() if name != key}
    for wrong in (*({**whole, key: value} for value in WRONG[key]), without):
        (path / STATE).write_text(json.dumps(wrong))
        assert checkpoints.newest()[0] is None, wrong


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "maximum recursion depth"),
        ("[]", "state.json holds no mapping"),
        ('{"epoch": 1}', "state.json has no valid step, means, rows, best, config, sha256"),
        ("\xff", "'utf-8' codec can't decode"),
    ],
    ids=["deep", "list", "keys", "bytes"],
)
def test_what_is_no_state_is_one_line(tmp_path, text, reason):
    checkpoints = Checkpoints(tmp_path, 1)
    path = checkpoints.save(MODEL, state((1, 0)))
    (path / STATE).write_bytes(text.encode("latin-1"))
    [line] = checkpoints.newest()[2]
    assert line.startswith(f"{path} ({reason}") and len(line) < 400


@pytest.mark.parametrize("file", [WEIGHTS, DATA])
def test_a_pipe_or_nothing_in_place_of_a_file_is_damage(tmp_path, file):
    checkpoints = Checkpoints(tmp_path, 1)
    path = checkpoints.save(MODEL, state((1, 0)), b"data")
    (path / file).unlink()
    assert len(checkpoints.newest()[2]) == 1
    os.mkfifo(path / file)
    [line] = checkpoints.newest()[2]
    assert file in line


def test_a_checkpoint_of_another_name_is_damaged(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    path = checkpoints.save(MODEL, state((1, 5)))
    shutil.copytree(path, tmp_path / "00009-0000000")
    found, _, [line] = checkpoints.newest()
    assert found == path and "00009-0000000 (state.json is that of epoch 1, step 5)" in line


def test_a_checkpoint_behind_a_link_is_read_and_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", 1)
    elsewhere = checkpoints.save(MODEL, state((1, 0))).rename(tmp_path / "disk")
    link = tmp_path / "c" / "00001-0000000"
    link.symlink_to(elsewhere)
    assert checkpoints.newest()[0] == link
    checkpoints.save(MODEL, state((2, 0)))
    checkpoints.save(MODEL, state((3, 0)))
    assert sorted(os.listdir(tmp_path / "c")) == ["00001-0000000", "00003-0000000"]
    assert elsewhere.is_dir()


@pytest.mark.parametrize("name", [".DS_Store", "._state.json", "Thumbs.db", "desktop.ini"])
def test_what_a_file_manager_left_is_removed_with_a_checkpoint(name, tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    (checkpoints.save(MODEL, state((1, 0))) / name).touch()
    checkpoints.save(MODEL, state((2, 0)))
    assert os.listdir(tmp_path) == ["00002-0000000"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (f"{STATE}", WEIGHTS, f".0123abcd.{WEIGHTS}"):
        left = tmp_path / f".{len(name):08}"
        left.mkdir()
        (left / name).write_text("half")
    (tmp_path / ".0123abcd").mkdir()
    Checkpoints(tmp_path, 2).clean()
    assert not os.listdir(tmp_path)


def test_a_damaged_later_one_takes_nobodys_place(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    for epoch in (3, 4):
        damaged = checkpoints.save(MODEL, state((epoch, 0)))
    (damaged / WEIGHTS).unlink()
    checkpoints.save(MODEL, state((3, 5)))
    assert [place(path) for path in checkpoints.paths()] == [(4, 0), (3, 5), (3, 0)]
    checkpoints.save(MODEL, state((4, 0)))
    assert [place(path) for path in checkpoints.paths()] == [(4, 0), (3, 5)]
    assert checkpoints.newest()[2] == []
