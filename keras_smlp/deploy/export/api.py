"""`export`: a model as a SavedModel, ONNX, OpenVINO, LiteRT, PyTorch's .pt2 file or a web page.

Each format is written by a backend that writes it well; under another one the same call runs that
backend in a process of its own, from the saved model.
"""

import errno
import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_smlp import naming
from keras_smlp.checks import (
    check_boolean,
    check_choice,
    check_names,
    check_pair,
    check_path,
    check_text,
    received,
    refusal,
    shown,
)
from keras_smlp.deploy.export.meaning import (
    LOGITS,
    NORMALIZED,
    PIXELS,
    PROBABILITIES,
    UNKNOWN,
    is_graph,
    meaning,
)
from keras_smlp.deploy.export.web import site
from keras_smlp.deploy.export.writing import (
    FORMATS,
    endpoint,
    is_written_here,
    write,
    write_in_subprocess,
)
from keras_smlp.deploy.precision import with_precision
from keras_smlp.preprocessing import shorter_side
from keras_smlp.saving import scratch_beside

# endings that no folder has by intent
FILES = {".keras", ".h5", *(kind.ending for kind in FORMATS.values())} - {""}


def export(
    model: keras.Model,
    path: str | os.PathLike,
    format: str = "tf_saved_model",
    features: bool = False,
    precision: str = "float32",
    class_names: Sequence[str] | None = None,
    origin: str | None = None,
    license: str | None = None,
    inputs: str = "auto",
    outputs: str = "auto",
    runtime: str | os.PathLike | None = None,
    resize_size: int | tuple[int, int] | None = None,
    exif_orientation: bool = False,
) -> Path:
    """Writes a classifier so that neither Keras nor this package is needed to run it.

    All formats take float32 images `(batch, height, width, channels)`, any number of them (`"web"`
    one at a time), as the model takes them, and return what it answers at inference, `(batch,
    classes)`, under the name `probabilities`, or `outputs` if it is not known what they are. Logits
    become probabilities, by a softmax, where they are those of the network's own head or
    `outputs="logits"` says so.

    If the pixels are in [0, 255], a SavedModel has, beside the endpoint `serve`, `serve_uint8`
    for uint8 images, and `serve_jpeg` (of RGB or gray images), which takes a string tensor
    `(batch,)` of JPEG files of any size, and decodes, resizes and crops them as the evaluation
    does, without turning them as EXIF says; a LiteRT file has, beside the signature
    `serving_default`, `serving_uint8`.

    | format | path | written by | precisions | metadata |
    |---|---|---|---|---|
    | `"tf_saved_model"` | a folder | TensorFlow, JAX | float32, bfloat16, float16 |
    `assets.extra/metadata.json` |
    | `"onnx"` | `.onnx` | PyTorch | float32, float16 | entry `metadata` of its properties |
    | `"openvino"` | `.xml`, `.bin` beside it | PyTorch, ONNX | float32, float16 | entry `metadata`
    of its `rt_info` |
    | `"litert"` | `.tflite` | TensorFlow | float32, float16, int8 | `metadata.json` in the zip at
    its end |
    | `"torch"` | `.pt2` | PyTorch | float32, bfloat16, float16 | its extra file `metadata.json` |
    | `"web"` | a folder | TensorFlow | float32, float16, int8 | entry `metadata` of `about.json` |

    Under another backend a process of its own runs the one that writes the format, which must be
    installed.

    Inputs and outputs are float32 in every precision. In 16 bits the network between them is
    stored and computed (OpenVINO and LiteRT only store it so: their converters do it, and their
    runtimes choose what to compute in). `"int8"` is LiteRT's rounding of kernels, for it does not
    run what `keras_smlp.quantize` returns; the other formats do.

    `"web"` writes a page, static files around a LiteRT file, that classifies photos in the browser.
    It takes RGB or gray images, one at a time. If the model ends in the layers `avg_pool` and
    `predictions` of `SMLPNet`, the file also returns `maps` `(batch, rows, columns, classes)`, the
    class activation maps: what each position of the last feature map adds to each logit, as
    `keras_smlp.explain.grad_cam` computes it (plus the bias, where the model is folded).

    Args:
        model: A model that `keras_smlp.SMLPNet` made, with its classifier, or one built on it that
            ends in the classes, also one that has the network as a layer.
        path: Path to write; nothing may be there.
        format: One of the above. Defaults to `"tf_saved_model"`.
        features: Boolean. Whether to return `features` too, the map's mean over the positions
            `(batch, channels)` that the classifier takes. Defaults to `False`.
        precision: One of those above. Defaults to `"float32"`, whatever the model was trained in.
        class_names: List of strings, one for each class, or `None`.
        origin: String, where the weights come from, or `None`.
        license: String, the license of the weights, or `None`.
        inputs: What the model takes: `"pixels"` (in [0, 255]), `"normalized"` (by ImageNet's
            mean and deviation) or `"unknown"`. Defaults to `"auto"`, which reads it off the graph:
            pixels where the package's own normalization is all that reads the images, normalized
            where the network's stem is.
        outputs: What the model answers with: `"probabilities"`, `"sigmoid"` (a probability of each
            class by itself), `"logits"`, which become probabilities, or `"unknown"`, which also
            leaves logits as they are. Defaults to `"auto"`, which reads it off the graph: a softmax
            or a sigmoid at its end, or the logits of the network's own head for at least two
            classes. If those are not logits of a softmax (several labels for an image, a
            regression), give `"unknown"`.
        runtime: For `"web"`, path of the folder `node_modules` in which npm installed LiteRT.js,
            the runtime: its files are copied beside the page, which then needs no other server.
            Defaults to `None`: the browser loads them from a public server and compares their
            hashes.
        resize_size: Positive integer or pair `(height, width)`, at least the model's: what photos
            just cover before the central crop, as of `keras_smlp.load_image`, and as
            `data.resize_size` was in the training. The metadata say it, `serve_jpeg` and the page
            do it. Defaults to `None`: 256 / 224 of the model's.
        exif_orientation: Boolean. Whether the metadata say that photos are to be turned upright as
            their EXIF data say, as with `data.exif_orientation` in the training. Defaults to
            `False`.

    Returns:
        The path as a `pathlib.Path`.

    Raises:
        ValueError: If an argument is invalid, or the model has no classifier.
        FileExistsError: If there is something at the path.
        ImportError: If a package is missing; the message names the extra that brings it.
        RuntimeError: If the process that exports fails.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=2)
    >>> keras_smlp.export(model, "served", class_names=["cat", "dog"])
    PosixPath('served')
    """
    path = check_path("path", path)
    features = check_boolean("features", features)
    if class_names is not None:
        class_names = check_names("class_names", class_names, "None or a list of strings")
    origin = check_text("origin", origin, none=True)
    license = check_text("license", license, none=True)
    exif_orientation = check_boolean("exif_orientation", exif_orientation)
    check(model, path, format, features, precision, class_names)
    cover(model, resize_size)  # refused before anything is converted
    means = meaning(model, inputs, outputs)
    if format == "web":
        runtime = site.check(model, means, features, runtime)
    elif runtime is not None:
        raise refusal("runtime", runtime, f"None for {format!r}")
    model = with_precision(model, "float32" if FORMATS[format].reduces else precision)
    about = describe(model, means, class_names, origin, license, resize_size, exif_orientation)
    with scratch_beside(path, ".export-") as scratch:
        made = scratch / path.name
        run = write if is_written_here(model, format) else write_in_subprocess
        try:
            run(model, made, format, means, features, precision, json.dumps(about))
            if format == "web":
                served = endpoint(model, means, features=False)
                site.write(made, model, served, means, about, runtime)
        except Exception as error:  # each exporter has its own
            full = os.strerror(errno.ENOSPC)
            if full in str(error) or shutil.disk_usage(path.parent).free < 2**16:
                raise OSError(errno.ENOSPC, full, str(path)) from error
            raise
        for file in list(made.parent.iterdir()):
            os.rename(file, path.parent / file.name)
    return path


