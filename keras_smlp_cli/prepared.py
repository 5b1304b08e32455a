"""What a training and an evaluation both need: the images, and a network with its weights."""

import functools
import math
from pathlib import Path
from typing import Any

import keras

from keras_smlp.data import decode, pipeline, sources
from keras_smlp.training import evaluation, known, several_labels
from keras_smlp.training import network as networks
from keras_smlp_cli.failures import Failure, exit_on_errors

# what the package calls an argument -> the key of the configuration
KEYS = {
    "path": "data.dir",
    "name": "data.name",
    "max_fraction": "data.max_bad_fraction",
    "real_labels": "eval.real_labels",
    "batch_size": "train.batch_size",
    "gradient_accumulation_steps": "optimizer.accumulation",
}
KEYS |= {name: f"distribution.{name}" for name in ("kind", "coordinator", "processes", "rank")}
KEYS |= {"batch_norm": "distribution.batch_norm"}

# of weights: a value that is no good, a file that cannot be read, a download that failed
BUILDING = (ValueError, OSError, RuntimeError)


class Prepared:
    """The images and the network of a configuration; what is wrong with them ends the command.

    Args:
        config: A `config.Config`.
        engine: An `engines.Engine`.

    Attributes:
        say: Function that prints in the main process.
        source: `splits.Source`. The data set.
        classes: Integer. How many classes it has.
        real_labels: What `evaluation.read_real` returns; `None` if they are not asked for.
        bad: `decode.BadFiles`. The files that cannot be decoded.
        network: The network, which ends in logits; built when it is first asked for.
    """

    def __init__(self, config: Any, engine: Any):
        self.config, self.engine = config, engine
        # at once, also into a file: a compilation may come next
        self.say = functools.partial(print, flush=True) if engine.is_main else lambda *_: None
        if engine.devices > 1:
            self.say(engine.describe())
        keras.utils.set_random_seed(config.train.seed)
        self.source, self.real_labels = self.load()
        self.classes = len(self.source.class_names)
        self.check_labels()
        # of the main process, of the others, of an evaluation beside a run: each begins its own
        log = "bad_files" + "_eval" * config.eval.only + f"_{engine.rank}" * (not engine.is_main)
        images = len(self.source.train) + len(self.source.validation)
        self.bad = decode.BadFiles(Path(config.output_dir) / f"{log}.txt", images)

    def load(self):
        """The data set, and the real labels of its validation images."""
        config = self.config
        with exit_on_errors(keys=KEYS):
            source = sources.load(
                config.data.name,
                config.data.dir,
                config.data.manual_dir,
                config.data.validation_fraction,
                config.data.split_seed,
                several=config.train.loss == "sigmoid",
                channels=config.data.channels,
            )
            if config.eval.only and not config.eval.probe:
                source, note = known.with_classes(source, config.model.weights)
                if note:
                    self.say(f"model.weights: {note}")
            path = config.eval.real_labels
            return source, path and evaluation.read_real(path, len(source.class_names))

    def check_labels(self):
        """Refuses what cannot be done with the labels that the data have."""
        config = self.config
        if self.source.several:
            for key, value, allowed in (
                ("data.balance", config.data.balance, "none"),
                ("eval.real_labels", config.eval.real_labels, None),
            ):
                if value != allowed:
                    raise Failure(
                        f"{key}: {value} with several labels an image, allowed: {allowed or 'null'}"
                    )
        if config.data.balance != "none" and self.source.train.labels is None:
            raise Failure(
                f"data.balance: {config.data.balance} with data.name {config.data.name}, allowed: "
                "none"
            )

    @functools.cached_property
    def network(self):
        """The network with its initial weights."""
        config = self.config
        with self.engine.scope(), exit_on_errors(BUILDING, "model: "):
            net, left_out, trained_at = networks.build(
                config.model, self.classes, config.train.precision, config.data.channels
            )
        if known.is_file(config.model.weights):
            with exit_on_errors(prefix="model.weights: "):
                self.say(f"model.weights: {known.in_words(config.model.weights)}")
        if left_out is not None and config.eval.only and not config.eval.probe:  # which uses none
            theirs = f"a head for {left_out} classes" if left_out else "no head"
            raise Failure(
                f"model.weights: {theirs}, allowed: a head for {self.classes} classes, as the data"
            )
        if left_out is not None and not config.eval.only:
            instead = f" instead of that for {left_out}" if left_out else ""
            self.say(f"model.weights: a new head for {self.classes} classes{instead}")
        if trained_at:
            self.say(f"model.weights: {networks.fitted_in_words(trained_at, net)}")
        return net

    # ---- batches --------------------------------------------------------------------------------
    @property
    def share(self):
        """What of the images this process reads, and where it notes what it cannot decode."""
        return {"bad": self.bad, "rank": self.engine.rank, "processes": self.engine.processes}

    def training_batches(self):
        """The function of `pipeline.train_batches`."""
        train = self.config.train
        return pipeline.train_batches(
            self.source.train,
            self.config.data,
            self.config.model.input_size,
            self.classes,
            train.batch_size,
            train.seed,
            **self.share,
        )

    def batches_of(self, split):
        """A split as an evaluation sees it."""
        config = self.config
        # rounded up to what all devices of this process can share
        devices = self.engine.devices // self.engine.processes
        wanted = config.eval.batch_size or min(config.train.batch_size, 256)
        per_device = math.ceil(wanted / devices)
        return pipeline.validation_batches(
            split, config.data, config.model.input_size, per_device * devices, **self.share
        )

    def check_files(self):
        """Ends the command if too many files cannot be decoded."""
        with exit_on_errors(keys=KEYS):
            self.bad.check(self.config.data.max_bad_fraction)

    # ---- evaluation -----------------------------------------------------------------------------
    @functools.cached_property
    def validation(self):
        return self.batches_of(self.source.validation)

    def guarded(self, forward, signals):
        """A forward pass before which an interruption counts, in a process that is alone."""
        # of several none may leave the others waiting
        return signals.guard(forward) if self.engine.processes == 1 else forward

    def evaluate(self, signals, timed=lambda forward: forward, **options):
        """The score of the network on the validation images.

        Args:
            signals: `callbacks.Signals`.
            timed: Function that wraps the forward pass. Defaults to none.
            **options: For `evaluation.evaluate`.
        """
        judge = several_labels.evaluate
        if not self.source.several:
            judge = functools.partial(
                evaluation.evaluate, real_labels=self.real_labels, loss=self.config.train.loss
            )
        forward = self.guarded(timed(self.engine.forward(self.network)), signals)
        with exit_on_errors(keys=KEYS):
            score = judge(forward, self.validation, self.engine, self.source.class_names, **options)
        self.say_damaged()
        return score

    def say_damaged(self):
        """Says which files could not be decoded since the last time."""
        self.check_files()
        if news := self.bad.news():
            self.say(news)
