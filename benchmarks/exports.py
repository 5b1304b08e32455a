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

from tools.command_line import Parser

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads would take the others' cores

TOOL = Path(__file__).parents[1] / "tools" / "export_model.py"
BACKENDS = ("tensorflow", "jax", "torch")
OPTIONS = {
    "as it is": [],
    "fold": ["--fold"],
    "fold, float16": ["--fold", "--precision", "float16"],
    "fold, bfloat16": ["--fold", "--precision", "bfloat16"],
    "int8": ["--quantize", "int8"],
    "fold, int8": ["--fold", "--quantize", "int8"],
}

HEADS = (
    """\
| backend | format | written | size, MB | difference | ms per image: minimum, median |
|---|---|---|---|---|---|""",
    """
| run by | form | size, MB | difference | top-1 equal, % | top-1, % | ms per image |
|---|---|---|---|---|---|---|""",
)


def main():
    parser = Parser(__doc__)
    parser.add_argument("model", type=Path, help="a .keras file")
    parser.add_argument("data", help="an .npz file")
    formats = ("tf_saved_model", "onnx", "openvino", "litert", "torch")
    parser.add_argument("--formats", nargs="*", default=formats, choices=formats)
    parser.add_argument("--backends", nargs="*", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--options", nargs="*", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--images", type=int, default=100, help="how many, evenly spread")
    parser.add_argument("--batch", type=int, default=8, help="images at a time")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()

    import keras
    import numpy as np

    from keras_smlp.data import sources

    split = sources.npz(options.data).validation
    chosen = np.linspace(0, len(split) - 1, min(options.images, len(split))).astype(int)
    images, labels, _ = split.read(chosen)
    images = np.asarray(images, "float32")
    limit(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        own = in_keras(options.model, Path(folder))
        expected = answers(own[0].run, images, options.batch)
        everywhere = [
            exported(options, Path(folder), f"{backend} | {format}", backend, format, "as it is")
            for backend in options.backends
            for format in options.formats
        ]
        print(HEADS[0])
        for row, (difference, _, _), ms in measured(everywhere, images, labels, expected, options):
            print(f"| {row.cells} | {row.how} | {row.size} | {difference} | {ms} |", flush=True)

        backend = keras.backend.backend()
        smaller = own + [
            exported(options, Path(folder), f"{format} | {name}", backend, format, name)
            for format in options.formats
            for name in options.options
            if is_offered(format, OPTIONS[name])
        ]
        print(HEADS[1])
        for row, cells, ms in measured(smaller, images, labels, expected, options):
            print(f"| {row.cells} | {row.size} | {' | '.join(cells)} | {ms} |", flush=True)


@dataclass
class Row:
    """One contender: its first cells, its size in MB, how it was made, and how it is run."""

    cells: str
    size: str
    how: str
    run: Callable | None


def limit(threads):
    """Sets the threads of the runtimes that have them per process."""
    import tensorflow as tf
    import torch

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    torch.set_num_threads(threads)


def in_keras(path, folder):
    """The model in Keras and its smaller forms, as rows; the first is the model itself."""
    import keras

    import keras_smlp
    from keras_smlp.deploy.precision import with_precision

    def quantized(model):
        keras_smlp.quantize(model)
        return model

    model = keras.models.load_model(path, compile=False)
    forms = {
        "as it is": model,
        "fold": keras_smlp.fold(model),
        "bfloat16": with_precision(model, "bfloat16"),
        "int8": quantized(keras.models.load_model(path, compile=False)),
        "fold, int8": quantized(keras_smlp.fold(model)),
    }
    rows = []
    for i, (name, form) in enumerate(forms.items()):
        file = folder / f"{i}.keras"
        form.save(file)
        cells = f"Keras on {keras.backend.backend()} | {name}"
        rows.append(
            Row(
                cells,
                megabytes(file),
                "",
                lambda x, form=form: form.predict_on_batch(x),
            )
        )
    return rows


def megabytes(path):
    """The size of an exported model, for a table."""
    from keras_smlp.deploy.export.runtimes import size

    return f"{size(path) / 1e6:.2f}"


def is_offered(format, option):
    """Whether a format has the precision that an option asks for."""
    from keras_smlp.deploy.export.api import FORMATS

    return "--precision" not in option or option[-1] in FORMATS[format].precisions


def exported(options, folder, cells, backend, format, option):
    """One export by the tool, in a process of its own, as a row that begins with the cells."""
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
        return Row(cells, "-", done.stderr.strip().splitlines()[-1], None)
    run = runtimes.opened(path, format, options.threads)
    return Row(cells, megabytes(path), how, lambda x: run(x)["probabilities"])


def measured(rows, images, labels, expected, options):
    """Each row with what it answers, beside what is expected, and with its times."""
    import numpy as np

    batch, times = images[: options.batch], {id(row): [] for row in rows}
    for _ in range(options.rounds + 1):
        for row in rows:
            if row.run:
                time.sleep(0.02)  # the threads of the one before go to sleep
                began = time.perf_counter()
                row.run(batch)
                times[id(row)].append((time.perf_counter() - began) / len(batch) * 1000)
    for row in rows:
        if not row.run:
            yield row, ("-", "-", "-"), "-"
            continue
        found, taken = answers(row.run, images, options.batch), times[id(row)][1:]
        difference = np.abs(found - expected).max() / expected.max()
        equal = 100 * np.mean(found.argmax(-1) == expected.argmax(-1))
        right = 100 * np.mean(found.argmax(-1) == labels)
        cells = f"{difference:.1e}", f"{equal:.2f}", f"{right:.2f}"
        yield row, cells, f"{min(taken):.2f}, {statistics.median(taken):.2f}"


def answers(run, images, batch):
    """The probabilities of all images, in batches."""
    import numpy as np

    parts = [run(images[i : i + batch]) for i in range(0, len(images), batch)]
    return np.concatenate([np.asarray(x, "float32") for x in parts])


if __name__ == "__main__":
    main()
