"""`publish`: a folder as the Hugging Face hub expects it."""

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import shutil
from collections.abc import Sequence

import keras
import numpy as np

from keras_smlp.checks import (
    check_boolean,
    check_choice,
    check_names,
    check_path,
    check_positive_integer,
    check_text,
    received,
)
from keras_smlp.deploy.export import api, writing
from keras_smlp.deploy.export.meaning import NORMALIZED, UNKNOWN, Meaning, meaning
from keras_smlp.deploy.precision import with_precision
from keras_smlp.hubs import card, checker, names
from keras_smlp.hubs.figures import Figures
from keras_smlp.hubs.upload import check_repository
from keras_smlp.inference import evaluated
from keras_smlp.preprocessing import OFFSET, SCALE, of_channels
from keras_smlp.saving import scratch_beside, sync_folder
from keras_smlp.variants import variant_of
from keras_smlp.weights import identify
from keras_smlp.weights.download import sha256
from keras_smlp.weights.official import save_official

FORMATS = tuple(names.MODELS)
# what must be installed to write a format and to run it -> the extra that installs it
NEEDS = {
    "onnx": (("torch", "onnxscript", "onnxruntime"), "onnx"),
    "litert": (("tensorflow", "ai_edge_litert"), "litert"),
}
IMAGES = 12  # of the test vectors
# how far an answer may be from the stored one, in the terms of `checker.difference`: so many times
# as far as the runtimes were when the folder was written, for processors round otherwise
MARGIN = 10
LEAST, MOST = 1e-5, 1e-3  # and within these; what is written must be within the last of them


@dataclasses.dataclass(frozen=True)
class About:
    """What a card says, see `publish`; `config` is the content of `config.json`.

    `means` says what the model takes and answers with.
    """

    title: str
    repository: str | None
    formats: tuple[str, ...]
    class_names: Sequence[str] | None
    license: str | None
    data: str | None
    data_license: str | None
    figures: Figures
    means: Meaning
    config: dict


