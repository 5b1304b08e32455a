"""Reads the configuration of a run from YAML files and the command line.

Keys, types and the sentences of `--help` are those of the dataclasses in `config`. A wrong
key or value is one line: `key: what was received, allowed: ...`.
"""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import re
import types
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from keras_smlp import checks
from keras_smlp.training import known, presets
from keras_smlp.training.config import Config

MAX_FILE = 1 << 16  # bytes of a YAML file
MAX_VALUES = 10_000  # keys and values of a YAML text, those that aliases repeat included
MAX_DEPTH = 20  # lists and mappings in one another on one line
MAX_TEXT = 1000  # characters of an integer in YAML
MAX_DIGITS = 18  # of an integer, so that it fits into 64 bits
# name -> dataclass of a section; whole key, such as "train.epochs" -> field of its dataclass
SECTIONS: dict[str, Any] = {}
KEYS: dict[str, Any] = {}
for outer in dataclasses.fields(Config):
    if dataclasses.is_dataclass(outer.type):
        SECTIONS[outer.name] = outer.type
        KEYS |= {f"{outer.name}.{field.name}": field for field in dataclasses.fields(outer.type)}
    else:
        KEYS[outer.name] = outer


def parse(argv, prog="keras-smlp train", about="Trains an sMLPNet."):
    """Reads the configuration of a run.

    Args:
        argv: Arguments of the command line: `--config NAME`, the path of a YAML file or a name of
            `presets.names` (default: `digits`), `--section.key value`, which goes over the file's
            wherever it stands, and `--eval`. What neither says of the network and of
            `data.channels` is taken from the file `model.weights`, and in an evaluation
            `train.loss`. What a configuration by its name says of the network gives way to it.
        prog: String. What the user typed, for `--help`. Defaults to the installed command.
        about: String. What the command does, for `--help`. Defaults to a training.

    Returns:
        A `Config`. `--help` and `--print_config` print and exit instead.

    Raises:
        ValueError: If anything is wrong: one line `key: what was received, allowed: ...`.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [--config NAME] [--eval] [--section.key VALUE ...]",
        description=about,
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    named = f"YAML file of these keys, or one of {', '.join(presets.names())}"
    parser.add_argument("--config", action="append", metavar="NAME", help=named)
    parser.add_argument("--print_config", action="store_true", help="print all values and exit")
    parser.add_argument("--eval", action="store_true", help="the same as --eval.only true")
    values: dict[str, Any] = {}
    of_presets: set[str] = set()  # those of the values that no file of the user's says
    try:
        # the files first: the line goes over them, and `--help` shows their values
        found, _ = parser.parse_known_args(argv)
        for name in getattr(found, "config", [presets.DEFAULT]):
            is_preset = name in presets.names()
            said = by_key(read_yaml(presets.path_of(name) if is_preset else name, "config"))
            values |= said
            of_presets = of_presets | said.keys() if is_preset else of_presets - said.keys()
        line = by_key(said_on(argv))
        values = known.pinned(values | line)
        # then what the weights know, where neither says it
        evaluates = is_true(values, "eval.only") and not is_true(values, "eval.probe")
        values = known.completed(values, of_presets - line.keys(), evaluates)
        add_options(parser, values)
        found, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if unknown:
        raise unknown_key(unknown[0].lstrip("-").partition("=")[0])
    config = build(values)
    if hasattr(found, "print_config"):
        print(config.to_yaml(), end="")
        raise SystemExit
    return config


def said_on(argv):
    """What the command line says of sections and keys, before `--help` ends the program."""
    parser = argparse.ArgumentParser(
        argument_default=argparse.SUPPRESS, add_help=False, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--eval", action="store_true")
    for key in (*SECTIONS, *KEYS):
        if key != "eval":  # taken
            parser.add_argument(f"--{key}")
    line = vars(parser.parse_known_args(argv)[0])
    if line.pop("eval", False):
        line["eval.only"] = True
    return line


def is_true(values, key):
    """Whether a key is true; what is no value of it will be refused later."""
    with contextlib.suppress(ValueError, TypeError):
        return loaded(bool, values.get(key, False))
    return False


def read_yaml(file, key):
    """The keys and values in a YAML file; `key` is `config` or that of a section."""
    try:
        values = read(checks.read_text(file, MAX_FILE))
        problem = "no mapping"
    except (OSError, ValueError) as error:
        values, problem = None, str(error)
    if isinstance(values, dict):
        return values
    keys = keys_of(SECTIONS.get(key, Config))
    keys += f", or one of {', '.join(presets.names())}" * (key == "config")
    raise ValueError(
        f"{key}: {checks.shown(file)} ({checks.shown(problem)}), allowed: a YAML file with {keys}"
    )


class Loader(yaml.SafeLoader):
    """YAML's plain values, no key twice, and no more of them than a configuration can have."""

    def fetch_flow_collection_start(self, token_class):
        # the scanner's time grows with the square of the depth
        if self.flow_level >= MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} brackets in one another")
        super().fetch_flow_collection_start(token_class)

    def get_single_data(self):
        node = self.get_single_node()
        if node is None:
            return None
        if self.count(node, {}) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} keys and values")
        return self.construct_document(node)

    def count(self, node, known):
        """How many values a node is, its aliases written out; `known` has those of other nodes."""
        if node in known:
            if known[node] is None:
                raise ValueError("an alias of what it is in")
            return known[node]
        known[node] = None
        inner = [] if isinstance(node, yaml.ScalarNode) else node.value
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for pair in inner for part in pair] if pairs else inner
        known[node] = 1 + sum(self.count(part, known) for part in inner)
        return known[node]

    def construct_mapping(self, node, deep=False):
        found = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in found and key.value != "<<":
                    raise ValueError(f"the key {key.value!r} twice")
                found.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node):
        if len(node.value) > MAX_TEXT:
            raise ValueError(f"an integer of more than {MAX_TEXT} digits")
        return super().construct_yaml_int(node)


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)


def read(text):
    """The values in a YAML text; raises `ValueError` if it is no good one."""
    try:
        return yaml.load(text, Loader)
    except Exception as error:  # YAML's own, and what its constructors raise of odd values
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def by_key(values):
    """The values by their whole keys; of a section they are a dict or the name of a file."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in SECTIONS and isinstance(value, str):
            value = read_yaml(value, name)
        inner = {str(name): value}
        if name in SECTIONS and isinstance(value, dict):
            inner = {f"{name}.{key}": x for key, x in value.items()}
        if twice := found.keys() & inner.keys():
            raise ValueError(f"{checks.shown(min(twice))}: given twice, allowed: once")
        found |= inner
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
        except (ValueError, TypeError, OverflowError) as error:
            if isinstance(error, OverflowError):
                allowed += f", of at most {MAX_DIGITS} digits"
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
    if kind is int and abs(made) >= 10**MAX_DIGITS:
        raise OverflowError
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
    value = read(value) if isinstance(value, str) else value
    if not isinstance(value, kind):
        raise TypeError
    return value


def unknown_key(key):
    """The error for a key that does not exist."""
    section = SECTIONS.get(key.partition(".")[0], Config)
    return ValueError(f"{checks.shown(key)}: unknown key, allowed: {keys_of(section)}")


def keys_of(cls):
    """The keys of a dataclass, in words."""
    return "the keys " + ", ".join(field.name for field in dataclasses.fields(cls))


def shown(value):
    """A value in a message; an empty one in quotes."""
    text = "null" if value is None else str(value)
    return checks.shown(text if text.strip() else repr(value))
