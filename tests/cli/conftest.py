"""Fixtures that run the commands as a user does,."""

import shlex

import pytest


@pytest.fixture
def run_command(capsys):
    """Function that runs a command with a line of arguments: status, stdout, stderr."""

    def run(command, line):
        status = command.main(shlex.split(line), name(command))
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(run_command):
    """Function that runs a command where it must end with status 2: its one line."""

    def refused(command, line):
        status, out, err = run_command(command, line)
        assert (status, out, err.count("\n")) == (2, "", 1), (line, status, out, err)
        assert err.startswith(f"{name(command)}: error: ")
        return err

    return refused


def name(command):
    return f"keras-smlp {command.__name__.rpartition('.')[2]}"
