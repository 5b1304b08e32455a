"""The examples of the README and of the public docstrings run."""

import doctest
import os
import re
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.processes import ROOT
from PIL import Image

import keras_smlp
from keras_smlp.weights import hub
from keras_smlp_cli import __main__

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
# those that want a file which is not there
FILES = ("load_official", "save_official", "export")
PUBLIC = [getattr(keras_smlp, name) for name in dir(keras_smlp) if name not in FILES]
PUBLIC = [thing for thing in PUBLIC if callable(thing)]
PUBLIC += [keras_smlp.explain.grad_cam, keras_smlp.explain.axial_kernels]
PUBLIC += [getattr(keras_smlp.layers, name) for name in dir(keras_smlp.layers) if name[0].isupper()]
LARGE = (keras_smlp.SMLPNetSmall, keras_smlp.SMLPNetBase)


@pytest.mark.once
@pytest.mark.parametrize(
    "thing",
    [pytest.param(x, marks=pytest.mark.deep if x in LARGE else ()) for x in PUBLIC],
    ids=lambda thing: thing.__name__,
)
def test_docstring_example(thing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    names = {"keras_smlp": keras_smlp, "keras": keras, "np": np}
    parser = doctest.DocTestParser()
    example = parser.get_doctest(thing.__doc__, names, thing.__name__, None, None)
    assert example.examples, f"{thing.__name__} has no example"
    runner = doctest.DocTestRunner(
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, verbose=False
    )
    runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.once  # on each backend where it is alone
@pytest.mark.parametrize(
    "depths",
    [(1, 1, 1, 1), pytest.param((2, 10, 24, 2), marks=pytest.mark.deep)],
    ids=["one_block_a_stage", "small"],
)
def test_readme_python_blocks(depths, tmp_path, monkeypatch):
    """Every python block, in order, in one namespace; files they need are made first."""

    def small(**arguments):
        return keras_smlp.SMLPNet(96, depths, **{"input_shape": (224, 224, 3), **arguments})

    if depths != keras_smlp.VARIANTS["small"].depths:
        monkeypatch.setattr(keras_smlp, "SMLPNetSmall", small)
    monkeypatch.chdir(tmp_path)
    model = keras_smlp.SMLPNetSmall()
    keras_smlp.save_official(model, "smlp_s.pth")
    Image.new("RGB", (300, 400)).save("photo.jpg")
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 3
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def commands():
    """The command lines in the documents, in blocks and in sentences."""
    for document in DOCUMENTS:
        blocks = re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        lines += re.findall(r"`([^`\n]+)`", document.read_text())
        for line in lines:
            line = re.sub(r"^\s*(KERAS_BACKEND=\S+ )?", "", line)
            if re.match(r"keras-smlp [a-z-]+ ", line) and "..." not in line:
                yield line


@pytest.mark.once
def test_documented_commands_are_understood(tmp_path, monkeypatch, capsys):
    """Their options are there, with values that they allow; nothing is run."""
    monkeypatch.chdir(tmp_path)
    # what a configuration names must be there, and is read for what it knows
    keras_smlp.save_official(keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3)), "smlp_s.pth")
    monkeypatch.setattr(hub, "fetch", lambda at, *rest: hub.Fetched(Path("smlp_s.pth"), at))
    understood = []
    monkeypatch.setattr("keras_smlp_cli.train.train", understood.append)
    for name in ("predict", "export", "port", "publish", "kernels", "configs", "serve"):
        monkeypatch.setattr(
            f"keras_smlp_cli.{name}.{name}",
            lambda parser, argv: understood.append(parser.parse_args(argv)),
        )
    lines = list(commands())
    for line in lines:
        words = shlex.split(line.partition(" > ")[0], comments=True)
        understood.clear()
        status = __main__.main(words[1:])
        assert status == 0, (line, capsys.readouterr().err)
        assert understood or "--help" in words, line
    used = {line.split()[1] for line in lines}
    assert used == set(__main__.COMMANDS) and len(lines) >= 12
    monkeypatch.undo()
    for wrong in ("train --train.epoch 20", "eval --config digit", "predict a.jpg --tops 3"):
        assert __main__.main(wrong.split()) == 2  # so it would be noticed


@pytest.mark.once
def test_readme_names_files_that_exist():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert os.path.exists(document.parent / target), (document.name, target)
