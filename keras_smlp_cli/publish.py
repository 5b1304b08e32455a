"""Write a network as a folder for the Hugging Face hub, with its card and its check; upload it.

    keras-smlp publish runs/mine/best.keras --out mine --license cc-by-4.0
    keras-smlp publish runs/mine/best.keras --out mine --push ACCOUNT/mine --private

MODEL is a .keras file, another file of weights, imagenet or hf://ACCOUNT/NAME@REVISION. The figures
in the card are those of the run whose folder it is in. FOLDER gets model.keras, model.safetensors,
model.onnx, model.tflite, config.json, classes.json, curves.png, README.md, and check.py with test
vectors, which checks these files with NumPy and their runtimes. To upload, log in by `hf auth
login`, or set HF_TOKEN.
"""

import os
import shlex
from pathlib import Path

from keras_smlp_cli.arguments import Parser, labels, located, open_model, read_names, source, view
from keras_smlp_cli.failures import exit_on_errors, run

FORMATS = ("keras", "safetensors", "onnx", "litert")  # of keras_smlp.hubs.publish
ERRORS = (ValueError, OSError, ImportError, RuntimeError)
# arguments of the package -> options
KEYS = {
    "folder": "--out",
    "repository": "--push",
    "formats": "--formats",
    "class_names": "--classes",
}
KEYS |= {"license": "--license", "data": "--data", "data_license": "--data-license"}
KEYS |= {"resize_size": "--resize-size", "exif_orientation": "--exif-orientation"}
KEYS |= {"model": "MODEL", "origin": "--origin", "inputs": "--inputs", "outputs": "--outputs"}


def main(argv: list[str], prog: str = "keras-smlp publish") -> int:
    """Publishes a network; returns the exit status."""
    parser = Parser(__doc__, prog)
    parser.add_argument(
        "model", metavar="MODEL", help=".keras file, other weights, imagenet or hf://..."
    )
    parser.add_argument("--out", metavar="FOLDER", required=True, help="folder to write")
    parser.add_argument(
        "--formats",
        metavar="A,B",
        default=",".join(FORMATS),
        help=f"some of {','.join(FORMATS)} (default: all)",
    )
    parser.add_network_options()
    parser.add_meaning_options()
    parser.add_view_options()
    parser.add_argument("--origin", help="of the weights (default: the name of the file)")
    parser.add_argument("--license", help="of the weights (default: MIT for imagenet)")
    parser.add_argument("--data", metavar="NAME", help="the data set, or its ACCOUNT/NAME there")
    parser.add_argument("--data-license", metavar="LICENSE", help="of the data set")
    parser.add_argument("--push", metavar="ACCOUNT/NAME", help="upload it there, in one commit")
    parser.add_argument("--private", action="store_true", help="to a private repository")
    return run(prog, publish, parser, argv, errors=ERRORS)


def publish(parser, argv):
    """One publication from top to bottom."""
    arguments = parser.parse_args(argv)
    formats = arguments.formats.split(",")
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"--formats must be some of {','.join(FORMATS)}, not {unknown[0]!r}")
    if arguments.private and not arguments.push:
        raise ValueError("--private must stand with --push ACCOUNT/NAME")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from keras_smlp.deploy.export.api import is_classifier
    from keras_smlp.hubs import figures, upload
    from keras_smlp.hubs import publish as hubs

    # ---- what can be refused at once ------------------------------------------------------------
    folder = Path(arguments.out)
    with exit_on_errors(ERRORS, keys=KEYS):
        hubs.check_folder(folder)
        hubs.check_packages(formats)
        if arguments.push:
            upload.check_push(arguments.push)
    file, address = located(arguments.model, "MODEL")
    names = read_names(file, arguments.classes)
    found = figures.read(file)
    model = open_model(file, arguments.variant, "MODEL")
    # what is no classifier is refused below
    prepared = view(arguments, file, model) if is_classifier(model) else {}

    # ---- folder ---------------------------------------------------------------------------------
    pairs = labels(names, model.output_shape[-1])
    origin, license = source(arguments, address)
    if found.config and not arguments.origin:
        began = found.config.get("model", {}).get("weights") or "random initial values"
        origin = f"a training by keras-smlp that began with {began}"
    with exit_on_errors(ERRORS, keys=KEYS):
        lines = hubs.publish(
            model,
            folder,
            formats,
            class_names=pairs and [name for _, name in pairs],
            origin=origin,
            license=license,
            data=arguments.data,
            data_license=arguments.data_license,
            figures=found,
            repository=arguments.push,
            inputs=arguments.inputs,
            outputs=arguments.outputs,
            **prepared,
        )
    print("\n".join(f"{folder / line}" for line in lines[:-1]))
    print(f"{folder}: {lines[-1]}", flush=True)

    # ---- hub ------------------------------------------------------------------------------------
    if arguments.push:
        try:
            print(upload.push(folder, arguments.push, arguments.private))
        except upload.IsPublic as error:  # no command that uploads it there
            raise upload.IsPublic(f"{error}; {folder} is whole") from error
        except OSError as error:
            words = ["hf", "upload", arguments.push, str(folder)]
            words += ["--private"] * arguments.private
            publicly = f" (publicly, if {arguments.push} is public)" * arguments.private
            raise type(error)(
                f"{error}; {folder} is whole, and `{shlex.join(words)}` uploads it{publicly}"
            ) from error
