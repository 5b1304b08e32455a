"""The names of classes in a file."""

import json
import re

import pytest

from keras_smlp.inference import classes

pytestmark = pytest.mark.once


def test_the_names_beside_a_model(tmp_path):
    path = tmp_path / classes.CLASSES
    assert classes.beside(tmp_path / "m.keras") is None
    path.write_text(json.dumps(["cat", "dog"]))
    assert classes.beside(tmp_path / "m.keras") == path
    assert classes.beside(tmp_path / "m.pth") is None
    assert classes.read_names(path) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", " is no JSON file (Expecting value: line 1 column 2 (char 1))"),
        (b"[" * 100_000, " is no JSON file ("),
        (b"\xff", " is no JSON file ('utf-8' codec"),
        (b" " * 200_001, " is no JSON file (more than 200000 bytes)"),
        (b"[]", " is no JSON list of names"),
        (b'{"a": 1}', " is no JSON list of names"),
        (b"[1]", " is no JSON list of names"),
    ],
    ids=range(7),
)
def test_no_list_of_names(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(classes, "MAX_CLASSES", 200_000)
    path = tmp_path / "names.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path) + message)}"):
        classes.read_names(path)
