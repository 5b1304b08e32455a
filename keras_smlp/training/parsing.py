"""Reads the configuration of train.py from YAML and the command line; errors are one line.

The library is jsonargparse (why: docs/dependencies.md).
"""

import argparse
import dataclasses
import re
import types
import typing
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from keras_smlp.training.config import Config

DEFAULT_CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


def parse(argv):
    """Reads the configuration of a run.

    Args:
        argv: Arguments of the command line: `--config FILE` (default: `configs/digits.yaml`),
            `--section.key value`, which goes over the file's wherever it stands, and `--eval`.

    Returns:
        A `Config`. `--help` prints and exits instead.

    Raises:
        ValueError: If anything is wrong: one line `key: what was received, allowed: ...`.
    """
    # jsonargparse lets the last one win; the line shall win over the file in any order
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", action="append", default=[])
    finder.add_argument("--eval", action="store_true")
    files = []
    try:
        found, overrides = finder.parse_known_args(argv)
        files = found.config
        parser = ArgumentParser(
            prog="train.py",
            description="Trains an sMLPNet.",
            exit_on_error=False,
            allow_abbrev=False,
            default_config_files=[] if files else [str(DEFAULT_CONFIG)],
        )
        parser.add_argument("--config", action="config", help="YAML file with these keys.")
        parser.add_class_arguments(Config, as_group=False)
        only = ["--eval.only=true"] if found.eval else []
        values = parser.parse_args([*(f"--config={name}" for name in files), *overrides, *only])
    except (argparse.ArgumentError, UnicodeDecodeError) as error:
        raise ValueError(explain(str(error), files)) from error
    return build(Config, values)


def build(cls, values, prefix=""):
    """The dataclass of a parsed section; jsonargparse lets null and non-sections through."""
    arguments = {}
    for name, hint in typing.get_type_hints(cls).items():
        key, value = prefix + name, values[name]
        is_section = dataclasses.is_dataclass(hint)
        nullable = types.NoneType in typing.get_args(hint)
        if is_section != isinstance(value, Namespace) or (value is None and not nullable):
            received = "null" if value is None else value
            raise ValueError(f"{key}: {received}, allowed: {allowed(hint)}")
        arguments[name] = build(hint, value, f"{key}.") if is_section else plain(value)
    return cls(**arguments)


def plain(value):
    """The value without jsonargparse's types, which not every library takes for numbers."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    base = next((base for base in (bool, int, float, str) if isinstance(value, base)), None)
    return base(value) if base else value


def explain(message, files):
    """One line `key: what was received, allowed: ...` from an error of jsonargparse."""
    if match := re.match(r'Parser key "([\w.]+)":\s*(.*)', message, re.DOTALL):
        key, detail = match.groups()
        for noise in (
            r"^.*(Given|Got) value:\s*",
            r"^Not of type \w+:\s*",
            r"^(invalid literal for int\(\) with base 10|could not convert string to float): ",
            r" does not conform to restriction.*$",
        ):
            detail = re.sub(noise, "", detail, flags=re.DOTALL)
        hint = hint_of(key)
        message = f"{key}: {detail}" + (f", allowed: {allowed(hint)}" if hint else "")
    elif match := re.match(
        r"unrecognized arguments: -*(?P<line>[^\s=]+)|Option '(?P<file>.+)' is not accepted"
        r"|Group '(?P<group>.+)' does not accept option '(?P<option>.+)'",
        message,
    ):
        group, option = match["group"], match["option"]
        key = match["line"] or match["file"] or f"{group}.{option.removeprefix(f'{group}.')}"
        section = hint_of(key.partition(".")[0])
        known = section if dataclasses.is_dataclass(section) else Config
        message = f"{key}: unknown key, allowed: {allowed(known)}"
    elif match := re.match(r"the following arguments are required: (\S+)", message):
        message = f"{match[1]}: missing, allowed: {allowed(hint_of(match[1]))}"
    elif not message.startswith("argument --"):
        names = ", ".join(files) or DEFAULT_CONFIG.name
        message = f"config: {names}: {message}, allowed: a YAML file with {allowed(Config)}"
    return " ".join(message.split())


def hint_of(key):
    """The type of `section.key` or of a section; `None` if there is no such key."""
    hint = Config
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name) if dataclasses.is_dataclass(hint) else None
    return hint


def allowed(hint):
    """What a type allows, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return "the keys " + ", ".join(f.name for f in dataclasses.fields(hint))
    if origin is Literal:
        return ", ".join(arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(allowed, arguments))
    if origin is tuple:
        return f"a list [a, b, ...] of {allowed(arguments[0])}"
    plain = {str: "a string", bool: "true or false", types.NoneType: "null"}
    if hint in plain:
        return plain[hint]
    return hint.__doc__.replace(" restricted to be", "")
