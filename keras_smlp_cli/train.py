"""Trains an sMLPNet: `keras-smlp train [--config FILE] [--section.key value ...]`.

Without arguments: `configs/digits.yaml`. `KERAS_BACKEND` chooses tensorflow, jax or torch;
`--help` shows every key.
"""

import contextlib
import dataclasses
import math
import os
import shlex
import time
from pathlib import Path

from keras_smlp_cli.failures import Failure, exit_on_errors, run


def main(argv: list[str], prog: str = "keras-smlp train", about: str = "Trains an sMLPNet.") -> int:
    """Trains a network, or evaluates one with `--eval`; returns the exit status.

    Args:
        argv: List of strings: the options, see `--help`.
        prog: String. What the user typed, for messages. Defaults to the command.
        about: String. What it does, for `--help`. Defaults to a training.
    """
    # TensorFlow reports the processor's features otherwise
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # PyTorch's threads wait for work in a busy loop otherwise, and starve tf.data's: on two
    # processors with other work a step takes ten times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run(prog, lambda: train(read_config(argv, prog, about)), trains=True)


def train(config):
    """One run in a folder of its own, or one evaluation."""
    from keras_smlp.training import engines, files, loggers
    from keras_smlp.training.callbacks import Interrupted
    from keras_smlp.training.run import locked
    from keras_smlp_cli.evaluations import evaluate, look_at_features
    from keras_smlp_cli.prepared import KEYS, Prepared

    began = time.monotonic()
    with exit_on_errors(keys=KEYS):
        engine = engines.start(**dataclasses.asdict(config.distribution))
        engine.check_batch(config.train.batch_size)
        config.check_groups(engine.processes)
        if config.eval.probe and engine.processes > 1:
            raise Failure(
                f"eval.probe: true in {engine.processes} processes, allowed: in one alone"
            )
        if config.data.mixes_on_device and not config.eval.only:
            config.check_groups(*engine.apart)
    with contextlib.ExitStack() as stack:
        # an evaluation leaves what a run has written as it is, but for eval.calibrate
        if not config.eval.only or config.eval.calibrate:
            written = files.FILES | {loggers.FILE}
            with exit_on_errors():
                stack.enter_context(locked(Path(config.output_dir), engine, written))
        if not config.eval.only:
            logger = stack.enter_context(loggers.Logger(config, engine.is_main))
        try:
            prepared = Prepared(config, engine)
            if config.eval.probe:
                look_at_features(prepared)
            elif config.eval.only:
                evaluate(prepared)
            else:
                train_with(prepared, began, logger)
        except Interrupted:
            # where one process ends, torchrun ends the others: not while the main one saves
            engine.barrier()
            raise


