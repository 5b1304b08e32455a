"""What a run shows and what it leaves in its folder."""

import csv
import shutil
import signal
import sys
import time
from pathlib import Path

import keras
from matplotlib.figure import Figure
from tqdm import tqdm

from keras_smlp.files import replacing


class Progress(keras.callbacks.Callback):
    """One bar for the run with loss, accuracy, images per second and time left; a line per epoch.

    Where stderr is no terminal, the lines alone. `close` it whether or not the run succeeds.

    Args:
        epochs: Positive integer. Epochs of the run.
        epoch_images: Positive integer. Training images of an epoch.
    """

    def __init__(self, epochs, epoch_images):
        super().__init__()
        self.epochs = epochs
        self.epoch_images = epoch_images
        self.bar = tqdm(
            total=epochs * epoch_images,
            disable=None,
            unit=" images",
            leave=False,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {rate_fmt}, {remaining} left{postfix}",
        )

    def on_train_begin(self, logs=None):
        self.run_began = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_began = time.perf_counter()
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)

    def on_train_batch_end(self, batch, logs=None):
        self.bar.set_postfix_str(line(logs, ("loss", "accuracy")), refresh=False)
        self.bar.update(self.epoch_images // self.params["steps"])

    def on_test_begin(self, logs=None):
        self.training_seconds = time.perf_counter() - self.epoch_began

    def on_epoch_end(self, epoch, logs=None):
        speed = self.epoch_images / self.training_seconds
        left = (time.perf_counter() - self.run_began) / (epoch + 1) * (self.epochs - epoch - 1)
        numbers = line(logs, ("loss", "accuracy", "val_loss", "val_accuracy"))
        self.bar.write(
            f"epoch {epoch + 1}/{self.epochs}: {numbers}, {speed:.0f} images/s, {left:.0f} s left"
        )
        sys.stdout.flush()  # a pipe shows the line now, not with the next few kilobytes

    def close(self):
        """Takes the bar away."""
        self.bar.close()


class Interruptible(keras.callbacks.Callback):
    """Ctrl-C ends the run between two steps with a `KeyboardInterrupt`; a second one at once.

    Anywhere else it may be lost in a backend or turned into another error (NumPy makes a
    `TypeError` of one that comes while it copies a PyTorch variable).
    """

    def on_train_begin(self, logs=None):
        self.interrupted = False
        self.previous = signal.signal(signal.SIGINT, self.on_interrupt)

    def on_interrupt(self, *_):
        self.interrupted = True
        signal.signal(signal.SIGINT, self.previous)

    def on_train_batch_end(self, batch, logs=None):
        if self.interrupted:
            raise KeyboardInterrupt

    def on_test_batch_end(self, batch, logs=None):
        self.on_train_batch_end(batch, logs)

    def on_train_end(self, logs=None):
        signal.signal(signal.SIGINT, self.previous)
        self.on_train_batch_end(None)


class Results(keras.callbacks.Callback):
    """After each epoch `last.keras`, `best.keras` and `history.csv`; at the end `curves.png`.

    Each file is replaced as a whole: whenever the run is cut off, what is there can be read.

    Args:
        saved_model: `keras.Model`. What is saved; it shares the layers of the model in training.
        folder: Path of the folder to write to. It must exist.
    """

    def __init__(self, saved_model, folder):
        super().__init__()
        self.saved_model = saved_model
        self.last = Path(folder) / "last.keras"
        self.best = Path(folder) / "best.keras"
        self.history = Path(folder) / "history.csv"
        self.curves = Path(folder) / "curves.png"
        self.rows = []
        self.best_score, self.best_epoch = (-1.0, 0.0), None

    def on_epoch_end(self, epoch, logs=None):
        self.saved_model.save(self.last)
        # of two equally accurate ones, that of the lower loss
        score = (logs["val_accuracy"], -logs["val_loss"])
        if score > self.best_score:
            self.best_score, self.best_epoch = score, epoch + 1
            with replacing(self.best) as temporary:
                shutil.copyfile(self.last, temporary)
        self.rows.append({"epoch": epoch + 1, **logs})
        with replacing(self.history) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)

    def on_train_end(self, logs=None):
        figure = Figure(figsize=(10, 4), layout="constrained")
        epochs = [row["epoch"] for row in self.rows]
        for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for key, label in ((name, "training"), (f"val_{name}", "validation")):
                axes.plot(epochs, [row[key] for row in self.rows], marker=".", label=label)
            axes.set(xlabel="epoch", ylabel=name)
            axes.legend()
        with replacing(self.curves) as temporary:
            figure.savefig(temporary)


def line(logs, names):
    """`loss 0.1234, accuracy 0.9876`."""
    return ", ".join(f"{name} {logs[name]:.4f}" for name in names)
