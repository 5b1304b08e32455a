"""An evaluation of weights: their score, or what their features are worth."""

import time
from pathlib import Path

from keras_smlp.training import network, probe, several_probe
from keras_smlp.training.callbacks import Signals
from keras_smlp.training.review import review_of
from keras_smlp.training.run import CHECKPOINTS
from keras_smlp.weights import loading
from keras_smlp_cli.failures import Failure, exit_on_errors
from keras_smlp_cli.prepared import KEYS


def evaluate(prepared):
    """Prints the score of the weights, and writes what else is asked for."""
    config, say = prepared.config, prepared.say
    folder, weights = Path(config.output_dir), config.model.weights
    if (
        config.eval.calibrate
        and (folder / CHECKPOINTS).exists()
        and Path(loading.local(weights)).resolve().parent != folder.resolve()
    ):
        raise Failure(
            f"output_dir: {folder} has a run with other weights than {weights}, allowed: another "
            "folder, for eval.calibrate writes into it"
        )
    for note in prepared.source.notes:
        say(f"data.dir: {note}")
    net = prepared.network
    review = review_of(config, prepared.engine, prepared.source)
    observers = review.observers if config.eval.report or config.eval.calibrate else []
    with Signals() as signals:
        start = time.perf_counter()
        score = prepared.evaluate(signals, predictions=config.eval.predictions, observers=observers)
    speed = score.images / (time.perf_counter() - start)
    say(f"{config.model.weights}: {score.images} images, {speed:.0f} images/s")
    for name, value in score.facts().items():
        say(f"{name}: {value}")
    said = ""
    try:
        with exit_on_errors(keys=KEYS):
            if config.eval.calibrate:
                said = review.calibrate(net, network.with_probabilities(net, config.train.loss))
                say(said)
            if config.eval.report:
                review.report(config.eval.report, score, net, config.model.weights, prepared.bad)
    finally:
        say(score)
    if config.eval.calibrate and not review.fitted:
        raise Failure(said)


def look_at_features(prepared):
    """Prints how well k-NN and a linear probe judge by the features of the weights."""
    config, source = prepared.config, prepared.source
    start = time.perf_counter()
    with prepared.engine.scope():
        body = probe.body_of(prepared.network)
    with Signals() as signals, exit_on_errors(keys=KEYS):
        forward = prepared.guarded(prepared.engine.forward(body), signals)
        # the training images too as an evaluation sees them
        fitted, labels = probe.features(forward, prepared.batches_of(source.train))
        judged, truth = probe.features(forward, prepared.validation)
    prepared.say_damaged()
    prepared.say(
        f"{config.model.weights}: {fitted.shape[1]} features of {len(labels):,} training and "
        f"{len(truth):,} validation images, {time.perf_counter() - start:.1f} s"
    )
    if source.several and not truth.any():
        raise Failure("data: no validation image has a label, allowed: at least one")
    looks = several_probe.looks if source.several else probe.looks
    for found in looks(fitted, labels, judged, truth, config.train.seed):
        prepared.say(found)
