"""The model card: README.md with the metadata that the Hugging Face hub reads."""

import html
import re
import shlex
from typing import Any

from keras_smlp.checks import shown
from keras_smlp.deploy.export.meaning import PIXELS
from keras_smlp.hubs import checker, names

PAPER = "https://arxiv.org/abs/2109.05422"
TASK = "image-classification"
INSTALL = 'pip install "keras-smlp[hub,jax]"'
# of the identifiers that the hub knows, those that weights of images are often under
LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "gpl-3.0", "unlicense"),
    *("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
)
# what each format is for
ABOUT = {
    "keras": "the whole model, for Keras 3 on TensorFlow, JAX and PyTorch",
    "safetensors": "the weights under the official code's keys",
    "onnx": "for ONNX Runtime and others",
    "litert": "for LiteRT, on phones too",
}
NOT_STATED = "not stated"
DIGITS = 3  # of figures, behind the point


def front(about):
    """The metadata of the hub, as a dict for YAML.

    Args:
        about: The `publish.About`.
    """
    found: dict[str, Any] = {"library_name": "keras", "pipeline_tag": TASK}
    found["tags"] = ["keras", "keras-smlp", "smlpnet", "mlp", TASK]
    if about.license and about.license.lower() in LICENSES:
        found["license"] = about.license.lower()
    elif about.license:
        # an identifier; the table of licenses has it as it was given
        name = re.sub("[^a-z0-9.]+", "-", about.license.lower()).strip("-")
        found |= {"license": "other", "license_name": name or "other"}
    results: dict[str, Any] = {
        "task": {"type": TASK, "name": "Image classification"},
        "dataset": {"type": "custom", "name": shown(about.data or "")},
        "metrics": [
            {"type": metric, "name": name, "value": round(value, 4)}
            for metric, name, value in about.figures.metrics
        ],
    }
    if about.data:
        found["datasets"] = [shown(about.data)] if is_name_on_hub(about.data) else []
    if about.data and results["metrics"]:
        if is_name_on_hub(about.data):
            results["dataset"]["type"] = about.data
        found["model-index"] = [{"name": about.title, "results": [results]}]
    return {key: value for key, value in found.items() if value != []}


