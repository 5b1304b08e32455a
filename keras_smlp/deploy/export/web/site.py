"""Writes the page around a model: static files, which any web server can serve."""

import json
import string
from importlib import resources

import keras
import numpy as np

from keras_smlp.checks import refusal
from keras_smlp.deploy.export import class_maps
from keras_smlp.deploy.export.meaning import NORMALIZED, PIXELS, UNKNOWN
from keras_smlp.deploy.export.web import runtime
from keras_smlp.preprocessing import OFFSET, SCALE

MODEL = "model.tflite"
CHANNELS = (1, 3)  # those that a browser gives
PAGE = resources.files(__package__) / "page"
COPIED = (
    "app.js",
    "camera.js",
    "failure.js",
    "heat.js",
    "network.js",
    "photo.js",
    "resize.js",
    "style.css",
    "icon.svg",
    "NOTICES.txt",
)


def check(model, means, features, folder):
    """Refuses, before anything is written, what the page cannot show.

    Args:
        model: A classifier.
        means: Its `Meaning`.
        features: Whether the features are asked for.
        folder: The folder with the runtime's files, or `None`.

    Returns:
        This folder as a `pathlib.Path`, or `None`.
    """
    channels = model.inputs[0].shape[-1]
    if channels not in CHANNELS:
        raise ValueError(
            f"`model` must take images of 1 or 3 channels for 'web'. Received: {channels} channels"
        )
    known = (PIXELS, NORMALIZED) if channels == 3 else (PIXELS,)
    if means.inputs not in known:
        allowed = f"one of {known} for 'web' and {channels} channels, given or read off the graph"
        raise refusal("inputs", means.inputs, allowed)
    if means.outputs == UNKNOWN:
        allowed = "'probabilities', 'sigmoid' or 'logits' for 'web', given or read off the graph"
        raise refusal("outputs", UNKNOWN, allowed)
    if features:
        raise refusal("features", features, "False for 'web'")
    return None if folder is None else runtime.check(folder)


def policy(is_here):
    """The content security policy: nothing from elsewhere but, perhaps, the runtime's files.

    These come by `fetch`, which compares their hashes, and run from the page's memory (`blob:`);
    there `fetch` compares the model's hash, too.
    """
    far = [f"{runtime.CDN}/{x}@{runtime.VERSION}/" for x in (runtime.CORE, runtime.UTILITIES)]
    rules = {
        "default-src": ["'none'"],
        "script-src": ["'self'", "'wasm-unsafe-eval'", *([] if is_here else ["blob:"])],
        "style-src": ["'self'"],
        "img-src": ["'self'", "blob:"],  # a photo's own size
        "connect-src": ["'self'", "blob:", *([] if is_here else far)],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    return "; ".join(" ".join([name, *values]) for name, values in rules.items())


def sample(size):
    """An image that the page can make, too: integers in [0, 255] without a visible pattern.

    Args:
        size: Triple (height, width, channels).

    Returns:
        An array uint8 of this shape.
    """
    numbers = np.arange(1, 1 + np.prod(size), dtype="uint32")
    # the product is taken modulo 2**32
    return (numbers * np.uint32(2654435761) >> np.uint32(24)).astype("uint8").reshape(size)


def answer(served, means):
    """The probabilities that the exported model gives for `sample`, a list of numbers.

    The page compares them with those of a graphics processor before it uses one.
    """
    images = sample(served.inputs[0].shape[1:])[None].astype("float32")
    if means.inputs == NORMALIZED:
        images = images * np.float32(SCALE) + np.float32(OFFSET)
    (found,) = served(images, training=False).values()
    return [float(f"{x:.6g}") for x in keras.ops.convert_to_numpy(found)[0]]


def write(path, model, served, means, metadata, folder):
    """Adds the page to a folder that has the model.

    Args:
        path: Path of the folder.
        model: The model that was exported.
        served: What `writing.endpoint` makes of it.
        means: Its `Meaning`.
        metadata: Dict that every exported file carries.
        folder: The folder with the runtime's files, or `None`.
    """
    for name in COPIED:
        (path / name).write_bytes((PAGE / name).read_bytes())
    page = string.Template((PAGE / "index.html").read_text("utf-8"))
    html = page.substitute(policy=policy(folder is not None))
    (path / "index.html").write_text(html, "utf-8")
    _, height, width, channels = model.inputs[0].shape
    is_normalized = means.inputs == NORMALIZED
    content = (path / MODEL).read_bytes()
    about = {
        "metadata": metadata,
        "model": {
            "file": MODEL,
            "bytes": len(content),
            "integrity": runtime.integrity(content),
        },
        "size": [height, width],
        "cover": metadata["resize_size"],
        "channels": channels,
        "scale": SCALE if is_normalized else None,
        "offset": OFFSET if is_normalized else None,
        "map": class_maps.size(model),
        "sample": answer(served, means),
        "runtime": runtime.described(folder is not None),
    }
    (path / "about.json").write_text(json.dumps(about, indent=1), "utf-8")
    if folder is not None:
        runtime.copy(folder, path)
