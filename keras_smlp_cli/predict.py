"""Name what photos show: the likeliest classes of each.

    keras-smlp predict photo.jpg
    keras-smlp predict photos/ --weights runs/mine/best.keras --plot out.png --explain

PHOTO is a file, a folder (its images, recursively) or a pattern such as "photos/**/*.jpg". A photo
that cannot be decoded is named on stderr and skipped; the exit status is 1 then. In a folder, what
is hidden is not looked at, and what else is no image is counted on stderr.
"""

import contextlib
import glob
import json
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keras_smlp_cli.arguments import (
    Parser,
    labels,
    located,
    open_model,
    png,
    positive,
    read_names,
    view,
)
from keras_smlp_cli.failures import run

TOP = 5
MOST_PLOTTED = 64


def main(argv: list[str], prog: str = "keras-smlp predict") -> int:
    """Names what photos show; returns the exit status."""
    parser = Parser(__doc__, prog)
    parser.add_argument("photos", metavar="PHOTO", nargs="*", help="file, folder or pattern")
    parser.add_argument(
        "--weights",
        default="imagenet",
        help="imagenet (default), the path of a weights file or hf://ACCOUNT/NAME@REVISION",
    )
    parser.add_network_options()
    parser.add_meaning_options()
    parser.add_argument(
        "--top", type=positive, help=f"classes per photo (default: {TOP}, or all if there are less)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line and photo")
    parser.add_argument(
        "--plot", metavar="FILE.png", type=png, help="draw the photos beside their classes"
    )
    parser.add_argument("--explain", action="store_true", help="with Grad-CAM over the photos")
    parser.add_argument(
        "--kernels", metavar="FILE.png", type=png, help="draw the network's axial kernels"
    )
    parser.add_view_options()
    parser.add_argument(
        "--batch-size", type=positive, default=32, help="photos at a time (default: 32)"
    )
    return run(prog, predict, parser, argv, errors=(ValueError, OSError))


def predict(parser, argv):
    """One run from top to bottom; returns the exit status."""
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not (arguments.photos or arguments.kernels):
        raise ValueError("PHOTO must be given, at least one")
    if arguments.explain and not arguments.plot:
        raise ValueError("--explain must stand with --plot FILE.png, which it is drawn in")
    if arguments.plot or arguments.kernels:
        import matplotlib as matplotlib  # now, not after the work
    files, others = find(arguments.photos)
    if arguments.plot and not 0 < len(files) <= MOST_PLOTTED:
        raise ValueError(f"--plot must be for 1 to {MOST_PLOTTED} photos, not for {len(files)}")

    import numpy as np

    from keras_smlp.analysis import explain, plots
    from keras_smlp.checks import shown
    from keras_smlp.inference import images
    from keras_smlp.inference.classes import likeliest
    from keras_smlp.inference.photos import in_words

    # ---- model ----------------------------------------------------------------------------------
    arguments.weights, _ = located(arguments.weights, "--weights")
    if not files:  # the kernels of any network are drawn, without names
        with contextlib.redirect_stdout(sys.stderr):
            model = open_model(arguments.weights, arguments.variant, "--weights")
        plots.plot_kernels(arguments.kernels, explain.axial_kernels(model))
        return 0
    names = read_names(arguments.weights, arguments.classes)
    with contextlib.redirect_stdout(sys.stderr):  # Keras says there that it downloads
        model = classifier(arguments)
    height, width, channels = model.input_shape[1:]
    classes = labels(names, model.output_shape[-1])
    if classes is None:
        raise ValueError(
            f"--classes must name the {model.output_shape[-1]} classes of the model: there is no "
            "classes.json beside it, and they are not ImageNet's 1000"
        )
    top = min(TOP, len(classes)) if arguments.top is None else arguments.top
    if top > len(classes):
        raise ValueError(f"--top must be at most {len(classes)}, the model's classes, not {top}")
    prepared = view(arguments, arguments.weights, model)
    if arguments.explain:
        explain.classifier_layers(model)
    if arguments.kernels:
        plots.plot_kernels(arguments.kernels, explain.axial_kernels(model))

    # ---- photos ---------------------------------------------------------------------------------
    if others:
        print(f"{parser.prog}: not used: {in_words(others)}", file=sys.stderr)

    def read(file):
        try:
            return images.load_image(file, (height, width), channels=channels, **prepared)
        except (ValueError, OSError) as error:
            return error

    size = min(arguments.batch_size, len(files)) or 1
    chunks = [files[i : i + size] for i in range(0, len(files), size)]
    batches, write = progress(read_ahead(chunks, read), len(chunks))
    damaged, drawn = 0, []
    # always whole: JAX compiles per shape
    batch = np.zeros((size, height, width, channels), "uint8")
    for chunk, pictures in batches:
        good: list[str] = []
        for file, picture in zip(chunk, pictures, strict=True):
            if isinstance(picture, Exception):
                write(f"{parser.prog}: skipped {shown(file)}: {picture}", file=sys.stderr)
                damaged += 1
            else:
                batch[len(good)] = picture
                good.append(file)
        if not good:
            continue
        rows = np.asarray(model.predict_on_batch(batch), "float64")
        for file, image, row in zip(good, batch, rows, strict=False):
            found = [(k, *classes[k], float(row[k])) for k in likeliest(row, top)]
            write(as_json(file, found) if arguments.json else as_table(file, found))
            if arguments.plot:
                drawn.append((Path(file).name, image.copy(), [(x[2], x[3]) for x in found]))

    # ---- picture --------------------------------------------------------------------------------
    if drawn:
        titles, seen, best = zip(*drawn, strict=True)
        pixels = np.stack(seen)
        maps = explain.grad_cam(model, pixels) if arguments.explain else None
        plots.plot_predictions(arguments.plot, titles, pixels, best, maps)
    return 1 if damaged else 0


