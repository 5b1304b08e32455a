"""A model against its smaller and its exported forms: what they answer, their size, their time.

    python -m benchmarks.exports best.keras images.npz
    python -m benchmarks.exports tiny.keras photos.npz --formats onnx --options fold --batch 1

Every backend exports every format (tools/export_model.py); then the running backend exports each
once per option. Each file is run in its own runtime on the validation images of the .npz file (as
train.py's `data.name: npz` has them; they must have the model's size), and so are the forms of the
model in Keras on the running backend. The times are of batches, in turns, the first round not
counted. Prints two tables.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import cases, tables
from keras_smlp_cli.arguments import Parser

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads would take the others' cores

TOOL = Path(__file__).parents[1] / "tools" / "export_model.py"
OPTIONS = {
    "as it is": [],
    "fold": ["--fold"],
    "fold, float16": ["--fold", "--precision", "float16"],
    "fold, bfloat16": ["--fold", "--precision", "bfloat16"],
    "int8": ["--quantize", "int8"],
    "fold, int8": ["--fold", "--quantize", "int8"],
}


@dataclass
class Form:
    """The model in one form.

    Attributes:
        cells: What it is, for the first two columns of a table.
        size: In MB.
        how: Which backend wrote it.
        run: A function from images to probabilities; None if it could not be written.
    """

    cells: tuple[str, str]
    size: str
    how: str
    run: Callable | None


def main():
    parser = Parser(__doc__)
    parser.add_argument("model", type=Path, help="a .keras file")
    parser.add_argument("data", help="an .npz file")
    formats = ("tf_saved_model", "onnx", "openvino", "litert", "torch")
    parser.add_argument("--formats", nargs="*", default=formats, choices=formats)
    backends = cases.BACKENDS
    parser.add_argument("--backends", nargs="*", default=backends, choices=backends)
    parser.add_argument("--options", nargs="*", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--images", type=int, default=100, help="how many, evenly spread")
    parser.add_argument("--batch", type=int, default=8, help="images at a time")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()

    import keras

    from keras_smlp.deploy.export.api import FORMATS

    images, labels = validation_images(options.data, options.images)
    images = images.astype("float32")
    limit(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        own = list(in_keras(options.model, Path(folder)))
        expected = answers(own[0].run, images, options.batch)

        everywhere = [
            exported(options, folder, (backend, format), backend, format, "as it is")
            for backend in options.backends
            for format in options.formats
        ]
        columns = ("written", "size, MB", "difference", "ms per image: minimum, median")
        print(tables.head("backend", "format", *columns))
        for form, (difference, _, _), ms in measured(everywhere, images, labels, expected, options):
            print(tables.line(*form.cells, form.how, form.size, difference, ms), flush=True)

        backend = keras.backend.backend()
        smaller = own + [
            exported(options, folder, (format, name), backend, format, name)
            for format in options.formats
            for name in options.options
            # whether the format has the precision that the option asks for
            if "--precision" not in OPTIONS[name] or OPTIONS[name][-1] in FORMATS[format].precisions
        ]
        columns = ("size, MB", "difference", "top-1 equal, %", "top-1, %", "ms per image")
        print("", tables.head("run by", "form", *columns), sep="\n")
        for form, found, ms in measured(smaller, images, labels, expected, options):
            print(tables.line(*form.cells, form.size, *found, ms), flush=True)


def validation_images(path, count):
    """So many validation images of an .npz file, evenly spread, and their labels."""
    from keras_smlp.data import sources

    split = sources.npz(path).validation
    chosen = np.linspace(0, len(split) - 1, min(count, len(split))).astype(int)
    images, labels, _ = split.read(chosen)
    return np.asarray(images), labels


def limit(threads):
    """Sets the threads of the runtimes that have them per process."""
    import tensorflow as tf
    import torch

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    torch.set_num_threads(threads)


def in_keras(path, folder):
    """The model in Keras and its smaller forms; the first is the model itself."""
    import keras

    import keras_smlp
    from keras_smlp.deploy.precision import with_precision

    model, other = (keras.models.load_model(path, compile=False) for _ in range(2))
    forms = {
        "as it is": model,
        "fold": keras_smlp.fold(model),
        "bfloat16": with_precision(model, "bfloat16"),
        "int8": other,
        "fold, int8": keras_smlp.fold(model),
    }
    for name in ("int8", "fold, int8"):
        keras_smlp.quantize(forms[name])
    for name, form in forms.items():
        file = folder / f"{name}.keras"
        form.save(file)
        cells = (f"Keras on {keras.backend.backend()}", name)
        yield Form(cells, megabytes(file), "", form.predict_on_batch)


def megabytes(path):
    """The size of an exported model, for a table."""
    from keras_smlp.deploy.export.runtimes import size

    return f"{size(path) / 1e6:.2f}"


def exported(options, folder, cells, backend, format, option):
    """One export by the tool, in a process of its own."""
    from keras_smlp.deploy.export import api, runtimes

    kind = api.FORMATS[format]
    path = Path(tempfile.mkdtemp(dir=folder)) / f"model{kind.ending}"
    done = subprocess.run(
        [sys.executable, TOOL, options.model, "--format", format, "--out", path, *OPTIONS[option]],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    how = "directly" if backend in kind.backends else f"by {kind.backends[0]}"
    if done.returncode:
        return Form(cells, "-", done.stderr.strip().splitlines()[-1], None)
    run = runtimes.opened(path, format, options.threads)
    return Form(cells, megabytes(path), how, lambda x: run(x)["probabilities"])


def measured(forms, images, labels, expected, options):
    """Each form with what it answers, beside what is expected, and with its times."""
    batch, times = images[: options.batch], [[] for _ in forms]
    for _ in range(options.rounds + 1):
        for form, own in zip(forms, times, strict=True):
            if form.run:
                time.sleep(0.02)  # the threads of the one before go to sleep
                began = time.perf_counter()
                form.run(batch)
                own.append((time.perf_counter() - began) / len(batch) * 1000)
    for form, own in zip(forms, times, strict=True):
        if not form.run:
            yield form, ("-", "-", "-"), "-"
            continue
        own = own[1:]
        found = answers(form.run, images, options.batch)
        difference = np.abs(found - expected).max() / expected.max()
        equal = np.mean(found.argmax(-1) == expected.argmax(-1))
        right = np.mean(found.argmax(-1) == labels)
        cells = f"{difference:.1e}", f"{100 * equal:.2f}", f"{100 * right:.2f}"
        yield form, cells, f"{min(own):.2f}, {statistics.median(own):.2f}"


def answers(run, images, batch):
    """The probabilities of all images, in batches."""
    parts = [run(images[i : i + batch]) for i in range(0, len(images), batch)]
    return np.concatenate([np.asarray(x, "float32") for x in parts])


if __name__ == "__main__":
    main()
