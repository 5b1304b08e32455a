"""A profile of training steps is written, on each backend."""

import pytest
from helpers.nets import BACKEND
from helpers.processes import python


@pytest.mark.deep
def test_a_profile_is_written(tmp_path):
    options = ("--variant", "micro", "--batch", "2", "--steps", "1", "--precision", "float32")
    python("-m", "benchmarks.profile", *options, tmp_path / "new" / "profile")
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    ending = "trace.json" if BACKEND == "torch" else ".xplane.pb"
    assert any(name.endswith(ending) for name in names), names


@pytest.mark.deep
@pytest.mark.once
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    done = python("-m", "benchmarks.profile", tmp_path / "file", status=2)
    assert done.stderr.strip().splitlines()[-1].endswith("cannot be made: File exists")
