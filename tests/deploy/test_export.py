"""Exported models, each run by its own runtime, against the model that they came from."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import photos
from helpers.modes import assert_by_umask, umask
from helpers.nets import BACKEND, pixels, quantized, trained_like
from helpers.processes import python

import keras_smlp
from keras_smlp.deploy.export import api, process, runtimes, writing
from keras_smlp.deploy.export.meaning import Meaning, meaning

pytestmark = pytest.mark.quick_once

SIZE, COVER = (32, 48), (40, 52)  # of images; of photos before the crop
NAMES = ["ant", "bee", "cat", "dog"]
PATHS = {
    # with what means something else in a pattern to glob, or looks like an ending
    "tf_saved_model": "served v1.0",
    "onnx": "model[1].onnx",
    "openvino": "model v1.0.xml",
    "litert": "model *?.tflite",
    "torch": "model.pt2",
}
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}
# from a backend whose own exporter it is; OpenVINO converts the ONNX file
QUICK = {
    "tensorflow": ("tf_saved_model", "litert"),
    "jax": (),
    "torch": ("onnx", "torch"),
}
# one of 16 bits on each backend that writes some
QUICK_SMALLER = {
    "tensorflow": {"litert": "float16"},
    "jax": {},
    "torch": {"onnx": "float16"},
}
# in 16 and 8 bits; OpenVINO's files are ONNX's until it converts them
SMALLER = {
    "tf_saved_model": ("bfloat16", "quantized"),
    "onnx": ("float16", "quantized"),
    "openvino": ("float16", "quantized"),
    "litert": ("float16", "int8"),
    "torch": ("bfloat16", "quantized"),
}


def case(format, *rest):
    """One format as a parameter of a test, deep if it is not quick on the running backend."""
    marks = [] if format in QUICK[BACKEND] else [pytest.mark.deep]
    return pytest.param(format, *rest, marks=marks)


EACH_FORMAT = [case(format) for format in PATHS]


def classifier(dim=8, depths=(1,), size=SIZE, **arguments):
    arguments = {"input_shape": (*size, 3), "classes": 4, **arguments}
    return trained_like(keras_smlp.SMLPNet(dim, depths, **arguments))


@pytest.fixture(scope="module")
def model():
    return classifier(depths=(1, 1))


@pytest.fixture(scope="module")
def images():
    return pixels(5, *SIZE, 3)


@pytest.fixture(scope="module")
def expected(model, images):
    pooled = model.get_layer("avg_pool").output
    both = keras.Model(model.input, {"probabilities": model.output, "features": pooled})
    return both.predict_on_batch(images)


def needs(format):
    for package in (*writing.FORMATS[format].packages, RUNTIMES.get(format, "numpy")):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """A function from a format to the path of the exported model, made once."""
    made = {}

    def path_of(format):
        needs(format)
        if format not in made:
            path = tmp_path_factory.mktemp(format) / PATHS[format]
            about = {"class_names": NAMES, "origin": "made here", "license": "MIT"}
            about["resize_size"] = COVER
            with umask(0o027):
                assert keras_smlp.export(model, path, format, features=True, **about) == path
            assert_by_umask(path.parent, 0o027)
            made[format] = path
        return made[format]

    return path_of


def run_tf_saved_model(path, images):
    """In a process that has neither Keras nor this package."""
    np.save(path.parent / "images.npy", images)
    code = """
import sys
sys.modules["keras"] = sys.modules["keras_smlp"] = None
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
found = model.serve(images.astype("float32"))
for name, x in model.serve(images[:1].astype("float32")).items():
    np.testing.assert_allclose(x, found[name][:1], rtol=1e-5)
for name, x in model.serve_uint8(images.astype("uint8")).items():
    np.testing.assert_array_equal(x, found[name])
