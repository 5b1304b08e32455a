"""The configuration of a run: typed; what belongs together is checked together."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from keras_smlp.data import ranges
from keras_smlp.data.recipe import DataConfig
from keras_smlp.training import known
from keras_smlp.variants import VARIANTS, list_models
from keras_smlp.weights import loading

# the batch that base_lr is meant for
REFERENCE_BATCH = 512


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
        weights: Initial weights: null, imagenet, a file or an address on the Hugging Face hub
            (hf://ACCOUNT/NAME@REVISION), from which the architecture, the input_size and
            data.channels are taken where nothing else is said; what a configuration of this
            package says of the network is not. If they have no head, or one for another number of
            classes, only the rest is taken.
        new_head: Begin with a new head even if the number of classes is the same.
        freeze: Fine-tuning: how many stages, from the stem on, are kept as they are.
    """

    variant: Literal[tuple(VARIANTS)] | None = None  # type: ignore[valid-type]
    dim: ranges.PositiveInt | None = None
    depths: tuple[ranges.PositiveInt, ...] | None = None
    expansion: ranges.PositiveInt = 3
    patch_size: ranges.PositiveInt = 4
    input_size: ranges.PositiveInt = 224
    drop_path_rate: ranges.Rate | None = None
    weights: ranges.FileName | None = None
    new_head: bool = False
    freeze: ranges.NonNegativeInt = 0

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
        if self.freeze > len(self.architecture()["depths"]):
            raise ValueError(
                f"model.freeze: {self.freeze}, allowed: 0 to {len(self.architecture()['depths'])}, "
                "the number of stages"
            )
        published = list_models(pretrained=True)
        if self.weights == "imagenet" and self.variant not in published:
            raise ValueError(
                f"model.weights: imagenet with model.variant {self.variant or 'null'}, allowed: "
                f"model.variant one of {', '.join(published)}"
            )
        if self.weights not in (None, "imagenet") and not known.is_file(self.weights):
            raise ValueError(
                f"model.weights: {self.weights!r}, allowed: null, imagenet or the path of a file "
                f"that ends in one of {', '.join(loading.ENDINGS)}, or hf://ACCOUNT/NAME@REVISION"
            )

    def architecture(self):
        """The arguments of `keras_smlp.SMLPNet` that a variant sets."""
        published = VARIANTS[self.variant] if self.variant else self
        rate = self.drop_path_rate
        return {
            "dim": published.dim,
            "depths": published.depths,
            "drop_path_rate": published.drop_path_rate if rate is None else rate,
        }


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, the learning rate warmed up linearly, then cosine; the defaults are the recipe.

    Attributes:
        base_lr: Learning rate after the warm-up for 512 images in an update; scaled linearly.
        warmup_lr: Learning rate at the start of the warm-up, not scaled.
        min_lr: Learning rate at the end of the cosine, not scaled.
        warmup_epochs: Epochs of linear warm-up, at most train.epochs.
        schedule: epoch changes the learning rate after each epoch and lags one behind, as the
            official code; step changes it after each step.
        weight_decay: Decay of all weights but biases and norms.
        layer_decay: Factor of the learning rate from each block to the one before it; the head has
            the whole rate. 1 for the same everywhere.
        accumulation: Batches whose gradients are averaged for one update.
        clip_norm: Largest norm of all gradients together; null for no clipping.
        ema_decay: Decay of the average over weights and statistics; null for none.
    """

    base_lr: ranges.Fraction = 5e-4
    warmup_lr: ranges.Fraction = 1e-6
    min_lr: ranges.Fraction = 1e-5
    warmup_epochs: ranges.NonNegativeInt = 20
    schedule: Literal["epoch", "step"] = "epoch"
    weight_decay: ranges.UnitInterval = 0.05
    layer_decay: ranges.Fraction = 1.0
    accumulation: ranges.PositiveInt = 1
    clip_norm: ranges.PositiveFloat | None = None
    ema_decay: ranges.Rate | None = 0.99996


@dataclass(frozen=True)
class TrainConfig:
    """The run.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images in a step, over all devices and processes.
        loss: softmax where an image has one label; sigmoid for a probability of each class by
            itself: binary cross entropy, and any number of labels in .npz and CSV files (a;b).
            An evaluation takes it from a .keras file.
        seed: Seed of the weights, the order and the augmentation.
        precision: Dtype policy of the network.
        remat: block, to keep of each half of a block its input alone and compute the rest again in
            the backward pass: less memory, more time; null for not.
        resume: Go on from the newest checkpoint in output_dir; false refuses a folder with one.
        allow_changed_data: Go on from a checkpoint although the names, sizes or order of the
            images have changed since.
        checkpoint_minutes: Minutes between checkpoints within an epoch; each epoch ends with one.
        checkpoint_steps: Steps between them, instead; null for minutes.
        keep_checkpoints: How many of the newest checkpoints stay.
        logger: Where the history is sent beside the files in output_dir: mlflow, wandb (Weights &
            Biases), or none.
    """

    epochs: ranges.PositiveInt = 300
    batch_size: ranges.PositiveInt = 1024
    loss: Literal["softmax", "sigmoid"] = "softmax"
    seed: ranges.Seed = 0
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    remat: Literal["block"] | None = None
    resume: bool = True
    allow_changed_data: bool = False
    checkpoint_minutes: ranges.PositiveFloat = 15.0
    checkpoint_steps: ranges.PositiveInt | None = None
    keep_checkpoints: ranges.PositiveInt = 2
    logger: Literal["none", "mlflow", "wandb"] = "none"


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation.

    Attributes:
        only: Evaluate model.weights and train nothing; `--eval` says the same.
        batch_size: Images in a step; null for train.batch_size, at most 256.
        predictions: CSV file for one row per image; null for none.
        real_labels: JSON file of several labels per validation image, as ReaL's; null for none.
        probe: Instead of the network's own answers, judge its features, by k-NN and a linear probe
            fitted on the training images. The weights may have any head.
        report: HTML file on what an evaluation found; null for none. A training writes report.html
            in any case.
        calibrate: Fit a temperature on half of the validation images, judge it on the others, and
            save the network with it as calibrated.keras in output_dir.
    """

    only: bool = False
    batch_size: ranges.PositiveInt | None = None
    predictions: ranges.FileName | None = None
    real_labels: ranges.FileName | None = None
    probe: bool = False
    report: ranges.FileName | None = None
    calibrate: bool = False


