"""What a run says of one of its models: figures and configuration, from the files of its folder."""

import contextlib
import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_smlp.checks import read_text, received, shown
from keras_smlp.inference import evaluated
from keras_smlp.inference.evaluated import MOST
from keras_smlp.training import files

# the model's file -> how the columns of its scores begin; that of the best epoch is in the summary
PREFIXES = {files.BEST: None, files.LAST: "val_", files.EMA: "ema_"}
OTHERS = (files.CALIBRATED,)  # of a run too, but not in its history
AVERAGED = "(averaged weights)"
# column -> the metric as the Hugging Face hub calls it, its name, the factor
METRICS = {
    "accuracy": ("accuracy", "top-1 accuracy, %", 100),
    "top5": ("accuracy", "top-5 accuracy, %", 100),
    "map": ("mean_average_precision", "mean average precision, %", 100),
    "f1": ("f1", "F1, %", 100),
    "loss": ("loss", "loss", 1),
}
# lines of the summary that say what was run on what; not the command, which has paths
FACTS = ("balanced accuracy", "classes in the mAP", "best epoch", "backend", "devices")
OF_BEST = ("balanced accuracy", "classes in the mAP")
# parts of a configuration that are about one machine, and keys with paths
MACHINE = ("eval", "distribution", "output_dir")
PATHS = {"data": ("dir", "manual_dir", "threads"), "train": ("logger",)}


@dataclass(frozen=True)
class Figures:
    """What was measured of a model, and how it was trained.

    Attributes:
        metrics: List of `(metric, name, value)` on the validation images.
        images: How many these are; `None` where it is not known.
        facts: Dict from a fact's name to its text.
        config: The configuration as nested dicts, without what is about one machine; empty where
            there is none.
        curves: Path of the picture of the run, or `None`.
    """

    metrics: list = field(default_factory=list)
    images: int | None = None
    facts: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    curves: Path | None = None


def read(model):
    """The `Figures` of a model that a run left in its folder.

    There are none for any other file, and none for `best.keras` if the run's summary is of another
    number of epochs than its history: then the run went on after the summary was written.

    Args:
        model: Path of the model's file.

    Returns:
        A `Figures`, empty if there is no run's folder around the file.

    Raises:
        ValueError: If a file of the run holds something else than a run writes; it names the file.
    """
    folder, name = Path(model).parent, Path(model).name
    history = folder / files.HISTORY
    rows = read_history(history)
    if name not in (*PREFIXES, *OTHERS) or not rows:
        return Figures()
    config = read_config(folder / files.CONFIG)
    summary = read_summary(folder / files.SUMMARY)
    if name in OTHERS:
        return Figures(config=config)
    best = re.fullmatch(r"(\d+) of (\d+)(.*)", summary.get("best epoch", ""))
    if best and not 1 <= int(best[1]) <= int(best[2]) == len(rows):
        best, summary = None, {}
    row, prefix = rows[-1], PREFIXES[name]
    if prefix is None:
        if best is None:
            return Figures(config=config)
        row = rows[int(best[1]) - 1]
        prefix = "ema_" if AVERAGED in best[3] else "val_"
    is_best = PREFIXES[name] is None
    images = re.search(r" on (\d+) images", summary.get("result", ""))
    curves = folder / files.CURVES
    return Figures(
        [
            (metric, name, number(history, prefix + column, row) * factor)
            for column, (metric, name, factor) in METRICS.items()
            if row.get(prefix + column)
        ],
        int(images[1]) if images else None,
        {
            key: summary[key]
            for key in FACTS
            if key in summary and (is_best or key not in (*OF_BEST, "best epoch"))
        },
        config,
        curves if curves.is_file() else None,
    )


def read_summary(path):
    """The facts in a run's `summary.md`, by their names; none if there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        return dict(re.findall(r"^- ([^:\n]+): (.*)$", read_text(path, MOST), re.MULTILINE))
    return {}


def read_history(path):
    """The rows of a run's `history.csv`, dicts by column; none if there is no such file."""
    with contextlib.suppress(OSError, ValueError, csv.Error):
        return list(csv.DictReader(read_text(path, MOST).splitlines()))
    return []


def number(path, column, row):
    """A number in a row of a table; `ValueError` if there is something else."""
    try:
        return float(row[column])
    except ValueError as error:
        raise ValueError(
            f"{shown(path)}: {column} must be a number. Received: {received(column, row[column])}"
        ) from error


def read_config(path):
    """A run's configuration without what is about one machine; empty if there is none.

    Its sections are dicts, and `data.resize_size` is a positive integer or `None`.
    """
    import yaml

    config: Any = {}
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        config = yaml.safe_load(read_text(path, MOST))
    if not isinstance(config, dict):
        return {}
    config = {key: value for key, value in config.items() if key not in MACHINE}
    for section in ("data", "model", "train"):
        if config.get(section) is None:  # without keys
            config.pop(section, None)
        elif not isinstance(config[section], dict):
            raise ValueError(
                f"{shown(path)}: {section} must be a section of keys. "
                f"Received: {received(section, config[section])}"
            )
    evaluated.of(config, path)
    for section, keys in PATHS.items():
        for key in keys:
            config.get(section, {}).pop(key, None)
    weights = config.get("model", {}).get("weights")
    if isinstance(weights, str) and "://" not in weights:
        config["model"]["weights"] = Path(weights).name
    return config