np.savez(sys.argv[3], **found)
"""
    python("-c", code, path, path.parent / "images.npy", path.parent / "found.npz")
    return dict(np.load(path.parent / "found.npz"))


def run(format, path, images):
    if format == "tf_saved_model":
        return run_tf_saved_model(path, images)
    return runtimes.opened(path, format)(images)


@pytest.mark.quick_each
@pytest.mark.parametrize("format", EACH_FORMAT)
def test_it_answers_as_the_model(format, exported, images, expected):
    batches = (5,) if format == "tf_saved_model" else (5, 1)  # its process runs both
    for batch in batches:
        whole = images[:batch] if batch == 1 else images[:batch].astype("float32")  # of each type
        found = run(format, exported(format), whole)
        assert set(found) == {"probabilities", "features"}
        for name, x in found.items():
            x, wanted = np.asarray(x), expected[name][:batch]
            assert x.shape == wanted.shape
            assert np.abs(x - wanted).max() <= 1e-4 * np.abs(wanted).max(), name
    assert np.ptp(expected["probabilities"]) > 0.01


@pytest.mark.quick_each
@pytest.mark.parametrize(
    ("format", "precision"),
    [
        pytest.param(
            format,
            precision,
            marks=[pytest.mark.deep] * (QUICK_SMALLER[BACKEND].get(format) != precision),
        )
        for format, precisions in SMALLER.items()
        for precision in precisions
    ],
)
def test_smaller_forms(format, precision, images, tmp_path):
    needs(format)
    kind = writing.FORMATS[format]
    if keras.backend.backend() not in kind.backends:
        pytest.skip(f"written as by {kind.backends[0]}")
    # LiteRT leaves kernels of less than 1024 numbers as they are
    model = classifier(dim=32)
    expected = model.predict_on_batch(images)
    if precision == "quantized":  # before it is exported
        model, precision = keras_smlp.fold(model), "float32"
        keras_smlp.quantize(model)
    path = keras_smlp.export(model, tmp_path / PATHS[format], format, precision=precision)
    found = runtimes.opened(path, format)(images.astype("float32"))["probabilities"]
    assert found.dtype == "float32"
    assert 1e-6 < np.abs(found - expected).max() / expected.max() < 0.03


@pytest.mark.quick_each
@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow reads what is in the file")
def test_the_file_of_a_page_has_no_product_without_gpu_code(model, tmp_path, capsys):
    import tensorflow as tf

    path = keras_smlp.export(model, tmp_path / "site", "web")
    tf.lite.experimental.Analyzer.analyze(str(path / "model.tflite"))
    operations = capsys.readouterr().out
    assert "FULLY_CONNECTED" in operations and "TRANSPOSE" in operations
    assert "BATCH_MATMUL" not in operations


@pytest.mark.deep
def test_what_was_trained_in_16_bits_is_exported_in_32(images, tmp_path):
    needs("onnx")
    mixed, whole = classifier(dtype="mixed_bfloat16"), classifier()
    path = keras_smlp.export(mixed, tmp_path / "model.onnx", "onnx", features=True)
    found = runtimes.opened(path, "onnx")(images.astype("float32"))["probabilities"]
    np.testing.assert_allclose(found, whole.predict_on_batch(images), atol=1e-6)


@pytest.mark.quick_each
@pytest.mark.parametrize("format", EACH_FORMAT)
def test_the_metadata_travels(format, exported):
    path = exported(format)
    if format == "tf_saved_model":
        text = (path / "assets.extra" / "metadata.json").read_text()
    elif format == "onnx":
        onnxruntime = importlib.import_module("onnxruntime")
        text = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["metadata"]
    elif format == "openvino":
        openvino = importlib.import_module("openvino")
        text = openvino.Core().read_model(path).get_rt_info(["metadata"]).astype(str)
    elif format == "litert":
        text = zipfile.ZipFile(path).read("metadata.json")
    else:
        extra = {"metadata.json": ""}
        importlib.import_module("torch").export.load(path, extra_files=extra)
        text = extra["metadata.json"]
    about = json.loads(text)
    assert about["class_names"] == NAMES and (about["height"], about["width"]) == SIZE
    assert about["origin"] == "made here" and about["license"] == "MIT"
    assert "40 x 52" in about["preprocessing"] and about["resize_size"] == [*COVER]
    assert about["input"] == "RGB in [0, 255]"


@pytest.mark.quick_each
@pytest.mark.parametrize("format", EACH_FORMAT[:1])
def test_jpeg_files_are_seen_as_by_load_image(format, exported, model):
    tf = pytest.importorskip("tensorflow", reason="SavedModel is TensorFlow's")
    sizes = ((120, 90), (200, 50), (47, 33))  # width, height
    files = [photos.encoded(photos.photo(size=size), quality=90) for size in sizes]
    files += [photos.encoded(photos.photo(size=(80, 60)).convert(mode)) for mode in ("CMYK", "L")]
    served = tf.saved_model.load(exported(format))
    seen = np.stack([keras_smlp.load_image(file, SIZE, COVER) for file in files])
    found = served.serve_jpeg(tf.constant(files))["probabilities"]
    np.testing.assert_allclose(found, model.predict_on_batch(seen), atol=2e-3)
    none = served.serve_jpeg(tf.constant([], tf.string))
    assert {name: tuple(x.shape) for name, x in none.items()} == {
        "probabilities": (0, 4),
        "features": (0, 16),
    }
    cmyk = files[3]
    marker = cmyk.index(b"\xff\xee")
    for bad, words in {
        cmyk[:marker] + cmyk[marker + 16 :]: "must hold CMYK files with the marker of Adobe",
        b"": "must hold whole JPEG files",
        b"\x89PNG\r\n": "must hold whole JPEG files",
        files[0][:200]: "Invalid JPEG",
    }.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match=words):
            served.serve_jpeg(tf.constant([files[0], bad]))


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """A function that exports a SavedModel's worth of arguments, none of which is written."""
    monkeypatch.setattr(api, "write", lambda *arguments: pytest.fail("nothing must be written"))
    monkeypatch.setattr(api, "write_in_subprocess", lambda *_: pytest.fail("nothing is written"))

    def call(model, path="served", **arguments):
        return keras_smlp.export(model, tmp_path / path, **arguments)

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"format": "tflite"}, "`format` must be one of .*'litert'.*Received: format='tflite'"),
        ({"path": "served.onnx"}, "`path` must be a folder's"),
        ({"path": "v1.0.keras"}, "`path` must be a folder's"),
        ({"inputs": "rgb"}, "`inputs` must be one of .*'unknown'.*Received: inputs='rgb'"),
        ({"outputs": "logits"}, "`outputs` must not be 'logits' for a model that ends in a softm"),
        ({"path": "model.tf", "format": "onnx"}, r"`path` must end in \.onnx"),
        ({"path": "nowhere/served"}, "`path` must be in a folder that exists"),
        (
            {"path": "m.onnx", "format": "onnx", "precision": "bfloat16"},
            r"`precision` must be one of \('float32', 'float16'\) for 'onnx'. .*'bfloat16'",
        ),
        ({"class_names": NAMES[:3]}, "`class_names` must have one name for each of the 4 classes"),
    ],
)
def test_what_cannot_be_is_refused(plain, model, arguments, words):
    with pytest.raises(ValueError, match=words):
        plain(model, **arguments)


