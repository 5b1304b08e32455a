"""Keras callbacks of a run: checkpoints, signals and the loss after each step; the progress."""

import math
import signal
import sys
import time

import keras
from tqdm import tqdm

from keras_smlp.training.pace import in_words

# steps after which several processes tell each other whether to end or to save, at least
SYNC_STEPS = 10
# seconds without a line, where there is no terminal: at first, and doubled up to
FIRST_WAIT, LAST_WAIT = 15, 600


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
    """How far the run is, how fast, and how long it still takes.

    On a terminal (stderr) one bar for the run, a line that is rewritten; elsewhere a line now and
    then, in a long run every ten minutes; on both a line for each epoch. `close` it whether or not
    the run succeeds.

    Args:
        rates: Sequence of floats. The learning rate at the beginning of each epoch.
        pace: The run's `pace.Pace`.
        batch_size: Positive integer. Images in a step.
        run: The `run.Run` that counts the steps.
        compiles: Boolean. Whether the first step compiles. Defaults to `False`.
        show: Boolean. Whether this process shows anything. Defaults to `True`.
    """

    def __init__(self, rates, pace, batch_size, run, compiles=False, show=True):
        super().__init__()
        self.rates, self.pace, self.batch_size, self.run = rates, pace, batch_size, run
        self.compiles, self.show = compiles, show
        self.epochs, self.steps = len(rates), pace.steps
        self.wait, self.said_at = FIRST_WAIT, pace.clock()
        self.bar = tqdm(
            total=self.epochs * self.steps,
            initial=run.epoch * self.steps + run.step,
            disable=None if show else True,
            leave=False,
            # its own speed and time would count the compilation
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
        )

    def on_train_begin(self, logs=None):
        self.pace.begin()
        self.bar.set_description_str(self.epoch(), refresh=False)

    def on_train_batch_end(self, batch, logs=None):
        first = self.pace.first_step is None
        self.pace.step()
        if not self.show:
            return
        if first and self.compiles:
            self.say(f"compiled: the first step took {in_words(self.pace.first_step)}")
        now = {**logs, "learning_rate": self.rates[self.run.epoch]}
        text = ", ".join([line(now), *self.speed_and_left()])
        self.bar.set_description_str(f"{self.epoch()}: {text}", refresh=False)
        self.bar.update()
        if self.bar.disable and self.pace.clock() - self.said_at >= self.wait:
            self.wait = min(2 * self.wait, LAST_WAIT)
            self.say(f"{self.epoch()}, step {self.run.step}/{self.steps}: {text}")

    def report(self, row):
        """A line for an epoch that is done, with its evaluation, files and checkpoint."""
        self.pace.end_pause()
        if self.show:
            text = ", ".join([line(row), *self.speed_and_left()])
            self.say(f"epoch {row['epoch']}/{self.epochs}: {text}")

    def epoch(self):
        """The epoch that is trained, of how many."""
        return f"epoch {self.run.epoch + 1}/{self.epochs}"

    def speed_and_left(self):
        """Images per second and the time left, as far as they are known."""
        left = self.pace.left(self.run.epoch, self.run.step)
        if left is None:
            return []
        speed = f"{self.batch_size / self.pace.step_time:.0f} images/s"
        return [speed, f"{in_words(left)} left"] if self.run.epoch < self.epochs else [speed]

    def say(self, text):
        """Prints a line, above the bar if there is one."""
        self.bar.write(text)
        sys.stdout.flush()  # a pipe shows the line now, not with the next few kilobytes
        self.said_at = self.pace.clock()

    def close(self):
        """Takes the bar away."""
        self.bar.close()


def line(logs):
    """`loss 0.1234, accuracy 0.9876, ..., lr 1.00e-03`."""
    names = ("loss", "accuracy", "val_loss", "val_accuracy", "val_map", "ema_accuracy", "ema_map")
    numbers = [f"{name} {logs[name]:.4f}" for name in names if name in logs]
    rate = [f"lr {logs['learning_rate']:.2e}"] if "learning_rate" in logs else []
    return ", ".join(numbers + rate)