def publish(
    model: keras.Model,
    folder: str | os.PathLike,
    formats: Sequence[str] = FORMATS,
    class_names: Sequence[str] | None = None,
    origin: str | None = None,
    license: str | None = None,
    data: str | None = None,
    data_license: str | None = None,
    figures: Figures | None = None,
    repository: str | None = None,
    inputs: str = "auto",
    outputs: str = "auto",
    resize_size: int | None = None,
    exif_orientation: bool | None = None,
) -> list[str]:
    """Writes a folder that can be uploaded to the Hugging Face hub.

    It holds the model in each format, `config.json`, `classes.json`, a model card (`README.md`),
    and a check that needs NumPy and the runtimes of the formats alone: `check.py`, `check.json`
    with the SHA-256 of each file, `test_vectors.npz` with images and the model's answers. The
    folder is there when all of it is written and passes this check, or not at all.

    Args:
        model: A classifier that `keras_smlp.export` takes.
        folder: Path of the folder. Nothing may be there.
        formats: Some of `"keras"` (`model.keras`), `"safetensors"` (`model.safetensors`, the
            official keys), `"onnx"` (`model.onnx`) and `"litert"` (`model.tflite`). Defaults to
            all.
        class_names: Strings, one for each class, or `None`.
        origin: String, where the weights come from, or `None`.
        license: String, the license of the weights, or `None`.
        data: String, the name of the data set that the model was trained and evaluated on, or
            `None`: then the hub gets no figures in its metadata, but the card has them.
        data_license: String, the license of the data set, or `None`.
        figures: The `figures.Figures` of the model. `None`: none were measured.
        repository: `"ACCOUNT/NAME"`, where it will be, for the card, or `None`.
        inputs: As of `keras_smlp.export`. Defaults to `"auto"`.
        outputs: As of `keras_smlp.export`. Defaults to `"auto"`.
        resize_size: As of `keras_smlp.export`. Defaults to `None`: as the configuration in
            `figures` says.
        exif_orientation: As of `keras_smlp.export`. Defaults to `None`: as `resize_size`.

    Returns:
        The lines of the check.

    Raises:
        ValueError: If an argument is invalid, or a format cannot hold the model.
        FileExistsError: If there is something at the path.
        ModuleNotFoundError: If a package is missing; the message names the extra that brings it.
        RuntimeError: If what was written does not answer as the model does.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=2)
    >>> publish(model, "mine", ["keras", "onnx"], ["cat", "dog"], license="MIT")[-1]
    'all is well'
    """
    path = check_path("folder", folder)
    given = dict.fromkeys(check_names("formats", formats))
    chosen = tuple(check_choice("formats", name, FORMATS) for name in given)
    if class_names is not None:
        class_names = check_names("class_names", class_names, "None or a list of strings")
    texts = {"origin": origin, "license": license, "data": data, "data_license": data_license}
    for name, value in texts.items():
        check_text(name, value, none=True)
    if repository is not None:
        check_repository(repository)
    check_folder(path)
    check_packages(chosen)
    figures = figures or Figures()
    prepared = evaluation(figures, resize_size, exif_orientation)
    with scratch_beside(path, ".publish-") as scratch:
        made = scratch / path.name
        made.mkdir()
        api.check_classifier(model, class_names)
        exported = {name: made / names.MODELS[name] for name in chosen if name in writing.FORMATS}
        for name, target in exported.items():
            api.check(model, target, name, False, "float32", class_names)
        means = meaning(model, inputs, outputs)
        write_models(model, made, chosen)
        for name, target in exported.items():
            api.export(
                model,
                target,
                name,
                class_names=class_names,
                origin=origin,
                license=license,
                inputs=means.inputs,
                outputs=means.outputs,
                **prepared,
            )
        if class_names:
            (made / names.CLASSES).write_text(json.dumps(list(class_names)), "utf-8")
        if figures.curves:
            shutil.copyfile(figures.curves, made / names.CURVES)
        config = configuration(model, means, class_names, origin, license, prepared, made, chosen)
        write_json(made / names.CONFIG, config)
        title = (repository or path.name).rpartition("/")[2]
        about = About(
            title,
            repository,
            chosen,
            class_names,
            license,
            data,
            data_license,
            figures,
            means,
            config,
        )
        (made / names.README).write_text(card.text(about), "utf-8")
        compared = write_vectors(model, means, made)
        lines = write_check(made, compared)
        for file in made.iterdir():
            with open(file, "r+b") as written:
                os.fsync(written.fileno())
        sync_folder(made)
        # something may have come there meanwhile; os.rename replaces an empty folder
        check_folder(path)
        os.rename(made, path)
        sync_folder(path.parent)
    return lines


def check_folder(path):
    """Refuses a path where something is, or whose parent is no folder."""
    if os.path.lexists(path):
        raise FileExistsError(f"`folder` must not exist yet. Received: folder={str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(
            f"`folder` must be in a folder that exists. Received: {received('folder', str(path))}"
        )


def check_packages(formats):
    """Refuses formats, and the card, for which a package is not installed."""
    for name in formats:
        packages, extra = NEEDS.get(name, ((), ""))
        for package in packages:
            if importlib.util.find_spec(package) is None:
                others = ",".join(x for x in formats if x != name)
                raise ModuleNotFoundError(
                    f"{name!r} needs {package}, which is not installed: pip install "
                    f'"keras-smlp[{extra}]"' + (f", or give the formats {others}" * bool(others))
                )
    if importlib.util.find_spec("yaml") is None:
        raise ModuleNotFoundError(
            'a model card needs PyYAML, which is not installed: pip install "keras-smlp[hub]"'
        )


def write_models(model, folder, formats):
    """Writes the files of Keras and of the official code."""
    if "safetensors" in formats:
        try:
            save_official(model, folder / names.MODELS["safetensors"])
        except ValueError as error:
            others = ",".join(x for x in formats if x != "safetensors")
            raise ValueError(
                f"'safetensors' cannot hold it: {error} Give other formats, such as "
                f"{others or 'keras'}."
            ) from error
    if "keras" in formats:
        model.save(folder / names.MODELS["keras"])


