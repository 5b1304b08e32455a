"""The configuration of train.py: what it reads, and one line for whatever it refuses."""

import dataclasses
import json
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from helpers.processes import ROOT, TESTS
from helpers.training import refused

from keras_smlp.data.recipe import DataConfig
from keras_smlp.training import config, presets
from keras_smlp.training.parsing import parse
from keras_smlp.variants import VARIANTS
from keras_smlp_cli import failures, train

pytestmark = pytest.mark.once

WEIGHTS = TESTS / "files_of_0_1_0" / "trained.keras"
NO_SHAPE = "--model.dim=null --model.depths=null"


def defaults(name, **train):
    """The configuration where all but the data, the network and `train` is left out."""
    return config.Config(
        data=DataConfig(name=name),
        model=config.ModelConfig(variant="tiny"),
        optimizer=config.OptimizerConfig(),
        train=config.TrainConfig(**train),
        eval=config.EvalConfig(),
        distribution=config.DistributionConfig(),
    )


# ---- what it reads ------------------------------------------------------------------------------


def test_without_arguments_it_reads_the_digits_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    read = parse([])
    assert (read.data.name, read.output_dir) == ("digits", "runs/digits")
    assert (read.model.dim, read.model.depths, read.model.input_size) == (32, (2, 2), 32)


def test_a_config_replaces_the_digits_and_the_line_goes_over_it_in_any_order(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "data: {name: cifar10}\nmodel: {variant: tiny}\ntrain: {epochs: 30, seed: 5}\n"
        "optimizer: {}\n"
    )
    for argv in (
        ["--config", str(file), "--train.epochs", "40"],
        ["--train.epochs", "40", "--config", str(file)],
        ["--train.epochs=40", f"--config={file}"],
    ):
        assert parse(argv) == defaults("cifar10", epochs=40, seed=5)


EVERY = yaml.safe_load("""
output_dir: a/b
data:
  {name: imagenette/320px-v2, dir: here, validation_fraction: 0.3, split_seed: 4,
  manual_dir: there, threads: 3, max_bad_fraction: 0.2,
  channels: 4, resize_size: 80, crop: center, crop_scale: [0.2, 0.9], crop_ratio: [0.5, 2.0],
  scaled_decoding: true, exif_orientation: true, max_shift: 0.25, flip: 0.1, augment: none,
  magnitude: 7.0,
  magnitude_std: 0.0, operations: 1, erase: 0.1, mixup: 0.2, cutmix: 0.0, group_size: 3,
  label_smoothing: 0.2, balance: weights, repeats: 1}
model:
  {variant: small, dim: null, depths: null, expansion: 4, patch_size: 2, input_size: 64,
  drop_path_rate: 0.5, weights: own.keras, new_head: false, freeze: 2}
optimizer:
  {base_lr: 1.0e-4, warmup_lr: 1.0e-7, min_lr: 1.0e-8, warmup_epochs: 2, schedule: step,
  weight_decay: 0.0, layer_decay: 0.7, accumulation: 2, clip_norm: 1.0, ema_decay: null}
train:
  {epochs: 3, batch_size: 9, loss: softmax, seed: 4, precision: mixed_bfloat16, remat: block,
  resume: false, allow_changed_data: true, checkpoint_minutes: 1.5, checkpoint_steps: 10,
  keep_checkpoints: 5, logger: mlflow}
eval: {only: true, batch_size: 5, predictions: p.csv, real_labels: r.json, probe: false,
  report: r.html, calibrate: true}
distribution:
  {kind: multi_host, coordinator: 127.0.0.1:9, processes: 2, rank: 1, batch_norm: global}
""")


def test_every_key_can_be_given_on_the_line(tmp_path):
    weights = tmp_path / "own.keras"
    weights.touch()
    EVERY["model"]["weights"] = str(weights)
    argv = [f"--output_dir={EVERY['output_dir']}"]
    for section, keys in EVERY.items():
        if section != "output_dir":
            argv += [f"--{section}.{key}={json.dumps(keys[key]).strip(chr(34))}" for key in keys]
    assert parse(argv).to_dict() == EVERY


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda f: f.stem)
def test_each_configuration_is_read_and_names_its_command(file):
    read = parse(["--config", str(file)])
    assert Path(read.output_dir) == Path("runs", file.stem)
    assert f"keras-smlp train --config {file.stem}" in file.read_text().splitlines()[0]
    assert parse(["--config", file.stem]) == read
    about, reaches = presets.about(file.stem)
    assert about and reaches
    variant = VARIANTS.get(read.model.variant)
    if file.stem.endswith("_imagenet"):
        assert reaches.startswith(f"{variant.published_top1}% (published by the authors")