def test_what_is_no_classifier_of_images_is_refused(plain):
    body = classifier(include_top=False)
    rows = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    any_size = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalMaxPooling2D()])
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    for model in (body, rows, any_size, unbuilt, "model.keras", None):
        with pytest.raises(ValueError, match="`model` must be a classifier that takes"):
            plain(model)


def test_litert_takes_no_quantized_layers(plain):
    needs("litert")
    with pytest.raises(ValueError, match="`model` must not be quantized for 'litert'"):
        plain(quantized(), "model.tflite", format="litert")


def test_nothing_is_overwritten(plain, model, tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "model.bin").touch()
    (tmp_path / "link.pt2").symlink_to("nowhere")
    cases = {"served": "tf_saved_model", "model.xml": "openvino", "link.pt2": "torch"}
    for path, format in cases.items():
        arguments = {"path": path, "format": format}
        with pytest.raises(FileExistsError, match="`path` must not exist yet"):
            plain(model, **arguments)


@pytest.mark.parametrize(("format", "extra"), [("openvino", "openvino"), ("onnx", "onnx")])
def test_a_missing_package_names_the_extra(plain, model, monkeypatch, format, extra):
    monkeypatch.setattr(api.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"torch, which is not installed: .*\[{extra}\]"):
        plain(model, PATHS[format], format=format)


