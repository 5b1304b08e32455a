"""Our pipeline against PIL's, in one run: CPU and wall time per image, training and evaluation.

python -m benchmarks.data PHOTOS [--rounds 5] [--threads 2]

PHOTOS is a folder of image files. Ours is `keras_smlp.data` on that many threads; the peer is the
same recipe in PIL and NumPy (`reference/images.py`) behind a PyTorch DataLoader with that many
workers. Random erasing and mixing count for the peer alone: ours are part of the training step. The
contenders take turns; the first round is not counted, nor is, in each, what comes before the second
batch: starting an epoch takes our graph some two seconds, which is told apart. The processors' time
is that of all threads of this process; the peer's images are made in others.
"""

import argparse
import dataclasses
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402 - the backend first
import torch  # noqa: E402

from benchmarks import tables  # noqa: E402
from keras_smlp.data import pipeline, splits  # noqa: E402
from keras_smlp.data.decode import BadFiles  # noqa: E402
from keras_smlp.data.recipe import DataConfig  # noqa: E402
from reference import images as peer  # noqa: E402

SIZE, BATCH, CLASSES = 224, 64, 1000


class Views(torch.utils.data.Dataset):
    """The peer's images; each file several times, as our repeats."""

    def __init__(self, paths, recipe, training):
        self.paths, self.recipe, self.training = paths, recipe, training

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        content = self.paths[i].read_bytes()
        if self.training:
            return peer.training_view(content, np.random.default_rng(i), SIZE, self.recipe)
        return peer.normalized(peer.evaluation_view(content, SIZE, 256))


def peer_runs(paths, recipe, training, workers):
    """A function that returns all batches, mixing included; its workers stay."""
    loader = torch.utils.data.DataLoader(
        Views(paths, recipe, training),
        BATCH,
        num_workers=workers,
        persistent_workers=True,
        drop_last=training,
    )
    rng, targets = np.random.default_rng(0), np.zeros((BATCH, CLASSES), "float32")

    def run():
        for x in loader:
            yield peer.mixed(x.numpy(), targets, rng, recipe) if training else x

    return run


def contenders(paths, threads):
    """Name -> function that returns an iterable of the batches."""
    split = splits.Files(
        len(paths), lambda i: ([paths[k].read_bytes() for k in i], [0] * len(i), [""] * len(i))
    )
    recipe = DataConfig(name="folder", dir=".", group_size=BATCH, threads=threads, repeats=1)
    scaled = dataclasses.replace(recipe, scaled_decoding=True)
    bad, steps = BadFiles(), range(len(paths) // BATCH)
    validation = pipeline.validation_batches(split, recipe, SIZE, BATCH, bad)

    def ours(recipe):
        batches = pipeline.train_batches(split, recipe, SIZE, CLASSES, BATCH, 0, bad)
        return lambda: batches(0, steps)

    return {
        "training": {
            "keras_smlp": ours(recipe),
            "keras_smlp, scaled decoding": ours(scaled),
            "PIL": peer_runs(paths, recipe, True, threads),
        },
        "evaluation": {
            "keras_smlp": lambda: validation,
            "PIL": peer_runs(paths, recipe, False, threads),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="folder of image files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=2048, help="images in a round")
    options = parser.parse_args()
    if options.images < 3 * BATCH:  # the first is set apart, the second starts the clock
        parser.error(f"--images must be at least {3 * BATCH}, not {options.images}")
    files = sorted(path for path in options.photos.rglob("*") if path.is_file())
    paths = (files * -(-options.images // len(files)))[: options.images // BATCH * BATCH]
    pipeline.CACHE_BYTES = 0  # evaluation makes its images each time
    columns = (
        "first batch, s",
        "ms per image: minimum, median",
        "processor ms",
        "images/s",
        "to PIL",
    )
    print(tables.head("", "contender", *columns))
    for mode, runs in contenders(paths, options.threads).items():
        times = {name: [] for name in runs}
        for round_ in range(options.rounds + 1):
            for name, run in runs.items():
                found = timed(run)
                if round_:
                    times[name].append(found)
        least_of_pil = min(each for _, each, _ in times["PIL"])
        for name, found in times.items():
            first, each, busy = zip(*found, strict=True)
            cells = (
                f"{min(first):.1f}",
                f"{min(each):.2f}, {statistics.median(each):.2f}",
                f"{min(busy):.2f}" if name != "PIL" else "",
                f"{1000 / min(each):.0f}",
                f"{min(each) / least_of_pil:.2f}",
            )
            print(tables.line(mode, name, *cells), flush=True)


def timed(run):
    """Seconds to the first batch; milliseconds, and those of the processors, per image after it."""
    began = time.perf_counter()
    for i, _ in enumerate(run()):
        if i == 0:
            first = time.perf_counter()
        elif i == 1:
            second, busy = time.perf_counter(), time.process_time()
        last, done = time.perf_counter(), time.process_time()
    images = (i - 1) * BATCH / 1000
    return first - began, (last - second) / images, (done - busy) / images


if __name__ == "__main__":
    main()