def train_with(prepared, began, logger):
    """One run, from top to bottom."""
    import keras

    from keras_smlp.data import fingerprint
    from keras_smlp.training import evaluation, files, losses, network, optimizer, preface, report
    from keras_smlp.training.callbacks import Interrupted, Progress, Signals, StepMonitor
    from keras_smlp.training.pace import Pace
    from keras_smlp.training.review import as_trained, review_of
    from keras_smlp.training.run import CHECKPOINTS, Run
    from keras_smlp.training.step import TrainingModel
    from keras_smlp_cli.prepared import KEYS

    # ---- images and network ---------------------------------------------------------------------
    config, engine, say = prepared.config, prepared.engine, prepared.say
    source, folder = prepared.source, Path(config.output_dir)
    epochs, batch_size = config.train.epochs, config.train.batch_size
    accumulation = config.optimizer.accumulation
    steps = len(source.train) // batch_size // accumulation * accumulation
    if not steps:
        allowed = len(source.train) // accumulation
        raise Failure(
            f"train.batch_size: {batch_size}, allowed: at most {allowed}, for one update an epoch"
        )
    if source.drawn:
        say(f"data.dir: {files.SPLIT} has the split, and can be data.dir")
    training, net = prepared.training_batches(), prepared.network
    pace = Pace(steps, epochs)
    review = review_of(config, engine, source)

    # ---- optimization ---------------------------------------------------------------------------
    with engine.scope(), exit_on_errors(keys=KEYS):
        model = TrainingModel(
            net.input,
            net.output,
            config.optimizer.ema_decay,
            engine,
            config.train.remat == "block",
            config.data.group_size,
        )
        metrics = [
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.TopKCategoricalAccuracy(
                min(evaluation.TOP, prepared.classes), name="top5"
            ),
        ]
        model.compile(
            optimizer.adamw(config, steps, net),
            losses.loss_of(config, source.train.labels, prepared.classes),
            metrics=[] if source.several else metrics,
        )
        # trained on logits, saved with probabilities: the layers are the same
        classifier = network.with_probabilities(net, config.train.loss)
    rates = optimizer.learning_rates(config, range(epochs)).tolist()
    if doubt := optimizer.doubt(config):
        say(doubt)

    # ---- resume ---------------------------------------------------------------------------------
    listing = fingerprint.listing(source) if engine.is_main else None
    run = Run(config, folder / CHECKPOINTS, engine, listing)
    with exit_on_errors():
        run.resume(model, say)
        engine.on_main(lambda: logger.start(run.path is not None))
    engine.check_same(model)
    parameters = sum(math.prod(x.shape) for x in net.trainable_weights), net.count_params()
    runs_on, compiles = preface.hardware(engine, net), preface.compiles(model)
    place = run.epoch, run.step
    for line in preface.lines(config, source, steps, place, parameters, runs_on, compiles):
        say(line)
    results = report.Results(folder, classifier, source.class_names, run)
    with exit_on_errors():
        results.start(source.drawn)
        if run.path is None:
            results.begin(training(0, range(1)), source.validation)
    progress = Progress(rates, pace, batch_size, run, compiles, engine.is_main)

    # ---- train ----------------------------------------------------------------------------------
    lost = (FloatingPointError, OSError)  # a loss that is not finite, a full disk
    with Signals() as signals, contextlib.closing(progress), exit_on_errors(lost, code=1):
        while run.epoch < epochs:
            rate = rates[run.epoch]
            if run.step < steps:
                model.fit(
                    training(run.epoch, range(run.step, steps)),
                    initial_epoch=run.epoch,
                    epochs=run.epoch + 1,
                    steps_per_epoch=steps - run.step,
                    callbacks=[StepMonitor(run, signals, rate, prepared.check_files), progress],
                    shuffle=False,  # the batches come in their order
                    verbose=0,
                )
            row = {"epoch": run.epoch + 1, "learning_rate": rate, **run.training_means()}
            try:
                results.record("val", prepared.evaluate(signals, pace.timed), row)
                if config.optimizer.ema_decay is not None:
                    with model.ema_swapped_in():
                        results.record("ema", prepared.evaluate(signals, pace.timed), row)
            except Interrupted:
                run.checkpoint(model)
                raise
            run.finish_epoch(row)
            results.write()
            run.checkpoint(model)
            logger.log(run.rows)
            progress.report(row)
            run.raise_if_interrupted(signals)

    # ---- evaluate -------------------------------------------------------------------------------
    engine.barrier()
    with exit_on_errors():
        classifier.load_weights(results.best_path)
    score = prepared.evaluate(Signals(), observers=review.observers)
    with exit_on_errors(code=1):
        results.end(score, time.monotonic() - began)
        say(f"{results.best_path}, of epoch {run.best_score['epoch']}, on {score.images} images:")
        say(score)
        if config.eval.calibrate:
            say(review.calibrate(net, classifier))
        page = folder / files.PAGE
        review.report(page, score, net, results.best_path, prepared.bad, run)
        say(f"{page} says more")
    logger.end(run.rows, results.readable())
    words = [str(results.example), "--weights", str(results.best_path), *as_trained(config)]
    command = f"KERAS_BACKEND={keras.backend.backend()} keras-smlp predict"
    say(f"Use it: {command} {shlex.join(words)} --top 1")


def read_config(argv, prog, about):
    """Reads the configuration and makes its `output_dir`."""
    from keras_smlp.training.parsing import parse

    with exit_on_errors():
        config = parse(argv, prog, about)
    try:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = "a folder that can be written to"
        raise Failure(f"output_dir: {error}, allowed: {allowed}") from error
    return config
