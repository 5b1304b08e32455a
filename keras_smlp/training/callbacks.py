"""Keras callbacks of a run: checkpoints, signals and the loss after each step; the progress bar."""

import math
import signal
import sys
import time

import keras
from tqdm import tqdm

# steps after which several processes tell each other whether to end or to save, at least
SYNC_STEPS = 10


class Interrupted(Exception):
    """The run was asked to end by a signal.

    Attributes:
        number: The signal's number.
    """

    def __init__(self, number):
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class Signals:
    """SIGINT (Ctrl-C) and SIGTERM (Slurm, Kubernetes, spot machines), kept until asked for.

    A step is not cut: in a backend a signal may be lost or become another error. The second SIGINT
    does what it always does. Use it as a context manager.

    Attributes:
        received: Number of the signal that came; `0` for none.
    """

    received = 0

    def __enter__(self):
        self.previous = {
            n: signal.signal(n, self.on_signal) for n in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def on_signal(self, number, _):
        self.received = number
        signal.signal(signal.SIGINT, self.previous[signal.SIGINT])

    def guard(self, function):
        """The same function, but one that raises `Interrupted` if a signal was received."""

        def called(*arguments):
            if self.received:
                raise Interrupted(self.received)
            return function(*arguments)

        return called

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)


class StepMonitor(keras.callbacks.Callback):
    """Looks after each step whether the loss is finite, a checkpoint due, a signal received.

    Args:
        run: The `run.Run` that counts the steps.
        signals: `Signals`.
        learning_rate: Float, for the message.
        check: Function without arguments that raises where the run must end.
    """

    def __init__(self, run, signals, learning_rate, check):
        super().__init__()
        self.run, self.signals, self.check = run, signals, check
        self.learning_rate = learning_rate
        self.saved_at = time.monotonic()
        # only after updates: within an accumulation each process has gradients of its own
        accumulation = run.config.optimizer.accumulation
        self.sync_steps = math.ceil(SYNC_STEPS / accumulation) * accumulation

    def on_train_begin(self, logs=None):
        self.run.begin_fit()

    def on_train_batch_end(self, batch, logs=None):
        run, engine = self.run, self.run.engine
        run.count(batch + 1, logs)
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"loss {logs['loss']} in epoch {run.epoch + 1}, step {run.step}, learning rate "
                f"{self.learning_rate:.3e}; the last good checkpoint is {run.path}"
            )
        self.check()
        if engine.processes > 1 and run.step % self.sync_steps:
            return
        due, received = engine.sum([engine.is_main and self.is_due(), self.signals.received])
        if due or received:
            run.checkpoint(self.model)
            self.saved_at = time.monotonic()
        if received:
            raise Interrupted(self.signals.received or signal.SIGTERM)

    def is_due(self):
        """Whether it is time for a checkpoint."""
        train = self.run.config.train
        if train.checkpoint_steps:
            epoch, saved = self.run.saved or (self.run.epoch, 0)
            saved = saved if epoch == self.run.epoch else 0
            # several processes look only now and then: perhaps a few steps after the multiple
            return self.run.step // train.checkpoint_steps > saved // train.checkpoint_steps
        return time.monotonic() - self.saved_at >= 60 * train.checkpoint_minutes


class Progress(keras.callbacks.Callback):
    """One bar for the run: loss, accuracy, learning rate, images per second, time left.

    Where stderr is no terminal, lines alone. `close` it whether or not the run succeeds.

    Args:
        rates: Sequence of floats. The learning rate at the beginning of each epoch.
        steps: Positive integer. Steps of an epoch.
        batch_size: Positive integer. Images in a step.
        run: The `run.Run` that counts the steps.
        show: Boolean. Whether this process shows anything. Defaults to `True`.
    """

    def __init__(self, rates, steps, batch_size, run, show=True):
        super().__init__()
        self.rates, self.batch_size, self.run, self.show = rates, batch_size, run, show
        self.epochs = len(rates)
        self.bar = tqdm(
            total=self.epochs * steps * batch_size,
            initial=(run.epoch * steps + run.step) * batch_size,
            disable=None if show else True,
            unit=" images",
            leave=False,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {rate_fmt}, {remaining} left{postfix}",
        )
        self.images, self.seconds = 0, 0.0

    def on_train_begin(self, logs=None):
        self.began, self.images = time.perf_counter(), 0
        self.bar.set_description(f"epoch {self.run.epoch + 1}/{self.epochs}", refresh=False)

    def on_train_batch_end(self, batch, logs=None):
        self.images += self.batch_size
        self.seconds = time.perf_counter() - self.began
        now = {**logs, "learning_rate": self.rates[self.run.epoch]}
        self.bar.set_postfix_str(line(now), refresh=False)
        self.bar.update(self.batch_size)

    def report(self, row):
        """A line for an epoch that is done."""
        if self.show:
            left = (self.epochs - row["epoch"]) * self.seconds
            speed = self.images / self.seconds if self.images else 0.0
            self.bar.write(
                f"epoch {row['epoch']}/{self.epochs}: {line(row)}, {speed:.0f} images/s, "
                f"{left:.0f} s left"
            )
            sys.stdout.flush()  # a pipe shows the line now, not with the next few kilobytes

    def close(self):
        """Takes the bar away."""
        self.bar.close()


def line(logs):
    """`loss 0.1234, accuracy 0.9876, ..., lr 1.00e-03`."""
    names = ("loss", "accuracy", "val_loss", "val_accuracy", "val_map", "ema_accuracy", "ema_map")
    numbers = [f"{name} {logs[name]:.4f}" for name in names if name in logs]
    rate = [f"lr {logs['learning_rate']:.2e}"] if "learning_rate" in logs else []
    return ", ".join(numbers + rate)
