"""Fixtures that run the command lines of tools/ as a user does."""

import shlex
import sys

import pytest


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """Function that runs a module of tools/ with a line of arguments: status, stdout, stderr."""

    def run(tool, line):
        monkeypatch.setattr(sys, "argv", [tool.__file__, *shlex.split(line)])
        try:
            status = tool.main()
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(run_tool):
    """Function that runs a module of tools/ where it must end with status 2: its one line."""

    def refused(tool, line):
        status, out, err = run_tool(tool, line)
        assert (status, out, err.count("\n")) == (2, "", 1), (line, status, out, err)
        assert err.startswith(f"{tool.__name__}.py: error: ")
        return err

    return refused
