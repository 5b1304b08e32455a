"""Export a network to what servers and devices run, and run what was written.

    python tools/export_model.py runs/mine/best.keras --format tf_saved_model --out served
    python tools/export_model.py smlp_s.pth --format onnx --out smlp_s.onnx --fold
    python tools/export_model.py imagenet --variant base --format openvino --out base.xml \\
        --fold --precision float16

MODEL is a .keras file, another file of weights or imagenet. What was written is
read by its own runtime, if that is installed, and compared with the model on two random images.
"""

import os
from pathlib import Path

from command_line import Parser, labels, open_model, read_names

# those of keras_smlp.export
FORMATS = ("tf_saved_model", "onnx", "openvino", "litert", "torch")
EXACT = 1e-4  # of the largest probability, in float32


def main():
    parser = Parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help=".keras file, other weights, or imagenet")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument(
        "--out", metavar="PATH", required=True, help="a folder for tf_saved_model, else a file"
    )
    parser.add_network_options()
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
    parser.add_argument("--license", help="of the weights (default: MIT for imagenet)")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        export(arguments)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(error)


def export(arguments):
    """One export from top to bottom."""
    import keras_smlp
    from keras_smlp.deploy.export.runtimes import size

    # ---- model ----------------------------------------------------------------------------------
    if arguments.quantize and arguments.precision != "float32":
        raise ValueError("--precision must not stand with --quantize, around which it is float32")
    names = read_names(arguments.model, arguments.classes)
    model = open_model(arguments.model, arguments.variant, "MODEL")
    if len(model.outputs) == 1 and len(model.output_shape) == 2:
        pairs = labels(names, model.output_shape[1])
        names = pairs and [name for _, name in pairs]
    precision, quantize = arguments.precision, arguments.quantize
    answer = reference(model)
    if arguments.fold:
        model = keras_smlp.fold(model)
    if quantize and arguments.format == "litert":
        precision = quantize  # by its own converter
    elif quantize:
        keras_smlp.quantize(model, quantize)

    # ---- file -----------------------------------------------------------------------------------
    origin, license = source(arguments)
    path = keras_smlp.export(
        model,
        arguments.out,
        arguments.format,
        features=arguments.features,
        precision=precision,
        class_names=names,
        origin=origin,
        license=license,
    )
    print(f"{path}: {arguments.format}, {size(path) / 1e6:.1f} MB")
    compare(path, arguments.format, *answer, is_exact=precision == "float32" and not quantize)


def source(arguments):
    """Origin and license of the weights, for the metadata."""
    import keras_smlp
    from keras_smlp.variants import RELEASE

    if arguments.model != "imagenet":
        return arguments.origin or Path(arguments.model).name, arguments.license
    variant = keras_smlp.VARIANTS[arguments.variant or "small"]
    origin = arguments.origin or f"{RELEASE}/{variant.checkpoint}"
    return origin, arguments.license or variant.license


def reference(model):
    """Two random images, and the probabilities that the model answers with."""
    import numpy as np

    from keras_smlp.deploy.export.api import endpoint
    from keras_smlp.naming import takes_pixels

    rng = np.random.default_rng(0)
    shape = (2, *model.input_shape[1:])
    images = rng.uniform(0, 255, shape) if takes_pixels(model) else rng.normal(0, 1, shape)
    images = images.astype("float32")
    answer = endpoint(model, features=False).predict_on_batch(images)["probabilities"]
    return images, np.asarray(answer, "float32")


def compare(path, format, images, expected, is_exact):
    """Says how far the file's answers are from the model's; fails where they should be equal."""
    import numpy as np

    from keras_smlp.deploy.export.runtimes import opened

    try:
        found = opened(path, format)(images)["probabilities"]
    except ModuleNotFoundError as error:
        print(f"not run: {error.name} is not installed")
        return
    difference = float(np.abs(found - expected).max() / expected.max())
    print(f"run: probabilities differ by {difference:.1e} of the largest")
    if is_exact and not difference <= EXACT:
        raise RuntimeError(f"{path} answers otherwise than the model, by {difference:.1e}")


if __name__ == "__main__":
    main()
