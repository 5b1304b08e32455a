"""Trains an sMLPNet: `python train.py [--config FILE] [--eval] [--section.key value ...]`.

Without arguments: `configs/digits.yaml`. `KERAS_BACKEND` chooses tensorflow, jax or torch;
`python train.py --help` shows every key.
"""

import contextlib
import dataclasses
import gc
import math
import os
import re
import shlex
import sys
import time
import traceback
from pathlib import Path

from huge_pages import restart_with_huge_pages

ROOT = Path(__file__).parent
BACKENDS = ("tensorflow", "jax", "torch")
# what a command that is printed or reported is called -> its file
TOOLS = {"predict": "predict.py", "export": "export_model.py"}
# the extras that install a module
EXTRAS = {backend: f"{backend},train" for backend in BACKENDS}
EXTRAS |= {"keras_cv": "train,keras-cv", "pyarrow": "train,parquet"}
EXTRAS |= dict.fromkeys(
    (
        "tensorflow",
        "matplotlib",
        "PIL",
        "sklearn",
        "tensorboardX",
        "tensorflow_datasets",
        "tqdm",
        "yaml",
    ),
    "train",
)
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


def train(config):
    """One run in a folder of its own, or one evaluation."""
    from keras_smlp.training import engines, report
    from keras_smlp.training.callbacks import Interrupted
    from keras_smlp.training.run import locked

    began = time.monotonic()
    with exit_on_errors(keys=KEYS):
        engine = engines.start(**dataclasses.asdict(config.distribution))
        engine.check_batch(config.train.batch_size)
        config.check_groups(engine.processes)
        if config.data.mixes_on_device and not config.eval.only:
            config.check_groups(*engine.apart)
    with contextlib.ExitStack() as stack:
        if not config.eval.only:  # which leaves what a run has written as it is
            with exit_on_errors():
                stack.enter_context(locked(Path(config.output_dir), engine, report.FILES))
        try:
            train_with(engine, config, began)
        except Interrupted:
            # where one process ends, torchrun ends the others: not while the main one saves
            engine.barrier()
            raise


def train_with(engine, config, began):
    """One run, or one evaluation, from top to bottom."""
    import keras

    from keras_smlp.data import decode, fingerprint, pipeline, sources
    from keras_smlp.training import evaluation, losses, network, optimizer, report
    from keras_smlp.training.callbacks import Interrupted, Progress, Signals, StepMonitor
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
            config.data.name, config.data.dir, config.data.manual_dir, fraction, seed
        )
        real_labels = config.eval.real_labels and evaluation.read_real(
            config.eval.real_labels, len(source.class_names)
        )
    for note in source.notes:
        say(f"data.dir: {note}")
    if source.drawn and not config.eval.only:
        say(f"data.dir: {report.SPLIT} has the split, and can be data.dir")
    classes, images = len(source.class_names), len(source.train)
    steps = images // batch_size // config.optimizer.accumulation * config.optimizer.accumulation
    if not (steps or config.eval.only):
        allowed = images // config.optimizer.accumulation
        fail(f"train.batch_size: {batch_size}, allowed: at most {allowed}, for one update an epoch")
    if config.data.balance != "none" and source.train.labels is None:
        fail(
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
        net, left_out, trained_at = network.build(config.model, classes, config.train.precision)
    if left_out and config.eval.only:
        fail(f"model.weights: a head for {left_out} classes, allowed: for {classes}, as the data")
    if left_out:
        say(f"model.weights: a new head for {classes} classes instead of that for {left_out}")
    if trained_at:
        say(f"model.weights: axial kernels resampled from {trained_at} to {net.input_shape[1:]}")

    def evaluate(signals, **options):
        forward = engine.forward(net)
        if engine.processes == 1:  # of several none may leave the others waiting
            forward = signals.guard(forward)
        with exit_on_errors(keys=KEYS):
            score = evaluation.evaluate(forward, validation, engine, source.class_names, **options)
        check_files()
        if news := bad.news():
            say(news)
        return score

    commands = {
        name: ["python", os.path.relpath(ROOT / "tools" / file)] for name, file in TOOLS.items()
    }
    review = Review(config, engine, source.class_names)
    if config.eval.only:
        with Signals() as signals:
            start = time.perf_counter()
            options = {"real_labels": real_labels, "predictions": config.eval.predictions}
            if config.eval.report or config.eval.calibrate:
                options["observers"] = review.observers
            score = evaluate(signals, **options)
        speed = score.images / (time.perf_counter() - start)
        say(f"{config.model.weights}: {score.images} images, {speed:.0f} images/s")
        say(f"balanced accuracy, the mean over the classes: {score.balanced:.3f}")
        with exit_on_errors(keys=KEYS):
            if config.eval.calibrate:
                said = review.calibrate(net, network.with_probabilities(net))
                say(said)
            if config.eval.report:
                found = score, net, config.model.weights, commands, bad
                review.report(config.eval.report, *found)
        say(score)
        if config.eval.calibrate and not review.fitted:
            fail(said)
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
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        if config.data.balance == "weights":
            weights = losses.class_weights(source.train.labels, classes)
            loss = losses.WeightedCrossentropy(weights)
        model.compile(
            optimizer.adamw(config, steps),
            loss,
            metrics=[
                keras.metrics.CategoricalAccuracy(name="accuracy"),
                keras.metrics.TopKCategoricalAccuracy(min(evaluation.TOP, classes), name="top5"),
            ],
        )
        # trained on logits, saved with probabilities: the layers are the same
        classifier = network.with_probabilities(net)
    rates = optimizer.learning_rates(config, range(epochs)).tolist()
    if doubt := optimizer.doubt(config):
        say(doubt)

    # ---- resume ---------------------------------------------------------------------------------
    listing = fingerprint.listing(source) if engine.is_main else None
    run = Run(config, folder / "checkpoints", engine, listing)
    with exit_on_errors():
        run.resume(model, say)
    engine.check_same(model)
    results = report.Results(folder, classifier, source.class_names, run)
    with exit_on_errors():
        results.start(source.drawn)
        if run.path is None:
            results.begin(training(0, range(1)), source.validation)
    progress = Progress(rates, steps, batch_size, run, engine.is_main)

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
            progress.report(row)
            run.raise_if_interrupted(signals)

    # ---- evaluate -------------------------------------------------------------------------------
    engine.barrier()
    with exit_on_errors():
        classifier.load_weights(results.best_path)
    score = evaluate(Signals(), observers=review.observers)
    with exit_on_errors(code=1):
        results.end(score, time.monotonic() - began)
        say(f"{results.best_path}, of epoch {run.best_score['epoch']}, on {score.images} images:")
        say(score)
        if config.eval.calibrate:
            say(review.calibrate(net, classifier))
        found = score, net, results.best_path, commands, bad, run
        review.report(folder / "report.html", *found)
    say(f"{folder / 'report.html'} says more")
    predict = shlex.join(commands["predict"])
    files = shlex.join([str(results.example), "--weights", str(results.best_path)])
    # the example is a picture that was read so already
    upright = " (photos of your own with --exif-orientation)" * config.data.exif_orientation
    say(f"Use it: KERAS_BACKEND={keras.backend.backend()} {predict} {files} --top 1{upright}")


def read_config(argv):
    """Reads the configuration and makes its `output_dir`."""
    from keras_smlp.training.parsing import parse

    with exit_on_errors():
        config = parse(argv)
    try:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"output_dir: {error}, allowed: a folder that can be written to")
    return config


