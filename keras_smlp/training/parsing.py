"""Reads the configuration of train.py from YAML files and the command line.

Keys, types and the sentences of `--help` are those of the dataclasses in `config`. Whatever is
wrong is one line: `key: what was received, allowed: ...`.
"""

import argparse
import dataclasses
import functools
import inspect
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from keras_smlp.training.config import Config

DEFAULT_CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"
# name -> dataclass of a section; whole key, such as "train.epochs" -> field of its dataclass
SECTIONS: dict[str, Any] = {}
KEYS: dict[str, Any] = {}
for outer in dataclasses.fields(Config):
    if dataclasses.is_dataclass(outer.type):
        SECTIONS[outer.name] = outer.type
        KEYS |= {f"{outer.name}.{field.name}": field for field in dataclasses.fields(outer.type)}
    else:
        KEYS[outer.name] = outer


def parse(argv):
    """Reads the configuration of a run.

    Args:
        argv: Arguments of the command line: `--config FILE` (default: `configs/digits.yaml`),
            `--section.key value`, which goes over the file's wherever it stands, and `--eval`.

    Returns:
        A `Config`. `--help` and `--print_config` print and exit instead.

    Raises:
        ValueError: If anything is wrong: one line `key: what was received, allowed: ...`.
    """
    parser = argparse.ArgumentParser(
        prog="train.py",
        usage="%(prog)s [--config FILE] [--eval] [--section.key VALUE ...]",
        description="Trains an sMLPNet.",
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--config", action="append", metavar="FILE", help="YAML file of these keys")
    parser.add_argument("--print_config", action="store_true", help="print all values and exit")
    parser.add_argument("--eval", action="store_true", help="the same as --eval.only true")
    values: dict[str, Any] = {}
    try:
        # the files first: the line goes over them, and `--help` shows their values
        found, _ = parser.parse_known_args(argv)
        for file in getattr(found, "config", [DEFAULT_CONFIG]):
            values |= by_key(read_yaml(file, "config"))
        add_options(parser, values)
        found, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if unknown:
        raise unknown_key(unknown[0].lstrip("-").partition("=")[0])
    line = vars(found)
    line.pop("config", None)
    prints = line.pop("print_config", False)
    if line.pop("eval", False):
        line["eval.only"] = True
    config = build(values | by_key(line))
    if prints:
        print(config.to_yaml(), end="")
        raise SystemExit
    return config


def read_yaml(file, key):
    """The keys and values in a YAML file; `key` is `config` or that of a section."""
    try:
        values = yaml.safe_load(Path(file).read_text("utf-8"))
        problem = "no mapping"
    except (OSError, ValueError, yaml.YAMLError) as error:
        values, problem = None, " ".join(str(error).split())
    if isinstance(values, dict):
        return values
    keys = keys_of(SECTIONS.get(key, Config))
    raise ValueError(f"{key}: {file} ({problem}), allowed: a YAML file with {keys}")


def by_key(values):
    """The values by their whole keys; of a section they are a dict or the name of a file."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in SECTIONS and isinstance(value, str):
            value = read_yaml(value, name)
        if name in SECTIONS and isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[str(name)] = value
    return found


def add_options(parser, values):
    """Adds `--help` and an option for each section and key; `values` are shown as defaults."""
    parser.add_argument("-h", "--help", action="help", help="print this and exit")
    for section, cls in {"": Config, **SECTIONS}.items():
        docstring = inspect.getdoc(cls) or ""
        sentences = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", docstring, re.MULTILINE))
        group = parser.add_argument_group(docstring.partition(".")[0])
        for field in dataclasses.fields(cls):
            key = f"{section}.{field.name}".lstrip(".")
            allowed = "a YAML file"
            if key == "eval":  # taken
                continue
            if key in KEYS:
                value = values.get(key, field.default)
                default = "required" if value is dataclasses.MISSING else f"default: {shown(value)}"
                allowed = f"{reader(field.type)[0]}, {default}"
            text = f"{sentences[field.name]} ({allowed})"
            group.add_argument(f"--{key}", metavar="VALUE", help=text.replace("%", "%%"))


def build(values):
    """The `Config` of values by their keys; what is no key, or no value of it, is refused."""
    arguments: dict[str, dict] = {section: {} for section in ("", *SECTIONS)}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if key in SECTIONS:
            raise ValueError(f"{key}: {shown(value)}, allowed: {keys_of(SECTIONS[key])}")
        if key not in KEYS:
            raise unknown_key(key)
        allowed, read = reader(KEYS[key].type)
        try:
            arguments[section][name] = read(value)
        except (ValueError, TypeError, OverflowError, yaml.YAMLError) as error:
            raise ValueError(f"{key}: {shown(value)}, allowed: {allowed}") from error
    if "data.name" not in values:
        raise ValueError(f"data.name: missing, allowed: {reader(KEYS['data.name'].type)[0]}")
    sections = {name: cls(**arguments[name]) for name, cls in SECTIONS.items()}
    return Config(**arguments[""], **sections)


def reader(hint):
    """What a type allows, in words, and a function that makes its value from YAML's, or raises."""
    origin, kinds = get_origin(hint), get_args(hint)
    if types.NoneType in kinds:
        allowed, read = reader(kinds[0])
        return f"{allowed} or null", lambda x: None if x in (None, "null", "~") else read(x)
    if origin is Annotated:
        return kinds[1].words, functools.partial(in_range, *kinds)
    if origin is Literal:
        return ", ".join(kinds), lambda x: kinds[kinds.index(x)]
    if origin is tuple:
        allowed, read = reader(kinds[0])
        count = None if kinds[-1] is Ellipsis else len(kinds)
        return f"a list [a, b, ...] of {allowed}", functools.partial(listed, read, count)
    return "true or false", functools.partial(loaded, bool)


def in_range(kind, allowed, value):
    """A number or a string; numbers also from strings, as they come from the command line."""
    if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
        raise TypeError
    made = kind(value)
    if not allowed.holds(made) or (isinstance(value, float) and made != value):
        raise ValueError
    return made


def listed(read, count, value):
    """A tuple of so many values, `None` for any number."""
    values = loaded(list, value)
    if len(values) != (count or len(values)):
        raise ValueError
    return tuple(map(read, values))


def loaded(kind, value):
    """A value of a Python type; on the command line it is YAML."""
    value = yaml.safe_load(value) if isinstance(value, str) else value
    if not isinstance(value, kind):
        raise TypeError
    return value


def unknown_key(key):
    """The error for a key that does not exist."""
    section = SECTIONS.get(key.partition(".")[0], Config)
    return ValueError(f"{key}: unknown key, allowed: {keys_of(section)}")


def keys_of(cls):
    """The keys of a dataclass, in words."""
    return "the keys " + ", ".join(field.name for field in dataclasses.fields(cls))


def shown(value):
    """A value in a message; an empty one in quotes."""
    return "null" if value is None else str(value) if str(value).strip() else repr(value)
