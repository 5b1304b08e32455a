"""`keras-smlp`: its commands, what it says without them, what it installs by."""

import os
import re
import sys

import pytest
from helpers.processes import ROOT, python

import keras_smlp
from keras_smlp.deploy.export.web import site
from keras_smlp_cli import __main__, configs, failures, kernels, predict, serve

pytestmark = pytest.mark.once

OF_A_TRAINING = "from keras_smlp_cli.__main__ import main; import sys; sys.exit(main(sys.argv[1:]))"


def test_without_a_command_it_lists_them(capsys):
    assert __main__.main([]) == __main__.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in __main__.COMMANDS:
        assert out.count(f"\n  {name} ") == 2


def test_a_command_that_is_none_is_refused(capsys):
    assert __main__.main(["traim"]) == 2
    expected = "keras-smlp: error: COMMAND: 'traim', allowed: train, eval, predict, export, port, "
    assert capsys.readouterr().err == expected + "serve, publish, kernels, configs\n"


def test_help_and_the_configurations_need_no_keras(tmp_path):
    for line in (
        ["predict", "--help"],
        ["export", "--help"],
        ["port", "--help"],
        ["publish", "--help"],
        ["serve", "--help"],
        ["configs"],
    ):
        code = f"import sys; sys.modules['keras'] = None; {OF_A_TRAINING}"
        done = python("-c", code, *line, cwd=tmp_path)
        assert done.stdout and not done.stderr


def test_configurations_are_listed_and_printed(run_command, refused):
    status, out, _ = run_command(configs, "")
    names = out.splitlines()[::3]
    assert status == 0 and "finetune" in names and names == sorted(names)
    assert "\n    Reaches: 83.1% (published by the authors" in out
    status, out, _ = run_command(configs, "digits")
    assert status == 0 and out.endswith("train:\n  epochs: 10\n  batch_size: 40\n")
    line = f"NAME: 'digits.yaml', allowed: one of {', '.join(names)}"
    assert refused(configs, "digits.yaml") == f"keras-smlp configs: error: {line}\n"


def test_an_evaluation_by_its_short_names(monkeypatch):
    said = []
    monkeypatch.setattr("keras_smlp_cli.train.main", lambda *x: said.append(x) or 0)
    line = ["eval", "--config", "digits", "--weights", "w.keras", "--predictions=p.csv"]
    assert __main__.main(line) == 0
    long = ["--config", "digits", "--model.weights", "w.keras", "--eval.predictions=p.csv"]
    assert [x[:2] for x in said] == [(["--eval", *long], "keras-smlp eval")]


def test_the_help_of_an_evaluation_is_its_own(capsys):
    assert __main__.main(["eval", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("usage: keras-smlp eval [--config NAME]")
    assert "Evaluates weights on validation images. --weights FILE is short for" in out


@pytest.mark.parametrize(
    ("module", "trains", "chosen", "expected"),
    [
        ("jax", False, "jax", 'jax is not installed: pip install "keras-smlp[jax]"'),
        ("jax", True, "jax", 'jax is not installed: pip install "keras-smlp[jax,train]"'),
        (
            "keras_cv",
            True,
            "",
            'keras_cv is not installed: pip install "keras-smlp[keras-cv,train]"',
        ),
        ("yaml.nodes", True, "", 'yaml is not installed: pip install "keras-smlp[train]"'),
        ("tqdm", False, "", 'tqdm is not installed: pip install "keras-smlp[predict]"'),
        ("somebody", True, "", None),
        (
            "tensorflow",
            False,
            "",
            'tensorflow is not installed: pip install "keras-smlp[tensorflow]", or set '
            "KERAS_BACKEND=jax, which is",
        ),
    ],
)
def test_what_installs_a_missing_module(monkeypatch, module, trains, chosen, expected):
    monkeypatch.setenv("KERAS_BACKEND", chosen)
    monkeypatch.setattr(failures.importlib.util, "find_spec", lambda name: name == "jax" or None)
    error = ModuleNotFoundError(name=module)
    assert failures.hint(error, trains) == expected


def test_a_bug_has_a_traceback_and_status_1(capsys):
    assert failures.run("keras-smlp predict", lambda: {}["no"]) == 1
    assert capsys.readouterr().err.endswith("\nKeyError: 'no'\n")


def test_kernels_are_drawn_of_any_network(run_command, refused, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="draws the picture")
    monkeypatch.chdir(tmp_path)
    keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), include_top=False).save("m.keras")
    assert run_command(kernels, "k.png --weights m.keras") == (0, "", "")
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")
    assert "argument FILE.png: k.jpg is no .png" in refused(kernels, "k.jpg --weights m.keras")


def test_as_many_names_by_predict_by_a_server_and_on_the_page():
    (names,) = re.findall(r"const NAMES = (\d+);", (site.PAGE / "app.js").read_text())
    assert int(names) == predict.TOP == serve.TOP


@pytest.mark.parametrize("name", ["predict", "export_model", "port_checkpoint"])
def test_a_script_of_the_checkout_is_the_command(name, tmp_path):
    done = python(ROOT / "tools" / f"{name}.py", "--help", cwd=tmp_path)
    assert done.stdout.startswith(f"usage: {name}.py [-h] ")


def test_an_installed_command_is_the_module(tmp_path):
    done = python("-m", "keras_smlp_cli", "--version", cwd=tmp_path)
    assert done.stdout == f"keras-smlp {keras_smlp.__version__}\n", sys.executable


def test_the_version_needs_no_installation_and_no_keras(tmp_path):
    nowhere = "from importlib import metadata; metadata.distribution = lambda name: {}['no']; "
    code = f"import sys; sys.modules['keras'] = None; {nowhere}{OF_A_TRAINING}"
    done = python("-c", code, "--version", cwd=tmp_path)
    assert done.stdout == f"keras-smlp {keras_smlp.__version__}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is the GNU C library's")
@pytest.mark.parametrize(("command", "starts"), [("train", 2), ("eval", 2), ("configs", 1)])
def test_huge_pages_by_starting_the_module_anew_once(tmp_path, monkeypatch, command, starts):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    # each Python that starts here imports it
    script = "import os, sys; print(os.environ.get('GLIBC_TUNABLES'), sys.orig_argv[1:])"
    (tmp_path / "sitecustomize.py").write_text(script)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    line = ["-u", "-m", "keras_smlp_cli", command, "--a b"]
    # a backend that is none: the command ends before it imports anything
    done = python(*line, cwd=tmp_path, status=2, PYTHONPATH=paths, KERAS_BACKEND="none")
    values = (None, "glibc.malloc.hugetlb=1")[:starts]
    assert done.stdout.splitlines() == [f"{value} {line}" for value in values]
    assert done.stderr.startswith(f"keras-smlp {command}: error: KERAS_BACKEND: none, allowed: ")