def find(photos):
    """The files that the arguments stand for, each once; and what else is in their folders."""
    from keras_smlp.inference.photos import images_below, in_words

    files: list[str] = []
    others: list = []
    for argument in photos:
        exists = os.path.exists(argument)
        found: list[str] = []
        for match in [argument] if exists else sorted(glob.glob(argument, recursive=True)):
            if os.path.isdir(match):
                below, more = images_below(match)
                found, others = found + below, others + more
            else:
                found.append(match)
        if not found:
            raise ValueError(
                "PHOTO must be a file, a folder with images or a pattern that fits some, "
                f"not {argument}" + (f" ({in_words(others)} are there)" if others else "")
            )
        files += found
    return list(dict.fromkeys(files)), others


def classifier(arguments):
    """The model, which takes pixels in [0, 255] and answers with probabilities."""
    from keras_smlp.deploy.export.api import ends, is_classifier
    from keras_smlp.deploy.export.meaning import meaning

    weights = arguments.weights
    model = open_model(weights, arguments.variant, "--weights")
    inputs, outputs = ends(model)
    if not is_classifier(model):
        raise ValueError(
            f"--weights must be a classifier of images; {weights} goes from {inputs} to {outputs}"
        )
    means = meaning(model, arguments.inputs, arguments.outputs)
    if means.outputs not in ("probabilities", "sigmoid"):
        logits = means.outputs == "logits"
        does = "it answers with logits" if logits else "what it answers with is unknown"
        raise ValueError(
            f"--weights must answer with probabilities, or --outputs say so; {weights}: {does}"
        )
    if means.inputs != "pixels":
        takes = {
            "normalized": "was built with include_preprocessing=False",
            "unknown": "what it takes is unknown",
        }[means.inputs]
        raise ValueError(
            f"--weights must take pixels in [0, 255], or --inputs say so; {weights}: {takes}"
        )
    return model


def read_ahead(chunks, read):
    """Each list of files with what was read; the next is read while the network computes."""
    with ThreadPoolExecutor() as pool:
        ahead: deque = deque()
        for chunk in chunks:
            ahead.append((chunk, pool.map(read, chunk)))
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead


def progress(batches, count):
    """The batches, with a bar where a person waits for several, and how to write beside it."""
    if count < 2 or not sys.stderr.isatty():
        return batches, print
    from tqdm import tqdm

    return tqdm(batches, total=count, unit="batch"), tqdm.write


def as_table(file, found):
    """A photo's classes for people: rank, probability, wnid where there is one, name."""
    from keras_smlp.checks import shown

    lines = [
        f"{rank:4}  {probability:.4f}  {f'{wnid}  ' if wnid else ''}{shown(name)}"
        for rank, (_, wnid, name, probability) in enumerate(found, start=1)
    ]
    return "\n".join([shown(file, None), *lines])


def as_json(file, found):
    """A photo's classes for programs."""
    predictions = [
        {"class": k, "name": name, "probability": probability} | ({"wnid": wnid} if wnid else {})
        for k, wnid, name, probability in found
    ]
    return json.dumps({"file": file, "predictions": predictions})