def test_a_process_that_fails_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(writing.keras.backend, "backend", lambda: "none of them")
    program = tmp_path / "python"  # fails as Python does
    program.write_text("#!/bin/sh\necho 'Traceback' >&2\necho 'ValueError: no' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(writing.sys, "executable", str(program))
    monkeypatch.setattr(
        writing, "FORMATS", {"torch": writing.Format(".pt2", ("torch",), (), "torch")}
    )
    with pytest.raises(RuntimeError, match="Exporting 'torch' on torch failed: ValueError: no"):
        keras_smlp.export(model, tmp_path / "model.pt2", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


@pytest.mark.deep
def test_a_full_disk_is_said_and_leaves_nothing(small_disk):
    model = keras_smlp.SMLPNet(32, (1, 2), input_shape=(*SIZE, 3))
    disk = small_disk("200k")
    for format, file in PATHS.items():
        if keras.backend.backend() in writing.FORMATS[format].backends:
            needs(format)
            with pytest.raises(OSError, match="No space left on device"):
                keras_smlp.export(model, disk / file, format)
            assert list(disk.iterdir()) == []


def test_features_are_those_of_the_models_own_graph(plain, model):
    images = keras.Input((*SIZE, 3))
    around = keras.Sequential([images, model])
    with pytest.raises(
        ValueError, match="`features` must be False for a model without .* avg_pool"
    ):
        plain(around, features=True)


@pytest.mark.quick_each
def test_logits_get_a_softmax_and_pixels_are_what_the_model_takes():
    logits = classifier(size=(8, 8), classifier_activation=None)
    means = meaning(logits)
    assert means == ("pixels", "logits")
    x = np.full((1, 8, 8, 3), 100.0, "float32")
    found = writing.endpoint(logits, means, features=False).predict_on_batch(x)
    wanted = keras.ops.convert_to_numpy(keras.ops.softmax(logits.predict_on_batch(x)))
    np.testing.assert_allclose(found["probabilities"], wanted, rtol=1e-5)
    raw = classifier(include_preprocessing=False)
    means = meaning(raw)
    assert means == ("normalized", "probabilities")
    assert writing.endpoint(raw, means, False).output.keys() == {"probabilities"}
    about = api.describe(raw, means, None, None, None)
    assert "normalized" in about["input"] and about["output"] == "probabilities"
    about = api.describe(raw, Meaning("unknown", "unknown"), None, None, None)
    assert {about[key] for key in ("input", "preprocessing", "output")} == {"unknown"}
    assert about["resize_size"] is None and about["exif_orientation"] is None


# ---- the process of its own ---------------------------------------------------------------------
@pytest.mark.deep
def test_it_sees_the_modules_of_this_process(tmp_path, monkeypatch):
    needs("torch")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_head.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Doubled(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2 * x\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "def plus_one(x):\n"
        "    return x + 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "is_written_here", lambda *arguments: False)
    network = classifier(size=(8, 8))
    mine = importlib.import_module("my_head")
    layers = [network, mine.Doubled(), keras.layers.Activation(mine.plus_one)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    path = keras_smlp.export(model, tmp_path / "m.pt2", "torch")
    x = pixels(2, 8, 8, 3)
    found = runtimes.opened(path, "torch")(x)["outputs"]
    np.testing.assert_allclose(found, 2 * network.predict_on_batch(x) + 1, rtol=1e-4)


def test_what_it_cannot_see_is_one_sentence(tmp_path):
    @keras.saving.register_keras_serializable("here", "OfThisFunction")
    class OfThisFunction(keras.layers.Layer):
        def call(self, x):
            return x

    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((2,)), OfThisFunction()]).save(path)
    keras.saving.get_custom_objects().pop("here>OfThisFunction")
    for modules, words in {(): "class 'OfThisFunction'", ("not_there",): "'not_there'"}.items():
        with pytest.raises(SystemExit) as stop:
            process.run({"model": str(path), "modules": modules})
        assert "only in modules that can be imported, not those of a scr" in str(stop.value)
        assert words in str(stop.value) and "\n" not in str(stop.value)


def test_this_package_is_the_first_in_its_path(model, tmp_path, monkeypatch):
    jobs = []

    def run(command, input, **arguments):
        jobs.append(json.loads(input))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(writing.subprocess, "run", run)
    writing.write_in_subprocess(
        model, tmp_path / "m.pt2", "torch", meaning(model), False, "float32", "{}"
    )
    first, *others = jobs[0]["sys.path"]
    assert (Path(first) / "keras_smlp").samefile(Path(keras_smlp.__file__).parent)
    assert others == [os.path.abspath(x) for x in sys.path]
    assert {"keras_smlp.saving", "keras_smlp.layers.mixing"} <= set(jobs[0]["modules"])
