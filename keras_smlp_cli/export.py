"""Export a network to what servers and devices run, and run what was written.

    keras-smlp export runs/mine/best.keras --format tf_saved_model --out served
    keras-smlp export smlp_s.pth --format onnx --out smlp_s.onnx --fold
    keras-smlp export imagenet --variant base --format openvino --out base.xml \\
        --fold --precision float16
    keras-smlp export runs/mine/best.keras --format web --out site --quantize int8

MODEL is a .keras file, another file of weights, imagenet or hf://ACCOUNT/NAME@REVISION, of the
Hugging Face hub. What was written is read by its own runtime, if that is installed, and compared
with the model on two random images.
"""

import os

from keras_smlp_cli.arguments import Parser, labels, located, open_model, read_names, source, view
from keras_smlp_cli.failures import exit_on_errors, run

# those of keras_smlp.export
FORMATS = ("tf_saved_model", "onnx", "openvino", "litert", "torch", "web")
BY_LITERT = ("litert", "web")  # whose converter rounds to 8 bits
EXACT = 1e-4  # of the largest output, in float32
# arguments of the package -> options
KEYS = {"model": "MODEL", "path": "--out", "class_names": "--classes"}
KEYS |= {
    name: f"--{name}"
    for name in (
        *("format", "features", "precision", "origin", "license"),
        *("inputs", "outputs", "runtime"),
    )
}
KEYS |= {"resize_size": "--resize-size", "exif_orientation": "--exif-orientation"}


def main(argv: list[str], prog: str = "keras-smlp export") -> int:
    """Exports a network; returns the exit status."""
    parser = Parser(__doc__, prog)
    parser.add_argument(
        "model", metavar="MODEL", help=".keras file, other weights, imagenet or hf://..."
    )
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument(
        "--out",
        metavar="PATH",
        required=True,
        help="a folder for tf_saved_model and web, else a file",
    )
    parser.add_network_options()
    parser.add_meaning_options()
    parser.add_view_options()
    parser.add_argument("--fold", action="store_true", help="merge what is linear first")
    parser.add_argument("--quantize", choices=("int8",), help="the dense layers, to 8 bits")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the rest (default: float32)",
    )
    parser.add_argument("--features", action="store_true", help="return them beside probabilities")
    parser.add_argument("--origin", help="of the weights (default: the name of the file)")
    parser.add_argument(
        "--runtime",
        metavar="FOLDER",
        help="for web, the node_modules in which npm installed @litertjs/core and "
        "@litertjs/wasm-utils: their files are copied beside the page (default: the browser loads "
        "them from a public server)",
    )
    parser.add_argument("--license", help="of the weights (default: MIT for imagenet)")
    return run(prog, export, parser, argv, errors=(ValueError, OSError, ImportError, RuntimeError))


def export(parser, argv):
    """One export from top to bottom."""
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras_smlp
    from keras_smlp.deploy.export.api import is_classifier
    from keras_smlp.deploy.export.meaning import meaning
    from keras_smlp.deploy.export.runtimes import size

    # ---- model ----------------------------------------------------------------------------------
    if arguments.quantize and arguments.precision != "float32":
        raise ValueError("--precision must not stand with --quantize, around which it is float32")
    if arguments.features and arguments.format == "web":
        raise ValueError("--features must not stand with --format web")
    if arguments.runtime is not None and arguments.format != "web":
        raise ValueError("--runtime must stand with --format web")
    file, address = located(arguments.model, "MODEL")
    names = read_names(file, arguments.classes)
    model = open_model(file, arguments.variant, "MODEL")
    precision, quantize = arguments.precision, arguments.quantize
    inputs, outputs = arguments.inputs, arguments.outputs
    prepared: dict = {}
    if is_classifier(model):  # else the export says what it must be
        pairs = labels(names, model.output_shape[1])
        names = pairs and [name for _, name in pairs]
        with exit_on_errors(keys=KEYS):
            inputs, outputs = meaning(model, inputs, outputs)
        images = random_images(model, inputs)
        answer = reference(model, images, outputs)
        prepared = view(arguments, file, model)
    if arguments.fold:
        model = keras_smlp.fold(model)
    if quantize and arguments.format in BY_LITERT:
        precision = quantize
    elif quantize:
        keras_smlp.quantize(model, quantize)

    # ---- file -----------------------------------------------------------------------------------
    origin, license = source(arguments, address)
    with exit_on_errors(keys=KEYS):
        path = keras_smlp.export(
            model,
            arguments.out,
            arguments.format,
            features=arguments.features,
            precision=precision,
            class_names=names,
            origin=origin,
            license=license,
            inputs=inputs,
            outputs=outputs,
            runtime=arguments.runtime,
            **prepared,
        )
    print(f"{path}: {arguments.format}, {size(path) / 1e6:.1f} MB")
    compare(
        path, arguments.format, images, answer, is_exact=precision == "float32" and not quantize
    )


def random_images(model, inputs):
    """Two images of what the model takes."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (2, *model.inputs[0].shape[1:])
    images = rng.uniform(0, 255, shape) if inputs == "pixels" else rng.normal(0, 1, shape)
    return images.astype("float32")


def reference(model, images, outputs):
    """What the model itself answers, logits as probabilities."""
    import keras
    import numpy as np

    given = keras.tree.map_structure(lambda _: images, model.input)  # also a dict of one
    answer = np.asarray(keras.tree.flatten(model.predict_on_batch(given))[0], "float32")
    if outputs == "logits":
        answer = np.exp(answer - answer.max(-1, keepdims=True))
        answer /= answer.sum(-1, keepdims=True)
    return answer


def compare(path, format, images, expected, is_exact):
    """Says how far the file's answers are from the model's; fails where they should be equal."""
    import numpy as np

    from keras_smlp.deploy.export.runtimes import opened

    try:
        found = opened(path, format)(images)
    except ModuleNotFoundError as error:
        print(f"not run: {error.name} is not installed")
        return
    name = next(name for name in found if name not in ("features", "maps"))
    largest = np.abs(expected).max() or 1.0
    difference = float(np.abs(found[name] - expected).max() / largest)
    print(f"run: {name} differ by {difference:.1e} of the largest")
    if is_exact and not difference <= EXACT:
        raise RuntimeError(f"{path} answers otherwise than the model, by {difference:.1e}")