def is_name_on_hub(data):
    """Whether the name of a data set looks like one on the hub, `ACCOUNT/NAME`."""
    return bool(re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", data))


def text(about):
    """The whole card.

    Args:
        about: The `publish.About`.

    Returns:
        A string.
    """
    import yaml

    metadata = yaml.safe_dump(front(about), sort_keys=False, allow_unicode=True, width=1000)
    sections = [
        f"---\n{metadata}---",
        f"# {cell(about.title)}",
        introduction(about),
        "## Use it",
        use(about),
        "## Files",
        files(about),
        "## Figures",
        figures(about),
        "## Check the files",
        check(about),
        "## Licenses",
        licenses(about),
    ]
    return "\n\n".join(sections) + "\n"


def introduction(about):
    """What the model is."""
    config = about.config
    architecture = config["architecture"]
    known = f"sMLPNet-{config['variant'].capitalize()}" if config["variant"] else "An sMLPNet"
    sizes = ""
    if architecture:
        depths = ", ".join(map(str, architecture["depths"]))
        sizes = f" (dim {architecture['dim']}, depths {depths})"
    colors = {1: "gray", 3: "RGB"}.get(config["channels"], f"{config['channels']}-channel")
    return (
        f"{known}{sizes} of {config['parameters']:,} trainable parameters, which assigns {colors} "
        f"images of {config['height']} x {config['width']} pixels to {config['classes']} classes. "
        f"sMLPNet mixes rows, columns and channels by linear maps ([paper]({PAPER})). These files "
        f"were written by {config['made_by']}; weights from: "
        f"{cell(config['origin'] or NOT_STATED)}."
    )


def use(about):
    """Commands and programs."""
    config = about.config
    address = f"hf://{about.repository or 'ACCOUNT/NAME'}"
    parts = []
    load = f'model = keras_smlp.load_model("{address}")  # on TensorFlow, JAX or PyTorch\n'
    if "keras" in about.formats and about.means.inputs != PIXELS:
        parts.append(f"```python\nimport keras_smlp\n\n{load}```")
    elif "keras" in about.formats:
        evaluated = config["evaluated"]
        height, width, resize = config["height"], config["width"], evaluated["resize_size"]
        size = f"size={height if height == width else (height, width)}"
        options = ['"photo.jpg"', size] + [f"resize_size={resize}"] * bool(resize)
        options += ["exif_orientation=True"] * evaluated["exif_orientation"]
        options += [f"channels={config['channels']}"] * (config["channels"] != 3)
        words = ["photo.jpg", "--weights", address]
        words += ["--resize-size", str(resize)] * bool(resize)
        words += ["--exif-orientation"] * evaluated["exif_orientation"]
        parts += [
            f"```python\nimport keras_smlp\n\n{load}"
            f"photo = keras_smlp.load_image(\n    {', '.join(options)}\n)\n"
            "probabilities = model.predict(photo[None])\n```",
            f"```\nkeras-smlp predict {shlex.join(words)}\n```",
        ]
    if "keras" in about.formats:
        parts.append(f"Append `@COMMIT` to the address to pin it. The package: `{INSTALL}`.")
    called = {"onnx": "the ONNX file", "litert": "the LiteRT file's signature `serving_default`"}
    if served := [called[name] for name in about.formats if name in called]:
        shape = f"({config['height']}, {config['width']}, {config['channels']})"
        takes = "Both take" if len(served) > 1 else "It takes"
        parts.append(
            f"Without Keras: {' and '.join(served)}. {takes} `images`, any number of {shape} in "
            f"float32: {config['input']}. They are prepared so: {config['preprocessing']}. The "
            f"answer is {answer(config)}."
        )
    return "\n\n".join(parts) or "See the files below."


def answer(config):
    """What an exported model answers with, in words."""
    return {
        "probabilities": "the probabilities of the classes",
        "sigmoid": "a probability of each class by itself",
    }.get(config["output"], "numbers whose meaning is not known")


def files(about):
    """A table of the files."""
    rows = ["| file | |", "|---|---|"]
    rows += [f"| `{names.MODELS[name]}` | {ABOUT[name]} |" for name in about.formats]
    if about.class_names:
        rows.append(
            f"| `{names.CLASSES}` | the names of the classes, in the order of the answers |"
        )
    rows.append(f"| `{names.CONFIG}` | architecture, input, preprocessing, classes |")
    checks = f"`{names.CHECKER}`, `{checker.LIST}`, `{checker.VECTORS}`"
    rows.append(f"| {checks} | the check, see below |")
    return "\n".join(rows)


def figures(about):
    """What was measured, and how the model was trained."""
    found, parts = about.figures, []
    if found.metrics:
        images = f"{found.images:,} " if found.images else ""
        rows = [f"| measured on {images}validation images | |", "|---|---|"]
        rows += [f"| {name} | {value:.{DIGITS}f} |" for _, name, value in found.metrics]
        rows += [f"| {cell(key)} | {cell(value)} |" for key, value in found.facts.items()]
        parts.append("\n".join(rows))
    else:
        parts.append("No figures were measured for these files.")
    if about.data:
        parts.append(f"Data set: {cell(about.data)}.")
    if found.curves:
        parts.append(f"![loss and accuracy over the epochs]({names.CURVES})")
    if found.config:
        import yaml

        keys = yaml.safe_dump(found.config, sort_keys=False, allow_unicode=True)
        parts.append(
            "<details><summary>How it was trained: the configuration of keras-smlp train, without "
            f"paths</summary>\n\n<pre>\n{html.escape(keys)}</pre>\n\n</details>"
        )
    return "\n\n".join(parts)


def check(about):
    """How the files are checked."""
    runs = [name for name in about.formats if name in checker.RUNS]
    packages = ["numpy", *(checker.RUNS[name][1] for name in runs)]
    return (
        f"```\npip install {' '.join(packages)}\npython {names.CHECKER}\n```\n\n"
        "compares the SHA-256 of each file"
        + (
            f" and the answers to the stored images ({', '.join(runs)}). "
            f"`python {names.CHECKER} {runs[0]}` does it for one format."
            if runs
            else "."
        )
    )


def licenses(about):
    """A table of what is under which license."""
    rows = [
        ("these weights", about.license),
        ("the data set that they were trained on", about.data_license),
        (f"keras_smlp, which wrote the files and `{names.CHECKER}`", "MIT"),
        ("the official code, whose architecture this is", "MIT"),
    ]
    table = [f"| {what} | {cell(license or NOT_STATED)} |" for what, license in rows]
    return "\n".join(["| | license |", "|---|---|", *table])


def cell(value):
    """A text from outside for a cell of a table: one line, in which nothing is markup."""
    line = html.escape(" ".join(shown(value, None).split()), quote=False)
    return "".join(f"\\{x}" if x in "|[]*_`\\" else x for x in line)
