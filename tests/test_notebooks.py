"""The notebooks of docs/ are whole, hold no outputs, and run where nothing can be downloaded."""

import os
import sys

import pytest
from helpers.processes import ROOT

nbformat = pytest.importorskip("nbformat", reason="reads notebooks")
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.once
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each
def test_a_notebook_is_valid_and_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")  # its title on the site
    assert notebook.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not x.outputs and x.execution_count is None for x in code)
    assert all(not cell.metadata for cell in notebook.cells)


@pytest.mark.deep
@each
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="runs notebooks")
    pytest.importorskip("ipykernel", reason="runs notebooks")
    for package in ("matplotlib", "sklearn", "tensorflow"):
        pytest.importorskip(package)
    notebook = nbformat.read(path, as_version=4)
    commands = 0
    for cell in list(notebook.cells):
        if cell.source.startswith("!"):  # IPython goes on after a command that fails
            check = nbformat.v4.new_code_cell("assert _exit_code == 0, _exit_code")
            notebook.cells.insert(notebook.cells.index(cell) + 1, check)
            commands += 1
    # the commands are beside this Python
    folder = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", folder + os.pathsep + os.environ["PATH"])
    for proxy in ("http_proxy", "https_proxy"):  # nothing is there: a download would fail
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    folder = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, resources=folder, startup_timeout=300)
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        pytest.fail(f"{said(notebook)}\n{error}")
    assert commands == (2 if path.stem == "photos" else 0)
    shown = [x for cell in notebook.cells for x in cell.get("outputs", ())]
    assert any("image/png" in x.get("data", {}) for x in shown) or path.stem == "shipping"
    assert "Traceback" not in said(notebook)


def said(notebook):
    """What the cells and their commands have printed."""
    outputs = [x for cell in notebook.cells for x in cell.get("outputs", ())]
    return "\n".join(x.text for x in outputs if x.output_type == "stream")[-3000:]
