"""What `keras-smlp predict` takes beside the network's own time: reading, naming, printing.

    python -m benchmarks.predict PHOTOS --variant tiny --photos 640

The photos of the folder are named again and again until there are so many; the network has random
weights. Loading it is not measured, compiling it counts as its own time.
"""

import contextlib
import io
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from keras_smlp_cli import predict
from keras_smlp_cli.arguments import VARIANTS, Parser, positive


def main():
    parser = Parser(__doc__)
    parser.add_argument("folder", metavar="PHOTOS", help="folder of photos")
    parser.add_argument("--variant", choices=VARIANTS, default="tiny")
    parser.add_argument("--photos", type=positive, default=640, help="how many (default: 640)")
    parser.add_argument("--rounds", type=positive, default=3, help="default: 3")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


def measure(options, folder):
    import keras

    import keras_smlp
    from keras_smlp.inference.classes import CLASSES
    from keras_smlp.inference.photos import images_below

    found, _ = images_below(options.folder)
    photos = folder / "photos"
    photos.mkdir()
    for i, file in zip(range(options.photos), itertools.cycle(found)):
        (photos / f"{i:05}{Path(file).suffix}").symlink_to(Path(file).resolve())
    constructor = getattr(keras_smlp, f"SMLPNet{options.variant.capitalize()}")
    constructor().save(folder / "m.keras")
    names = [name for _, name in keras_smlp.imagenet_classes()]
    (folder / CLASSES).write_text(json.dumps(names))

    taken = {"network": 0.0, "begun": 0.0}
    compute, read_ahead = keras_smlp.PortableModel.predict_on_batch, predict.read_ahead

    def timed(model, batch):
        start = time.perf_counter()
        answer = compute(model, batch)
        taken["network"] += time.perf_counter() - start
        return answer

    def noted(*arguments):
        taken["begun"] = time.perf_counter()
        return read_ahead(*arguments)

    for _ in range(options.rounds):
        taken["network"] = 0.0
        with (
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch.object(keras_smlp.PortableModel, "predict_on_batch", timed),
            mock.patch.object(predict, "read_ahead", noted),
        ):
            status = predict.main([str(photos), "--weights", str(folder / "m.keras")])
        whole = time.perf_counter() - taken["begun"]
        assert status == 0, status
        print(
            f"{keras.backend.backend()}, {options.variant}, {options.photos} photos: network "
            f"{taken['network']:.2f} s, whole {whole:.2f} s, ratio {whole / taken['network']:.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