def check(model, path, format, features, precision, class_names):
    """Refuses, before anything is written, what cannot be exported."""
    kind = FORMATS[check_choice("format", format, tuple(FORMATS))]
    if not isinstance(precision, str) or precision not in kind.precisions:
        raise refusal("precision", precision, f"one of {kind.precisions} for {format!r}")
    if kind.ending and path.suffix != kind.ending:
        raise ValueError(
            f"`path` must end in {kind.ending} for {format!r}. Received: path='{shown(path)}'"
        )
    if not kind.ending and path.suffix in FILES:  # but not "v1.0"
        raise ValueError(
            f"`path` must be a folder's for {format!r}, without the ending of a file. "
            f"Received: path='{shown(path)}'"
        )
    if not path.parent.is_dir():
        raise ValueError(f"`path` must be in a folder that exists. Received: path={str(path)!r}")
    weights = [path.with_suffix(".bin")] if format == "openvino" else []
    for file in (path, *weights):
        if os.path.lexists(file):
            raise FileExistsError(f"`path` must not exist yet. Received: path={str(file)!r}")
    for package in kind.packages:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"{format!r} needs {package}, which is not installed: "
                f'pip install "keras-smlp[{kind.extra}]"'
            )
    check_classifier(model, class_names)
    if features and not (
        is_graph(model) and any(layer.name == naming.AVG_POOL for layer in model.layers)
    ):
        raise ValueError(
            f"`features` must be False for a model without the layer {naming.AVG_POOL} in its own "
            f"graph. Received: features={features!r} and the model {shown(model.name)}"
        )
    if format in ("litert", "web") and any(x.dtype == "int8" for x in model.weights):
        raise ValueError(
            f"`model` must not be quantized for {format!r}, as LiteRT does not run Keras' 8-bit "
            "layers: export the model that is not quantized, in int8. "
            f"Received: {model.name!r}"
        )