@dataclass(frozen=True)
class DistributionConfig:
    """The devices.

    Attributes:
        kind: auto (all local devices; several PyTorch processes under torchrun), none,
            data_parallel, or multi_host.
        coordinator: Address of the first process, host:port; multi_host on JAX.
        processes: Number of processes; multi_host on JAX.
        rank: Number of this process, from 0; multi_host on JAX.
        batch_norm: Statistics over a device's images (local, the official way) or over all
            (global); auto for what the backend does.
    """

    kind: Literal["auto", "none", "data_parallel", "multi_host"] = "auto"
    coordinator: ranges.FileName | None = None
    processes: ranges.PositiveInt | None = None
    rank: ranges.NonNegativeInt | None = None
    batch_norm: Literal["auto", "local", "global"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that a run reads.

    Attributes:
        output_dir: Folder of the results and checkpoints; a run goes on from what is in it.
        data: The images.
        model: The network.
        optimizer: The optimization.
        train: The run.
        eval: The evaluation.
        distribution: The devices.
    """

    output_dir: ranges.FileName = "runs/train"
    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    eval: EvalConfig
    distribution: DistributionConfig

    def __post_init__(self):
        data, train, size = self.data, self.train, self.model.input_size
        if self.optimizer.warmup_epochs > train.epochs:
            raise ValueError(
                f"optimizer.warmup_epochs: {self.optimizer.warmup_epochs}, allowed: at most "
                f"train.epochs, {train.epochs}"
            )
        if data.shorter_side(size) < size:
            raise ValueError(
                f"data.resize_size: {data.resize_size}, allowed: at least model.input_size, {size}"
            )
        self.check_groups()
        if not self.eval.only:  # which augments nothing
            data.check_augment()
        if data.balance == "weights" and train.loss == "sigmoid":
            raise ValueError(
                "data.balance: weights with train.loss sigmoid, allowed: none, sampling"
            )
        if self.eval.only and self.model.weights is None:
            raise ValueError("model.weights: null with --eval, allowed: imagenet or a file")
        if self.eval.only and self.model.new_head:
            raise ValueError("model.new_head: true with --eval, allowed: false")
        for key in ("predictions", "real_labels", "report"):
            path = getattr(self.eval, key)
            if path and not self.eval.only:
                raise ValueError(f"eval.{key}: {path} without --eval, allowed: null")
            if path and self.eval.probe:
                raise ValueError(f"eval.{key}: {path} with eval.probe, allowed: null")
        if self.eval.probe and not self.eval.only:
            raise ValueError("eval.probe: true without --eval, allowed: false")
        if self.eval.probe and self.eval.calibrate:
            raise ValueError("eval.calibrate: true with eval.probe, allowed: false")
        for key in ("predictions", "report"):
            path = getattr(self.eval, key)
            if path and not may_be_written(Path(path)):
                raise ValueError(
                    f"eval.{key}: {path}, allowed: a file in an existing folder that can be "
                    "written to"
                )
        if self.eval.report and not self.eval.report.endswith(".html"):
            raise ValueError(f"eval.report: {self.eval.report}, allowed: a file ending in .html")

    def check_groups(self, parts=1, kind="processes"):
        """Raises `ValueError` unless each part of a batch consists of whole groups."""
        share, data = self.train.batch_size / parts, self.data
        if (data.mixes or data.repeats > 1) and share % data.group_size:
            raise ValueError(
                f"data.group_size: {data.group_size}, allowed: a divisor of train.batch_size"
                f"{f' / {parts} {kind}' if parts > 1 else ''}, {share:g}"
            )

    @property
    def peak_lr(self):
        """The learning rate after the warm-up: linear in the images of an update."""
        update = self.train.batch_size * self.optimizer.accumulation
        return self.optimizer.base_lr * update / REFERENCE_BATCH

    def to_yaml(self):
        """All values as YAML that `--config` reads back to the same `Config`."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def to_dict(self):
        """All values as plain dicts, lists, strings and numbers."""
        # by JSON: YAML has no tuples
        return json.loads(json.dumps(dataclasses.asdict(self)))


def may_be_written(path):
    """Whether a path is a file, or none yet, in a folder that can be written to."""
    return not path.is_dir() and path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
