"""The configuration of train.py: typed, from YAML and the command line, checked before Keras loads.

Nothing heavy may be imported here. The library is jsonargparse (why: docs/dependencies.md).
"""

import argparse
import dataclasses
import json
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    PositiveInt,
    restricted_number_type,
    restricted_string_type,
)

from keras_smlp.variants import VARIANTS, list_models
from keras_smlp.weights.endings import KERAS, OFFICIAL

DEFAULT_CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


def number(name, base, *restrictions):
    """A type such as jsonargparse's `PositiveInt`; its docstring says what it allows, as theirs."""
    bounds = " and ".join(f"{sign}{bound}" for sign, bound in restrictions)
    docstring = f"{base.__name__} restricted to be {bounds}"
    return restricted_number_type(name, base, list(restrictions), docstring=docstring)


LearningRate = number("LearningRate", float, (">", 0), ("<=", 1))
Rate = number("Rate", float, (">=", 0), ("<", 1))
Shift = number("Shift", float, (">=", 0), ("<=", 0.5))
Seed = number("Seed", int, (">=", 0), ("<", 2**31))
FileName = restricted_string_type("FileName", r".*\S.*", docstring="a path")


@dataclass(frozen=True)
class DataConfig:
    """The images.

    Attributes:
        name: Data set: digits (bundled with scikit-learn).
        dir: Folder of the data set; null for digits, which needs none.
        max_shift: Augmentation: largest random shift, as a part of the image's side.
    """

    name: Literal["digits"] = "digits"
    dir: str | None = None
    max_shift: Shift = 0.0

    def __post_init__(self):
        if self.name == "digits" and self.dir is not None:
            raise ValueError(f"data.dir: {self.dir!r} with data.name digits, allowed: null")


@dataclass(frozen=True)
class ModelConfig:
    """The network: a published variant, or dim and depths.

    Attributes:
        variant: Published architecture, instead of dim and depths.
        dim: Channels of the first stage.
        depths: Blocks of each stage.
        expansion: Hidden width of the channel mixing, in multiples of the channels.
        patch_size: Side in pixels of the stem's patches.
        input_size: Side in pixels of the images, a multiple of patch_size * 2 ** (stages - 1).
        drop_path_rate: Stochastic depth of the last block; null for the variant's own, else 0.
        weights: Initial weights: null, imagenet or a file.
    """

    variant: Literal[tuple(VARIANTS)] | None = None
    dim: PositiveInt | None = None
    depths: tuple[PositiveInt, ...] | None = None
    expansion: PositiveInt = 3
    patch_size: PositiveInt = 4
    input_size: PositiveInt = 224
    drop_path_rate: Rate | None = None
    weights: FileName | None = None

    def __post_init__(self):
        if self.variant and (self.dim or self.depths):
            raise ValueError(
                f"model.variant: {self.variant} beside dim={self.dim} and depths={self.depths}, "
                "allowed: one of them (--model.dim null --model.depths null)"
            )
        if not self.variant and not (self.dim and self.depths):
            raise ValueError(
                f"model.{'depths' if self.dim else 'dim'}: missing, allowed: a model.variant, or "
                "both model.dim and model.depths"
            )
        stride = self.patch_size * 2 ** (len(self.architecture()["depths"]) - 1)
        if self.input_size % stride:
            raise ValueError(
                f"model.input_size: {self.input_size}, allowed: multiples of {stride} "
                "(patch_size * 2 ** (stages - 1))"
            )
        published = list_models(pretrained=True)
        if self.weights == "imagenet" and self.variant not in published:
            raise ValueError(
                f"model.weights: imagenet with model.variant {self.variant or 'null'}, allowed: "
                f"model.variant one of {', '.join(published)}"
            )
        if self.weights not in (None, "imagenet") and not (
            self.weights.endswith(OFFICIAL + KERAS) and Path(self.weights).is_file()
        ):
            raise ValueError(
                f"model.weights: {self.weights!r}, allowed: null, imagenet or the path of a file "
                f"that ends in one of {', '.join(OFFICIAL + KERAS)}"
            )

    def architecture(self):
        """The arguments of `keras_smlp.SMLPNet` that a variant sets."""
        published = VARIANTS.get(self.variant, self)
        rate = self.drop_path_rate
        return {
            "dim": published.dim,
            "depths": published.depths,
            "drop_path_rate": published.drop_path_rate if rate is None else rate,
        }


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, the learning rate warmed up linearly, then cosine.

    Attributes:
        learning_rate: Highest learning rate, after the warm-up.
        weight_decay: Decay of all weights but biases and norms.
        warmup_epochs: Epochs of linear warm-up, at most train.epochs.
        label_smoothing: Part of the target spread over all classes.
    """

    learning_rate: LearningRate = 1e-3
    weight_decay: ClosedUnitInterval = 0.05
    warmup_epochs: NonNegativeInt = 0
    label_smoothing: Rate = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """The run.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images in a step.
        seed: Seed of the weights, the order and the augmentation.
        precision: Dtype policy of the network.
    """

    epochs: PositiveInt = 1
    batch_size: PositiveInt = 64
    seed: Seed = 0
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that train.py reads.

    Attributes:
        output_dir: Folder of the results; those of an earlier run in it are replaced.
        data: The images.
        model: The network.
        optimizer: The optimisation.
        train: The run.
    """

    output_dir: FileName = "runs/train"
    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    train: TrainConfig

    def __post_init__(self):
        if self.optimizer.warmup_epochs > self.train.epochs:
            raise ValueError(
                f"optimizer.warmup_epochs: {self.optimizer.warmup_epochs}, allowed: at most "
                f"train.epochs, {self.train.epochs}"
            )

        if self.model.weights == "imagenet" and self.data.name == "digits":
            raise ValueError(
                "model.weights: imagenet with data.name digits, which has 10 classes, not 1000, "
                "allowed: null or the path of a file"
            )

    def to_yaml(self):
        """All values as YAML that `--config` reads back to the same `Config`."""
        # by JSON: YAML has no tuples and knows no subclass of int such as PositiveInt
        return yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(self))), sort_keys=False)


def parse(argv):
    """Reads the configuration of a run.

    Args:
        argv: Arguments of the command line: `--config FILE` (default: `configs/digits.yaml`) and
            `--section.key value`, which goes over the file's wherever it stands.

    Returns:
        A `Config`. `--help` prints and exits instead.

    Raises:
        ValueError: If anything is wrong: one line `key: what was received, allowed: ...`.
    """
    # jsonargparse lets the last one win; the line shall win over the file in any order
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", action="append", default=[])
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
        values = parser.parse_args([*(f"--config={name}" for name in files), *overrides])
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
        if is_section:
            value = build(hint, value, f"{key}.")
        arguments[name] = value
    return cls(**arguments)


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
    if hint in (str, types.NoneType):
        return "a string" if hint is str else "null"
    return hint.__doc__.replace(" restricted to be", "")