@contextlib.contextmanager
def exit_on_errors(errors=(ValueError, OSError), prefix="", code=2, keys=None):
    """Ends the program with one line for errors that the user can mend.

    `keys` are those of the configuration that stand for arguments named in the messages.
    """
    try:
        yield
    except errors as error:
        found = keys or {}
        message = re.sub(r"`(\w+)`", lambda name: found.get(name[1], name[0]), str(error))
        fail(prefix + message, code)


def fail(message, code=2):
    """Ends the program with one line, in which nothing can move a terminal."""
    line = " ".join(str(message).split())
    line = "".join(x if x.isprintable() else repr(x)[1:-1] for x in line)
    print("train.py: error:", line, file=sys.stderr)
    sys.exit(code)


def main(argv):
    """Reads the configuration and runs it; what the user can mend ends in one line."""
    backend = os.environ.get("KERAS_BACKEND") or None
    if backend not in (None, *BACKENDS):
        fail(f"KERAS_BACKEND: {backend}, allowed: {', '.join(BACKENDS)}")
    # TensorFlow reports the processor's features otherwise
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # PyTorch's threads wait for work in a busy loop otherwise, and starve tf.data's: on two
    # processors with other work a step takes ten times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        train(read_config(argv))
        return
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing in EXTRAS:
            extras = EXTRAS[missing]
            message, code = f'{missing} is not installed: pip install "keras_smlp[{extras}]"', 2
        else:
            traceback.print_exc()
            message, code = None, 1
    except KeyboardInterrupt:
        message, code = "interrupted; what was saved is whole", 130
    except SystemExit as stop:
        message, code = None, stop.code
    except Exception as error:
        if type(error).__name__ == "Interrupted":  # known only once Keras is loaded
            message, code = str(error), 128 + error.number
        else:
            traceback.print_exc()
            message, code = None, 1
    # the iterator that the error held must go now: at Python's own end it would wait for threads
    # of tf.data that wait for Python
    gc.collect()
    if message is None:
        sys.exit(code)
    fail(message, code)


if __name__ == "__main__":
    restart_with_huge_pages()
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    main(sys.argv[1:])
