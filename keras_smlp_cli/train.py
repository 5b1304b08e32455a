"""Trains an sMLPNet: `keras-smlp train [--config FILE] [--section.key value ...]`.

Without arguments: `configs/digits.yaml`. `KERAS_BACKEND` chooses tensorflow, jax or torch;
`--help` shows every key.
"""

import contextlib
import dataclasses
import functools
import math
import os
import shlex
import time
from pathlib import Path

from keras_smlp_cli.failures import Failure, exit_on_errors, run

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


def main(argv: list[str], prog: str = "keras-smlp train") -> int:
    """Trains a network, or evaluates one with `--eval`; returns the exit status.

    Args:
        argv: List of strings: the options, see `--help`.
        prog: String. What the user typed, for messages. Defaults to the command.
    """
    # TensorFlow reports the processor's features otherwise
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # PyTorch's threads wait for work in a busy loop otherwise, and starve tf.data's: on two
    # processors with other work a step takes ten times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run(prog, lambda: train(read_config(argv, prog)), trains=True)


def train(config):
    """One run in a folder of its own, or one evaluation."""
    from keras_smlp.training import engines, loggers, report
    from keras_smlp.training.callbacks import Interrupted
    from keras_smlp.training.run import locked

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
        logger = None
        if not config.eval.only:  # which leaves what a run has written as it is
            files = report.FILES | {loggers.FILE}
            with exit_on_errors():
                stack.enter_context(locked(Path(config.output_dir), engine, files))
            logger = stack.enter_context(loggers.Logger(config, engine.is_main))
        try:
            train_with(engine, config, began, logger)
        except Interrupted:
            # where one process ends, torchrun ends the others: not while the main one saves
            engine.barrier()
            raise