def test_the_defaults_are_the_official_recipe():
    read = defaults("imagenet2012")
    assert (read.train.epochs, read.train.batch_size, read.data.group_size) == (300, 1024, 128)
    assert read.peak_lr == pytest.approx(1e-3)
    data = read.data
    assert (data.mixup, data.cutmix, data.erase, data.label_smoothing) == (0.8, 1.0, 0.25, 0.1)
    assert (data.magnitude, data.magnitude_std, data.operations) == (9, 0.5, 2)
    assert (data.repeats, data.flip, data.shorter_side(224)) == (3, 0.5, 256)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.new_head=true", "model.new_head: true with --eval, allowed: false"),
        ("--eval.predictions=no/p.csv", "eval.predictions: no/p.csv, allowed: a file in an e"),
        ("--eval.report=no/p.html", "eval.report: no/p.html, allowed: a file in an existing fo"),
        ("--eval.report=.", "eval.report: ., allowed: a file in an existing folder that can be wr"),
        ("--eval.report=r.txt", "eval.report: r.txt, allowed: a file ending in .html"),
    ],
)
def test_what_does_not_go_with_an_evaluation_alone(option, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(["--eval", f"--model.weights={WEIGHTS}", option])


def test_eval_may_stand_alone():
    read = parse(["--eval", f"--model.weights={WEIGHTS}"])
    assert read.eval.only and not parse([]).eval.only


@pytest.mark.parametrize(
    "argv", [[], ["--model.variant=small", *NO_SHAPE.split(), "--optimizer.base_lr=3e-5"]]
)
def test_the_resolved_config_reads_back_to_the_same(tmp_path, argv):
    read = parse(argv)
    file = tmp_path / "config.yaml"
    file.write_text(read.to_yaml())
    assert parse(["--config", str(file)]) == read


def test_a_section_may_be_a_file_and_all_values_are_printed(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 7")
    argv = ["--train.seed=3", f"--train={file}"]
    read = parse(argv)
    assert (read.train.epochs, read.train.batch_size, read.train.seed) == (7, 40, 3)
    with pytest.raises(SystemExit):
        parse([*argv, "--print_config"])
    assert capsys.readouterr().out == read.to_yaml()


def test_a_variant_sets_the_architecture():
    small = VARIANTS["small"]
    architecture = config.ModelConfig(variant="small").architecture()
    assert architecture == {"dim": small.dim, "depths": small.depths, "drop_path_rate": 0.2}
    lower = config.ModelConfig(variant="small", drop_path_rate=0.0).architecture()
    assert lower["drop_path_rate"] == 0.0
    free = config.ModelConfig(dim=8, depths=(1, 2)).architecture()
    assert free == {"dim": 8, "depths": (1, 2), "drop_path_rate": None}


def test_help_explains_every_key(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for section in dataclasses.fields(config.Config):
        inner = section.type if dataclasses.is_dataclass(section.type) else config.Config
        for key in dataclasses.fields(inner):
            name = key.name if inner is config.Config else f"{section.name}.{key.name}"
            if not dataclasses.is_dataclass(key.type):
                sentence = inner.__doc__.split(f"  {key.name}: ")[1].split("\n")[0]
                assert f"--{name} " in shown and sentence in shown
    assert "(int >0 and <2147483648, default: 10)" in shown


# ---- what it refuses ----------------------------------------------------------------------------

# arguments -> the key that the line begins with, what it must say of what was received or allowed
REFUSED = {
    "--train.epochs 0": ("train.epochs", "0, allowed: int >0"),
    "--train.epochs -1": ("train.epochs", "-1, allowed: int >0"),
    "--train.epochs 2147483648": ("train.epochs", "2147483648, allowed: int >0 and <2147483648"),
    "--train.checkpoint_minutes inf": (
        "train.checkpoint_minutes",
        "inf, allowed: float >0 and <inf",
    ),
    "--train.epochs many": ("train.epochs", "many, allowed: int >0"),
    "--train.epochs 1.5": ("train.epochs", "1.5, allowed: int >0"),
    "--train.epochs null": ("train.epochs", "null, allowed: int >0"),
    "--train.epochs": ("argument --train.epochs", "expected one argument"),
    "--train.epochs.x 3": ("train.epochs.x", "unknown key, allowed: the keys epochs, batch"),
    "--train.batch_size 0": ("train.batch_size", "0, allowed: int >0"),
    "--train.seed -1": ("train.seed", "-1, allowed: int >=0 and <2147483648"),
    "--train.seed 2147483648": ("train.seed", "2147483648, allowed: int >=0 and <2147483648"),
    "--train.precision float16": (
        "train.precision",
        "float16, allowed: float32, mixed_bfloat16, mixed_float16",
    ),
    "--train.epoch 3": (
        "train.epoch",
        "unknown key, allowed: the keys epochs, batch_size, loss, seed, precision, remat",
    ),
    "--trian.epochs 3": ("trian.epochs", "allowed: the keys output_dir, data, model, optimizer"),
    "--epochs=3": ("epochs", "allowed: the keys output_dir, data, model, optimizer, train"),
    "--conf any.yaml": ("conf", "allowed: the keys output_dir, data"),
    "-x": ("x", "allowed: the keys output_dir, data"),
    "stray": ("stray", "allowed: the keys output_dir, data"),
    "model.weights x.h5": ("model.weights", "unknown key, allowed: the keys variant"),
    "--train missing.yaml": ("train", "missing.yaml"),
    "--data.crop_scale [1": ("data.crop_scale", "[1, allowed: a list"),
    "--output_dir=": ("output_dir", "'', allowed: a path"),
    "--data.name=": ("data.name", "'', allowed: a name"),
    "--data.name npz": ("data.dir", "null with data.name npz, allowed: an .npz file"),
    "--data.name folder": ("data.dir", "null with data.name folder, allowed: a folder with train/"),
    "--data.crop sideways": ("data.crop", "sideways, allowed: resized, center"),
    "--data.crop_scale [0.5,0.1]": ("data.crop_scale", "allowed: the smaller one first"),
    "--data.crop_scale [0.5]": (
        "data.crop_scale",
        "[0.5], allowed: a list [a, b, ...] of float >0",
    ),
    "--data.augment keras_cv --data.erase 0.1": ("data.erase", "0.1 with data.augment keras_cv"),
    "--data.magnitude 11": ("data.magnitude", "11, allowed: float >=0 and <=10"),
    "--data.mixup 1 --data.group_size 3": ("data.group_size", "3, allowed: a divisor of train.ba"),
    "--data.resize_size 31": ("data.resize_size", "31, allowed: at least model.input_size, 32"),
    "--data.scaled_decoding maybe": ("data.scaled_decoding", "maybe, allowed: true or false"),
    "--eval": ("model.weights", "null with --eval, allowed: imagenet or a file"),
    "--eval.predictions p.csv": ("eval.predictions", "p.csv without --eval, allowed: null"),
    "--eval.report r.html": ("eval.report", "r.html without --eval, allowed: null"),
    "--eval.real_labels r.json": ("eval.real_labels", "r.json without --eval, allowed: null"),
    "--eval.only.x 3": ("eval.only.x", "unknown key, allowed: the keys only, batch_size"),
    "--model.freeze 3": ("model.freeze", "3, allowed: 0 to 2, the number of stages"),
    "--distribution.kind many": ("distribution.kind", "many, allowed: auto, none, data_parallel"),
    "--optimizer.ema_decay 1": ("optimizer.ema_decay", "1, allowed: float >=0 and <1 or null"),
    "--optimizer.schedule day": ("optimizer.schedule", "day, allowed: epoch, step"),
    "--train.checkpoint_steps 0": (
        "train.checkpoint_steps",
        "0, allowed: int >0 and <2147483648 or null",
    ),
    "--data.dir here": ("data.dir", "'here' with data.name digits, allowed: null"),
    "--data.max_shift 0.6": ("data.max_shift", "0.6, allowed: float >=0 and <=0.5"),
    "--model.variant huge": ("model.variant", "huge, allowed: tiny, small, base or null"),
    "--model.variant tiny": ("model.variant", "tiny beside dim=32 and depths=(2, 2), allowed"),
    "--model.dim 0": ("model.dim", "0, allowed: int >0 and <2147483648 or null"),
    "--model.dim null": ("model.dim", "missing, allowed: a model.variant, or both"),
    "--model.depths null": ("model.depths", "missing, allowed: a model.variant, or both"),
    "--model.depths []": ("model.depths", "missing, allowed: a model.variant, or both"),
    "--model.depths [2,0]": ("model.depths", "[2,0], allowed: a list [a, b, ...] of int >0"),
    "--model.depths 2": (
        "model.depths",
        "2, allowed: a list [a, b, ...] of int >0 and <2147483648 or null",
    ),
    "--model.expansion 0": ("model.expansion", "0, allowed: int >0"),
    "--model.patch_size 0": ("model.patch_size", "0, allowed: int >0"),
    "--model.input_size 36": ("model.input_size", "36, allowed: multiples of 8"),
    "--model.drop_path_rate 1": ("model.drop_path_rate", "1, allowed: float >=0 and <1 or null"),
    "--model.weights none.h5": ("model.weights", "'none.h5', allowed: null, imagenet or the path"),
    "--model.weights train.py": ("model.weights", "ends in one of .weights.h5, .keras, .pth"),
    "--model.weights imagenet": (
        "model.weights",
        "imagenet with model.variant null, allowed: model.variant one of small, base",
    ),
    f"--model.weights imagenet --model.variant tiny {NO_SHAPE}": (
        "model.weights",
        "imagenet with model.variant tiny, allowed: model.variant one of small, base",
    ),
    "--optimizer.base_lr 0": ("optimizer.base_lr", "0, allowed: float >0"),
    "--optimizer.base_lr nan": ("optimizer.base_lr", "nan, allowed: float >0"),
    "--optimizer.base_lr inf": ("optimizer.base_lr", "inf, allowed: float >0 and <=1"),
    "--optimizer.base_lr fast": ("optimizer.base_lr", "fast, allowed: float >0"),
    "--optimizer.min_lr 2": ("optimizer.min_lr", "2, allowed: float >0 and <=1"),
    "--optimizer.weight_decay -0.1": ("optimizer.weight_decay", "-0.1, allowed: float"),
    "--optimizer.warmup_epochs -1": ("optimizer.warmup_epochs", "-1, allowed: int"),
    "--optimizer.warmup_epochs 11": ("optimizer.warmup_epochs", "11, allowed: at most train.epo"),
    "--data.label_smoothing 1": ("data.label_smoothing", "1, allowed: float >=0 and <1"),
    "--config": ("argument --config", "expected one argument"),
    "--config=": ("config", "allowed: a YAML file"),
    "--config missing.yaml": ("config", "missing.yaml"),
    "--config .": ("config", "Is a directory"),
}
# the file of `--config` -> the same
BOTH = "data: {name: x}\nmodel: {variant: tiny}\n"
REFUSED_FILES = {
    "train: {epoch: 3}": ("train.epoch", "unknown key, allowed: the keys epochs, batch_size"),
    "trian: {epochs: 3}": (
        "trian",
        "unknown key, allowed: the keys output_dir, data, model, optimizer",
    ),
    "train: {epochs: three}": ("train.epochs", "three, allowed: int >0"),
    "train: {epochs: .inf}": ("train.epochs", "inf, allowed: int >0"),
    "train: {epochs: {}}": ("train.epochs", "{}, allowed: int >0"),
    "train: {epochs: true}": ("train.epochs", "True, allowed: int >0"),
    "train: {epochs: {a: 1}}": ("train.epochs", "{'a': 1}, allowed: int >0"),
    BOTH + "train: {epochs: null}": ("train.epochs", "null, allowed: int >0"),
    BOTH + "train: 3": ("train", "3, allowed: the keys epochs, batch_size"),
    BOTH + "train: null": ("train", "null, allowed: the keys epochs, batch_size"),
    BOTH + "train: [1]": ("train", "[1], allowed: the keys epochs, batch_size"),
    "output_dir: null\ndata: {name: x}": ("output_dir", "null, allowed: a path"),
    "data: {name: x}": ("model.dim", "missing, allowed: a model.variant, or both"),
    "model: {variant: tiny}": ("data.name", "missing, allowed: a name"),
    "train: [\n  epochs: 3": ("config", "bad.yaml"),
    "- 3": ("config", "bad.yaml"),
    "": ("config", "bad.yaml"),
    "1: 2": ("1", "unknown key, allowed: the keys output_dir, data, model, optimizer"),
    b"\xff\xfe\x00": ("config", "bad.yaml"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in, where a configuration that is not refused trains nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda config: pytest.fail(f"accepted: {config}"))
    return tmp_path


@pytest.mark.parametrize("line", REFUSED)
def test_one_line_names_the_key(line, capsys, here):
    key, saying = REFUSED[line]
    error = refused(capsys, *line.split())
    assert error.startswith(f"train.py: error: {key}: ") and saying in error
    assert list(here.iterdir()) == []  # nothing was begun


@pytest.mark.parametrize("content", REFUSED_FILES)
def test_one_line_names_the_key_of_a_file(content, capsys, here):
    Path("bad.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    key, saying = REFUSED_FILES[content]
    error = refused(capsys, "--config", "bad.yaml")
    assert error.startswith(f"train.py: error: {key}: ") and saying in error
    assert list(here.iterdir()) == [here / "bad.yaml"]


# ---- hostile files ------------------------------------------------------------------------------
LETTERS = "abcdefghij"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise(LETTERS)
)
HOSTILE = {
    "laughs": (LAUGHS, "config", "more than 10000 keys and values"),
    "a circle": ("a: &a [*a]", "config", "an alias of what it is in"),
    "a key twice": (BOTH + "train: {epochs: 1, epochs: 2}", "config", "the key 'epochs' twice"),
    "a key twice, once whole": (
        BOTH + "train: {epochs: 1}\ntrain.epochs: 2",
        "train.epochs",
        "given twice",
    ),
    "brackets": ("[" * 60_000, "config", "brackets in one another"),
    "dashes": ("- " * 30_000, "config", "recursion"),
    "400 digits": (BOTH + f"train: {{batch_size: {'9' * 400}}}", "train.batch_size", "18 digits"),
    "hexadecimal": (BOTH + f"train: {{seed: 0x{'f' * 9999}}}", "config", "1000 digits"),
    "sexagesimal": (BOTH + f"optimizer: {{base_lr: 1{':1' * 3000}.5}}", "config", "too large"),
    "no integer": ("a: !!int ''", "config", "string index out of range"),
    "no time": ("a: !!timestamp x", "config", "NoneType"),
    "no truth": ("a: !!bool x", "config", "x"),
    "large": ("#" * 70_000, "config", "more than 65536 bytes"),
    "a terminal's key": (BOTH + '"\\e[2J": 3', "\\x1b[2J", "unknown key"),
    "code": ("!!python/object/apply:os.system [touch x]", "config", "constructor"),
}


@pytest.mark.parametrize(("content", "key", "saying"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_at_once(content, key, saying, capsys, here):
    Path("bad.yaml").write_text(content)
    start = time.perf_counter()
    error = refused(capsys, "--config", "bad.yaml")
    assert time.perf_counter() - start < 5
    assert error.startswith(f"train.py: error: {key}: ") and saying in error
    assert len(error) < 1000 and error.rstrip("\n").isprintable()
    assert [path.name for path in here.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize("line", ["--model.depths=" + "[" * 9999, f"--train.epochs={'9' * 5000}"])
def test_a_hostile_argument_is_refused_in_short(line, capsys, here):
    error = refused(capsys, line)
    assert error.startswith(f"train.py: error: {line[2:14]}") and len(error) < 400


def test_no_error_moves_a_terminal():
    assert failures.one_line("no\n\n file: \x1b[2J.yaml") == "no file: \\x1b[2J.yaml"


def test_aliases_and_merged_keys_are_read(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(BOTH + "optimizer: {base_lr: &r 1.0e-4, min_lr: *r}\ntrain: &t {epochs: 30}\n")
    read = parse(["--config", str(file)])
    assert (read.optimizer.min_lr, read.train.epochs) == (1e-4, 30)


def test_the_documented_cluster_commands_are_read():
    text = (ROOT / "docs" / "recipe.md").read_text().partition("### On clusters")[2]
    commands = re.findall(r"train\.py (--config .*?--output_dir [\w/]+)", text, re.DOTALL)
    assert len(commands) == 6
    for command in commands:
        words = command.replace("\\\n", " ").replace('"$JOB_COMPLETION_INDEX"', "1").split()
        read = parse([str(ROOT / x) if x.startswith("configs/") else x for x in words])
        assert read.distribution.kind == ("multi_host" if "multi_host" in command else "auto")
        read.check_groups(16 if read.data.group_size == 64 else 8)
