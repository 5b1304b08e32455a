"""A profile of some training steps, by the backend's own profiler.

KERAS_BACKEND=jax python -m benchmarks.profile --variant tiny --batch 128 FOLDER

On JAX and TensorFlow, FOLDER gets what TensorBoard's profile plugin and xprof show; on PyTorch a
`trace.json` for chrome://tracing, and a table of the operations that took longest is printed.
"""

import contextlib
from pathlib import Path

import keras
import numpy as np

from benchmarks import models
from keras_smlp_cli.arguments import Parser, positive
from reference import stand_in

SHOWN = 25


def parse():
    """The options, complete and possible."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="where the profile is written")
    add("--variant", choices=tuple(stand_in.VARIANTS), default="tiny", help="default: tiny")
    add("--batch", type=positive, default=128, help="images in a step (default: 128)")
    precisions = ("float32", "mixed_bfloat16", "mixed_float16")
    add("--precision", choices=precisions, default="mixed_bfloat16")
    add("--steps", type=positive, default=3, help="that are profiled (default: 3)")
    options = parser.parse_args()
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"the folder {str(options.folder)!r} cannot be made: {error.strerror}")
    return options


@contextlib.contextmanager
def profiling(folder):
    """Profiles what is inside of the block."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profile:
            yield
        profile.export_chrome_trace(str(folder / "trace.json"))
        by = "cuda_time_total" if torch.cuda.is_available() else "cpu_time_total"
        print(profile.key_averages().table(sort_by=by, row_limit=SHOWN))
        return
    if backend == "jax":
        import jax.profiler as profiler

        context = profiler.trace(folder)
    else:
        import tensorflow as tf

        context = tf.profiler.experimental.Profile(str(folder))
    with context:
        yield


def main():
    options = parse()
    net = models.network(options.variant, options.precision)
    model = models.training_model(net, group_size=models.group_size(options.batch))
    shapes, targets = models.drawn_batch(net, options.batch)
    images = {key: np.zeros(shape, dtype) for key, shape, dtype in shapes}
    targets = np.full(targets, 1 / targets[1], "float32")
    model.train_on_batch(images, targets)  # compiles
    with profiling(options.folder):
        for _ in range(options.steps):
            model.train_on_batch(images, targets)


if __name__ == "__main__":
    main()