def check_classifier(model, class_names):
    """Refuses a model that is no classifier, and another number of names than of its classes."""
    images, classes = ends(model)
    if not is_classifier(model):
        raise ValueError(
            "`model` must be a classifier that takes (batch, height, width, channels) and returns "
            f"(batch, classes). Received: {received('model', getattr(model, 'name', model))}, "
            f"from {images} to {classes}"
        )
    if class_names is not None and len(class_names) != classes[1]:
        raise ValueError(
            f"`class_names` must have one name for each of the {classes[1]} classes. "
            f"Received: {len(class_names)}"
        )


def is_classifier(model):
    """Whether a model has the shapes of a classifier of images of one size."""
    images, classes = ends(model)
    return len(images) == 4 and None not in images[1:] and len(classes) == 2


def ends(model):
    """The shapes of a model's input and output; two empty tuples if it has not one of each."""
    if not isinstance(model, keras.Model) or not model.built:
        return (), ()
    inputs, outputs = getattr(model, "inputs", []), getattr(model, "outputs", [])
    one_of_each = len(inputs) == len(outputs) == 1
    return (inputs[0].shape, outputs[0].shape) if one_of_each else ((), ())


def cover(model, resize_size):
    """What photos are resized to before the central crop, `(height, width)`."""
    size = tuple(model.inputs[0].shape[1:3])
    if resize_size is None:
        return tuple(map(shorter_side, size))
    pair = check_pair("resize_size", resize_size)
    if pair[0] < size[0] or pair[1] < size[1]:
        allowed = f"at least the model's {size[0]} x {size[1]} (height x width)"
        raise refusal("resize_size", resize_size, allowed)
    return pair


def describe(model, means, class_names, origin, license, resize_size=None, exif_orientation=False):
    """The metadata that every exported file carries (docs/export.md says where), for JSON.

    `resize_size` and `exif_orientation` are those of `export`.
    """
    import keras_smlp

    _, height, width, channels = model.inputs[0].shape
    colors = {1: "gray", 3: "RGB"}.get(channels, f"{channels} channels")
    rows, columns = cover(model, resize_size)
    preprocessing = "turn as EXIF says; " * exif_orientation + (
        f"resize, bicubic and antialiased, so that {rows} x {columns} pixels (height x width) are "
        f"just covered; crop the middle {height} x {width}"
    )
    return {
        "class_names": class_names,
        "height": height,
        "width": width,
        "channels": channels,
        "input": {
            PIXELS: f"{colors} in [0, 255]",
            NORMALIZED: f"{colors}, normalized by ImageNet's mean and deviation",
            UNKNOWN: UNKNOWN,
        }[means.inputs],
        "preprocessing": {
            PIXELS: preprocessing,
            NORMALIZED: f"{preprocessing}; normalize",
            UNKNOWN: UNKNOWN,
        }[means.inputs],
        "resize_size": None if means.inputs == UNKNOWN else [rows, columns],
        "exif_orientation": None if means.inputs == UNKNOWN else exif_orientation,
        "output": PROBABILITIES if means.outputs == LOGITS else means.outputs,
        "origin": origin,
        "license": license,
        "made_by": f"keras_smlp {keras_smlp.__version__}",
    }
