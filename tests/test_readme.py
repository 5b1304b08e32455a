"""The examples of README, of the pages and of the public docstrings run; links lead somewhere."""

import doctest
import json
import re
import shlex
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.processes import ROOT
from PIL import Image

import keras_smlp
from keras_smlp.weights import hub
from keras_smlp_cli import __main__

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
# whose Python runs; of the others it needs what is not installed here
PAGES = ("README", "docs/first_steps", "docs/photos", "docs/weights", "docs/inside")
NOT_RUN = {"export", "serving", "web", "phones", "hubs"}  # servers, browsers, phones, hubs
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


@pytest.mark.once  # README also on each backend where it is alone
@pytest.mark.parametrize(
    ("page", "depths"),
    [
        pytest.param("README", (1, 1, 1, 1), id="README-one_block_a_stage"),
        *[pytest.param(page, (1, 1, 1, 1), id=page) for page in PAGES[1:]],
        pytest.param("README", (2, 10, 24, 2), id="README-small", marks=pytest.mark.deep),
    ],
)
def test_python_blocks(page, depths, tmp_path, monkeypatch):
    """Every Python block of a page, in order, in one namespace; files they need are made first."""

    def small(**arguments):
        return keras_smlp.SMLPNet(96, depths, **{"input_shape": (224, 224, 3), **arguments})

    if depths != keras_smlp.VARIANTS["small"].depths:
        monkeypatch.setattr(keras_smlp, "SMLPNetSmall", small)
    monkeypatch.chdir(tmp_path)
    model = keras_smlp.SMLPNetSmall()
    keras_smlp.save_official(model, "smlp_s.pth")
    Image.new("RGB", (300, 400)).save("photo.jpg")
    blocks = python_blocks(ROOT / f"{page}.md")
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), namespace)


def python_blocks(document):
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.once
def test_python_of_every_page_is_run_or_said_not_to_be():
    having = {document.stem for document in DOCUMENTS if python_blocks(document)}
    assert having - NOT_RUN == {page.rpartition("/")[2] for page in PAGES}


def commands():
    """The command lines in the documents and notebooks, in blocks and in sentences."""
    for document in DOCUMENTS + NOTEBOOKS:
        text = document.read_text()
        if document in NOTEBOOKS:
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        lines += re.findall(r"`([^`\n]+)`", text)
        lines += re.findall("^!(.*)", text.replace("\\\n", " "), re.MULTILINE)
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
def test_the_api_page_has_every_public_name_once():
    page = (ROOT / "docs" / "api.md").read_text()
    named = re.findall(r"^(?:::: |### )(.*)", page, re.MULTILINE)
    named = [
        part if part.startswith("keras_smlp.") else f"keras_smlp.{part}"
        for line in named
        for part in line.split(", ")
    ]
    public = {"keras_smlp.variants.Variant", "keras_smlp.explain.grad_cam"}
    public.add("keras_smlp.explain.axial_kernels")
    for module in (keras_smlp, keras_smlp.layers):
        own = {name for name, x in vars(module).items() if not isinstance(x, types.ModuleType)}
        public |= {f"{module.__name__}.{name}" for name in own if name[0] != "_"}
    # read, not imported: KerasHub need not be installed
    exported = (ROOT / "keras_smlp" / "hubs" / "keras_hub" / "__init__.py").read_text()
    public |= {
        f"keras_smlp.hubs.keras_hub.{name}" for name in re.findall(r"(\w+) as \1\b", exported)
    }
    assert sorted(named) == sorted(public)


@pytest.mark.once
def test_links_lead_to_files_and_headings():
    for document in DOCUMENTS:
        for target, anchor in LINK.findall(document.read_text()):
            if "://" in target:
                continue
            file = document.parent / target if target else document
            assert file.exists(), (document.name, target)
            if anchor:
                assert anchor in anchors(file), (document.name, target, anchor)


LINK = re.compile(r"\]\(([^)#\s]*)#?([^)\s]*)\)")


def anchors(document):
    """What GitHub makes of the headings, and anchors that stand in the text."""
    text = document.read_text()
    headings = re.findall(r"^#+ (.*)", re.sub(r"(?ms)^```.*?^```", "", text), re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | {*re.findall(r'<a id="([^"]+)">', text)}