def train_with(engine, config, began, logger):
    """One run, or one evaluation, from top to bottom."""
    import keras

    from keras_smlp.data import decode, fingerprint, pipeline, sources
    from keras_smlp.training import (
        evaluation,
        known,
        losses,
        network,
        optimizer,
        preface,
        report,
        several_labels,
    )
    from keras_smlp.training.callbacks import Interrupted, Progress, Signals, StepMonitor
    from keras_smlp.training.pace import Pace
    from keras_smlp.training.review import Review
    from keras_smlp.training.run import Run
    from keras_smlp.training.step import TrainingModel

    folder, size = Path(config.output_dir), config.model.input_size
    epochs, batch_size = config.train.epochs, config.train.batch_size
    say = print if engine.is_main else lambda *_: None
    if engine.devices > 1:
        say(engine.describe())
    keras.utils.set_random_seed(config.train.seed)

    # ---- data -----------------------------------------------------------------------------------
    with exit_on_errors(keys=KEYS):
        fraction, seed = config.data.validation_fraction, config.data.split_seed
        source = sources.load(
            config.data.name,
            config.data.dir,
            config.data.manual_dir,
            fraction,
            seed,
            several=config.train.loss == "sigmoid",
            channels=config.data.channels,
        )
        if config.eval.only and not config.eval.probe:
            source, note = known.with_classes(source, config.model.weights)
            if note:
                say(f"model.weights: {note}")
        real_labels = config.eval.real_labels and evaluation.read_real(
            config.eval.real_labels, len(source.class_names)
        )
    if config.eval.only:  # a run says them with all the rest
        for note in source.notes:
            say(f"data.dir: {note}")
    if source.drawn and not config.eval.only:
        say(f"data.dir: {report.SPLIT} has the split, and can be data.dir")
    classes, images = len(source.class_names), len(source.train)
    steps = images // batch_size // config.optimizer.accumulation * config.optimizer.accumulation
    if not (steps or config.eval.only):
        allowed = images // config.optimizer.accumulation
        raise Failure(
            f"train.batch_size: {batch_size}, allowed: at most {allowed}, for one update an epoch"
        )
    if source.several and config.data.balance != "none":
        raise Failure(
            f"data.balance: {config.data.balance} with several labels an image, allowed: none"
        )
    if source.several and config.eval.probe:
        raise Failure("eval.probe: true with several labels an image, allowed: false")
    if source.several and real_labels is not None:
        path = config.eval.real_labels
        raise Failure(f"eval.real_labels: {path} with several labels an image, allowed: null")
    if config.data.balance != "none" and source.train.labels is None:
        raise Failure(
            f"data.balance: {config.data.balance} with data.name {config.data.name}, allowed: none"
        )
    # of the main process, of the others, of an evaluation beside a run: each begins its own anew
    log = "bad_files" + "_eval" * config.eval.only + f"_{engine.rank}" * (not engine.is_main)
    bad = decode.BadFiles(folder / f"{log}.txt", images + len(source.validation))
    common = {"bad": bad, "rank": engine.rank, "processes": engine.processes}
    training = pipeline.train_batches(
        source.train, config.data, size, classes, batch_size, config.train.seed, **common
    )
    # rounded up to what all devices of this process can share
    local_devices = engine.devices // engine.processes
    per_device = math.ceil((config.eval.batch_size or min(batch_size, 256)) / local_devices)
    validation = pipeline.validation_batches(
        source.validation, config.data, size, per_device * local_devices, **common
    )

    def check_files():
        with exit_on_errors(keys=KEYS):
            bad.check(config.data.max_bad_fraction)

    # ---- model ----------------------------------------------------------------------------------
    with engine.scope(), exit_on_errors(prefix="model: "):
        net, left_out, trained_at = network.build(
            config.model, classes, config.train.precision, config.data.channels
        )
    if known.is_file(config.model.weights):
        say(f"model.weights: {known.in_words(config.model.weights)}")
    if config.eval.probe:
        left_out = None  # the head is not used
    if left_out and config.eval.only:
        raise Failure(
            f"model.weights: a head for {left_out} classes, allowed: for {classes}, as the data"
        )
    if left_out:
        say(f"model.weights: a new head for {classes} classes instead of that for {left_out}")
    if trained_at:
        say(f"model.weights: {network.fitted_in_words(trained_at, net)}")

    if source.several:
        judge = several_labels.evaluate
    else:
        judge = functools.partial(
            evaluation.evaluate, real_labels=real_labels, loss=config.train.loss
        )

    pace = Pace(steps, epochs)

    def evaluate(signals, **options):
        forward = pace.timed(engine.forward(net))
        if engine.processes == 1:  # of several none may leave the others waiting
            forward = signals.guard(forward)
        with exit_on_errors(keys=KEYS):
            score = judge(forward, validation, engine, source.class_names, **options)
        check_files()
        if news := bad.news():
            say(news)
        return score

    if config.eval.probe:
        from keras_smlp.training import probe

        start = time.perf_counter()
        with engine.scope():
            body = probe.body_of(net)
        shown_alike = pipeline.validation_batches(
            source.train, config.data, size, per_device * local_devices, **common
        )
        with Signals() as signals, exit_on_errors(keys=KEYS):
            forward = signals.guard(engine.forward(body))
            parts = [probe.features(forward, batches) for batches in (shown_alike, validation)]
        check_files()
        if news := bad.news():
            say(news)
        (fitted, labels), (judged, truth) = parts
        say(
            f"{config.model.weights}: {fitted.shape[1]} features of {len(labels):,} training and "
            f"{len(truth):,} validation images, {time.perf_counter() - start:.1f} s"
        )
        for found in probe.looks(fitted, labels, judged, truth, classes, config.train.seed):
            say(found)
        return

    review = Review(config, engine, source.class_names)
    # it is for one label an image
    observers = {"observers": review.observers} if config.train.loss == "softmax" else {}
    if config.eval.only:
        options = observers if config.eval.report or config.eval.calibrate else {}
        with Signals() as signals:
            start = time.perf_counter()
            score = evaluate(signals, predictions=config.eval.predictions, **options)
        speed = score.images / (time.perf_counter() - start)
        say(f"{config.model.weights}: {score.images} images, {speed:.0f} images/s")
        for name, value in score.facts().items():
            say(f"{name}: {value}")
        said = ""
        with exit_on_errors(keys=KEYS):
            if config.eval.calibrate:
                said = review.calibrate(net, network.with_probabilities(net))
                say(said)
            if config.eval.report:
                review.report(config.eval.report, score, net, config.model.weights, bad)
        say(score)
        if config.eval.calibrate and not review.fitted:
            raise Failure(said)
        return

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
            keras.metrics.TopKCategoricalAccuracy(min(evaluation.TOP, classes), name="top5"),
        ]
        model.compile(
            optimizer.adamw(config, steps, net),
            losses.loss_of(config, source.train.labels, classes),
            metrics=[] if source.several else metrics,
        )
        # trained on logits, saved with probabilities: the layers are the same
        classifier = network.with_probabilities(net, config.train.loss)
    rates = optimizer.learning_rates(config, range(epochs)).tolist()
    if doubt := optimizer.doubt(config):
        say(doubt)

    # ---- resume ---------------------------------------------------------------------------------
    listing = fingerprint.listing(source) if engine.is_main else None
    run = Run(config, folder / "checkpoints", engine, listing)
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
                    callbacks=[StepMonitor(run, signals, rate, check_files), progress],
                    shuffle=False,  # the batches come in their order
                    verbose=0,
                )
            row = {"epoch": run.epoch + 1, "learning_rate": rate, **run.training_means()}
            try:
                results.record("val", evaluate(signals), row)
                if config.optimizer.ema_decay is not None:
                    with model.ema_swapped_in():
                        results.record("ema", evaluate(signals), row)
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
    score = evaluate(Signals(), **observers)
    with exit_on_errors(code=1):
        results.end(score, time.monotonic() - began)
        say(f"{results.best_path}, of epoch {run.best_score['epoch']}, on {score.images} images:")
        say(score)
        if config.eval.calibrate:
            say(review.calibrate(net, classifier))
        if observers:
            review.report(folder / "report.html", score, net, results.best_path, bad, run)
            say(f"{folder / 'report.html'} says more")
    logger.end(run.rows, results.readable())
    files = shlex.join([str(results.example), "--weights", str(results.best_path)])
    # the example is a picture that was read so already
    upright = " (photos of your own with --exif-orientation)" * config.data.exif_orientation
    command = f"KERAS_BACKEND={keras.backend.backend()} keras-smlp predict"
    say(f"Use it: {command} {files} --top 1{upright}")


def read_config(argv, prog):
    """Reads the configuration and makes its `output_dir`."""
    from keras_smlp.training.parsing import parse

    with exit_on_errors():
        config = parse(argv, prog)
    try:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = "a folder that can be written to"
        raise Failure(f"output_dir: {error}, allowed: {allowed}") from error
    return config