def evaluation(figures, resize_size, exif_orientation):
    """How photos are prepared, as arguments of `load_image`: as for the figures, if not given."""
    found = evaluated.of(figures.config, "`figures`")
    if resize_size is not None:
        found["resize_size"] = check_positive_integer("resize_size", resize_size)
    if exif_orientation is not None:
        found["exif_orientation"] = check_boolean("exif_orientation", exif_orientation)
    return found


def configuration(model, means, class_names, origin, license, prepared, folder, formats):
    """The content of `config.json`."""
    about = api.describe(model, means, class_names, origin, license, **prepared)
    architecture = None
    for name in ("keras", "safetensors"):
        if name in formats and architecture is None:
            with contextlib.suppress(ValueError):  # the network is a layer of another model
                architecture = identify.infer(folder / names.MODELS[name])
    known = architecture and variant_of(
        architecture.dim, architecture.depths, architecture.expansion, architecture.patch_size
    )
    return {
        "library_name": "keras_smlp",
        "model_type": "smlpnet",
        "variant": known and known.name,
        "architecture": architecture and dataclasses.asdict(architecture),
        "parameters": sum(  # without the statistics of batch normalizations
            math.prod(x.shape) for x in model.weights if not x.name.startswith("moving_")
        ),
        "classes": model.output_shape[-1],
        **about,
        # as the figures were measured: `None` is the default of `keras_smlp.load_image`
        "evaluated": prepared,
    }


def write_json(path, values):
    """Writes a dict as JSON."""
    path.write_text(json.dumps(values, indent=2) + "\n", "utf-8")


# ---- the check ----------------------------------------------------------------------------------
def write_vectors(model, means, folder):
    """Writes test images and the model's answers; returns how these are to be compared."""
    images = test_images(model.inputs[0].shape[1:])
    if means.inputs == NORMALIZED:
        channels = images.shape[-1]
        scale, offset = (np.float32(of_channels(x, channels)) for x in (SCALE, OFFSET))
        images = images * scale + offset
    served = writing.endpoint(with_precision(model, "float32"), means, False)
    (answers,) = served.predict_on_batch(images.astype("float32")).values()
    np.savez_compressed(folder / checker.VECTORS, images=images, outputs=np.asarray(answers))
    return checker.VALUES if means.outputs == UNKNOWN else checker.LOGARITHMS


def test_images(shape, count=IMAGES):
    """Images that move every part of a network: squares of random colors, fine to coarse.

    Args:
        shape: `(height, width, channels)`.
        count: Positive integer. How many. Defaults to 12.

    Returns:
        A uint8 array `(count, *shape)`.
    """
    height, width, channels = shape
    rng = np.random.default_rng(0)
    images = []
    for i in range(count):
        side = 2 ** (i % 6)
        small = rng.integers(0, 256, (-(-height // side), -(-width // side), channels))
        large = small.repeat(side, axis=0).repeat(side, axis=1)
        images.append(large[:height, :width].astype("uint8"))
    return np.stack(images)


def write_check(folder, compared):
    """Writes the checker with its list, and runs it; returns its lines."""
    shutil.copyfile(checker.__file__, folder / names.CHECKER)
    about = {
        "compared": compared,
        "tolerance": MOST,
        "may_change": [names.README],  # people edit the card on the hub
        "sha256": {file.name: sha256(file) for file in sorted(folder.iterdir())},
    }
    write_json(folder / checker.LIST, about)
    lines, status, largest = checker.check(folder, hashes=False)
    if status:
        raise RuntimeError(
            f"what was written answers otherwise than the model ({'; '.join(lines)}); on an "
            "accelerator that rounds products, publish on a CPU"
        )
    about["tolerance"] = min(max(MARGIN * largest, LEAST), MOST)
    write_json(folder / checker.LIST, about)
    lines, status, _ = checker.check(folder)
    if status:
        raise RuntimeError(f"what was written does not pass its own check ({'; '.join(lines)})")
    return lines
