"""What a run leaves in its folder for people: models, history, curves, a summary."""

import csv
import json
import platform
import shlex
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from keras_smlp.checks import shown
from keras_smlp.data import on_device
from keras_smlp.data.decode import by_pil
from keras_smlp.data.folders import COLUMNS, OPTIONAL
from keras_smlp.inference.images import as_rgb
from keras_smlp.inference.photos import reason
from keras_smlp.preprocessing import MEAN
from keras_smlp.saving import replacing
from keras_smlp.training import files

NAMES = {"": "training", "val_": "validation", "ema_": "validation, EMA"}
MOST_OF_PNG = 4  # channels
PICTURED = 32  # images of batch.png, at most
# of the name of a class in a picture
CHARACTERS = 18
SCALARS = ("loss", "accuracy", "top5", "map", "f1", "learning_rate")
TENSORBOARD = {"": "train", "val_": "validation", "ema_": "validation_ema"}


class Results:
    """The files of a run; each is replaced as a whole, so that what is there can always be read.

    `last.keras` (and `ema.keras`, the averaged weights) after each epoch, `best.keras` of both,
    `history.csv`, `curves.png` and TensorBoard's files; at each start `config.yaml`,
    `classes.json` and, of a split that was drawn, `split.csv`; at the first `batch.png` and
    `example.png`, at the end `summary.md`.

    Args:
        folder: Path of the folder. It must exist.
        saved_model: The model that is saved; it shares the layers of the one in training.
        class_names: The name of each class.
        run: The `run.Run`. Only its engine's main process writes.
    """

    def __init__(self, folder, saved_model, class_names, run):
        self.folder, self.saved_model, self.run = Path(folder), saved_model, run
        self.class_names = class_names
        self.best_path = self.folder / files.BEST
        self.classes = self.folder / files.CLASSES

    @property
    def example(self):
        """The path of the first image of the validation, as a file."""
        return self.folder / files.EXAMPLES[self.run.config.data.channels > MOST_OF_PNG]

    def start(self, drawn=()):
        """Writes what a process that goes on may have changed.

        Args:
            drawn: The `drawn` of the `splits.Source`.
        """
        if self.run.engine.is_main:
            self.write_text(files.CONFIG, self.run.config.to_yaml())
            self.write_text(files.CLASSES, json.dumps(self.class_names))
            if drawn:
                write_split(self.folder / files.SPLIT, drawn)

    def begin(self, batches, validation):
        """Draws the first images, before the first step.

        Args:
            batches: `tf.data.Dataset` that begins with the first batch of the training.
            validation: `splits.Arrays` or `splits.Files`; its first image is the example.
        """
        if self.run.engine.is_main:
            batch, targets = next(iter(batches))
            group = self.run.config.data.group_size
            count = -(-PICTURED // group) * group  # whole groups: their images are mixed
            batch = keras.tree.map_structure(lambda x: x[:count].numpy(), batch)
            images = ops.convert_to_numpy(on_device.finished(batch, group))
            plot_batch(self.folder / files.BATCH, images, targets, self.class_names)
            data = self.run.config.data
            write_example(self.example, validation, data.exif_orientation, data.channels)

    def record(self, name, score, row):
        """Adds a score to an epoch's row and saves the model, as `best.keras` too if it is best.

        Args:
            name: String. `"val"` for the trained weights, `"ema"` for their average.
            score: The `evaluation.Score` or `several_labels.Score`.
            row: Dict, the epoch's row of the history, which is added to.
        """
        row.update({f"{name}_{key}": value for key, value in score.columns().items()})
        best, by = self.run.best_score, score.best_by
        # of two equally good ones, that of the lower loss
        is_best = not best or (getattr(score, by), -score.loss) > (best[by], -best["loss"])
        path = self.folder / (files.EMA if name == "ema" else files.LAST)
        if self.run.engine.is_main:
            with self.run.engine.saving():
                self.saved_model.save(path)
            if is_best:
                with replacing(self.best_path) as temporary:
                    shutil.copyfile(path, temporary)
        if is_best:
            self.run.best_score = {
                "epoch": row["epoch"],
                "weights": name,
                by: getattr(score, by),
                "loss": score.loss,
            }

    def write(self):
        """Writes the history and its pictures after an epoch."""
        if self.run.engine.is_main:
            write_history(self.folder / files.HISTORY, self.run.rows)
            plot_curves(self.folder / files.CURVES, self.run.rows)
            write_tensorboard(self.folder / "tensorboard", self.run.rows[-1])

    def end(self, score, seconds):
        """Writes the summary: what was run, on what, and what came out."""
        if not self.run.engine.is_main:
            return
        best, rows, last = self.run.best_score, self.run.rows, self.run.rows[-1]
        average = " (averaged weights)" if best["weights"] == "ema" else ""
        facts = {
            "result": f"`{score}` on {score.images} images",
            **score.facts(),
            "best epoch": f"{best['epoch']} of {len(rows)}{average}",
            "parameters": f"{self.saved_model.count_params():,}",
            "backend": f"{keras.backend.backend()}, Keras {keras.__version__}, "
            f"Python {platform.python_version()}",
            "devices": self.run.engine.describe(),
            "seconds of the last process": f"{seconds:.0f}",
            "command": f"`{command(sys.argv)}`",
        }
        lines = ["# Summary", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
        keys = [key for key in last if key != "epoch"]
        lines += ["| epoch | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
        shown_rows = [rows[best["epoch"] - 1], last]
        for row in shown_rows[last is shown_rows[0] :]:
            lines.append("| " + " | ".join(f"{row[key]:.5g}" for key in ("epoch", *keys)) + " |")
        self.write_text(files.SUMMARY, "\n".join(lines) + "\n")

    def readable(self):
        """The paths of the files that people read: all but the models."""
        return [self.folder / name for name in sorted(files.FILES) if not name.endswith(".keras")]

    def write_text(self, name, text):
        """Writes a file of the folder."""
        with replacing(self.folder / name) as temporary:
            # names of files need not be UTF-8
            temporary.write_text(text, "utf-8", errors="backslashreplace")


def command(argv):
    """What the user typed, from Python's list of it."""
    program = Path(argv[0])
    words = ["python", argv[0]] if program.suffix == ".py" else [program.name]
    if program.name == "__main__.py":
        words = ["python", "-m", program.parent.name]
    return shlex.join([*words, *argv[1:]])


def write_example(path, split, exif_orientation, channels=3):
    """Writes the first image of a split that can be decoded, so that it is read as it is."""
    first, *more = first_picture(split, exif_orientation, channels)
    with replacing(path) as temporary:
        pages = {"save_all": True, "append_images": more} if more else {}
        first.save(temporary, **pages)


def first_picture(split, exif_orientation, channels=3):
    """The first image of a split that can be decoded: a PIL image, or one for each channel."""
    why = ""
    for index in range(len(split)):
        [content], _, _ = split.read(np.array([index]))
        try:
            if isinstance(content, bytes):
                content = by_pil(content, exif_orientation, channels)
        except Exception as error:  # the evaluation names what is damaged
            why = why or f" ({reason(error, not content)})"
        else:
            if channels > MOST_OF_PNG:
                return [Image.fromarray(x) for x in np.moveaxis(content, -1, 0).copy()]
            mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
            size = content.shape[1::-1]
            return [Image.frombytes(mode, size, np.ascontiguousarray(content).tobytes())]
    raise ValueError(f"data: no validation image can be decoded{why}, allowed: at least one")


def write_split(path, drawn):
    """Writes a split as a CSV file that `data.dir` takes."""
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file).writerows([(*COLUMNS, OPTIONAL), *drawn])


def write_history(path, rows):
    """A CSV file of one row per epoch."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)


def plot_curves(path, rows):
    """Loss, accuracy (or mAP) and learning rate over the epochs, as a picture."""
    quality = "map" if "val_map" in rows[0] else "accuracy"
    figure = Figure(figsize=(14, 4))
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.13, top=0.97, wspace=0.3)
    epochs = [row["epoch"] for row in rows]
    for axes, name in zip(figure.subplots(1, 3), ("loss", quality, "learning_rate"), strict=True):
        for prefix, label in NAMES.items():
            if prefix + name in rows[0]:
                values = [row[prefix + name] for row in rows]
                axes.plot(epochs, values, marker="." if len(rows) < 50 else "", label=label)
        # half an epoch beside: of a single one the axis would show parts
        axes.set(xlim=(epochs[0] - 0.5, epochs[-1] + 0.5), xlabel="epoch")
        axes.set_ylabel("mAP" if name == "map" else name.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(axes.lines) > 1:
            axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary)


def write_tensorboard(folder, row):
    """Adds an epoch to TensorBoard's files: train, validation, validation_ema."""
    from tensorboardX import SummaryWriter

    for prefix, name in TENSORBOARD.items():
        keys = [key for key in SCALARS if prefix + key in row]
        if keys:
            with SummaryWriter(str(Path(folder) / name)) as writer:
                for key in keys:
                    writer.add_scalar(key, row[prefix + key], row["epoch"])


def plot_batch(path, images, targets, class_names, count=PICTURED):
    """Augmented images of one batch with their targets, as a picture.

    Args:
        path: Path of the picture.
        images: Array `(n, height, width, channels)` in [0, 255]; the noise of random erasing is cut
            off there. Of other channels than RGB the first three are drawn, or one as gray.
        targets: Array `(n, classes)`.
        class_names: The name of each class.
        count: Positive integer. Images at most. Defaults to `32`.
    """
    images, targets = as_rgb(np.asarray(images)[:count]), np.asarray(targets)[:count]
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    # one picture of all: an axes for each would take two seconds
    _, height, width, _ = images.shape
    # of a cell, 2.4 x 2.7 inches, two lines of text and a margin on all sides are not image
    cell_y, cell_x = height * 1.25, width * 1.08
    figure = Figure(figsize=(2.4 * columns, 2.7 * rows), facecolor=MEAN)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        left = i % columns * cell_x + width * 0.04
        bottom = (i // columns + 1) * cell_y - height * 0.03
        axes.imshow(
            np.clip(np.round(image), 0, 255).astype("uint8"),
            extent=(left, left + width, bottom, bottom - height),
        )
        axes.text(
            left + width / 2,
            bottom - height * 1.01,
            in_words(target, class_names),
            size=7,
            ha="center",
            va="bottom",
            parse_math=False,  # a name may have dollars
        )
    axes.set(xlim=(0, columns * cell_x), ylim=(rows * cell_y, 0), aspect="auto")
    with replacing(path) as temporary:
        figure.savefig(temporary)


def in_words(target, class_names):
    """The two likeliest classes of a target, a line each, with their parts if there are two."""
    # what smoothing alone gives to every class is not worth a word
    named = [k for k in np.argsort(-target)[:2] if target[k] > target.min() + 0.005]
    parts = [f" {target[k]:.2f}" if len(named) > 1 else "" for k in named]
    return "\n".join(
        shown(class_names[k], CHARACTERS) + part for k, part in zip(named, parts, strict=True)
    )
