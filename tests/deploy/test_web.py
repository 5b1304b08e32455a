"""The folder of `export(..., "web")`; tests/deploy/test_web_page.py opens it in a browser."""

import base64
import hashlib
import json
import re

import keras
import numpy as np
import pytest
from helpers.html_pages import Page
from helpers.modes import assert_by_umask
from helpers.nets import net, pixels, trained_like
from helpers.processes import ROOT

import keras_smlp
from keras_smlp.deploy.export import api, class_maps, writing
from keras_smlp.deploy.export.meaning import meaning
from keras_smlp.deploy.export.web import runtime, site

pytestmark = pytest.mark.once

NAMES = ["cat", "<img src=x onerror=alert(1)>", "dog & 'bird'", "eel", "ant"]
MODEL = b"a model"


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture
def node_modules(tmp_path, monkeypatch):
    """A folder as npm makes it, of files that count as the published ones."""
    folder = tmp_path / "node_modules"
    files = {}
    for name, file in runtime.FILES.items():
        path = folder / file.package / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import {{ made }} from {runtime.IMPORT};" if name == "core" else name)
        made = runtime.integrity(path.read_bytes())
        files[name] = runtime.File(file.package, file.path, made)
    for package in (runtime.CORE, runtime.UTILITIES):
        (folder / package / "package.json").write_text(json.dumps({"version": runtime.VERSION}))
    monkeypatch.setattr(runtime, "FILES", files)
    return folder


@pytest.fixture
def exported(model, tmp_path, monkeypatch):
    """A function that exports the page around what is no model; returns its folder."""

    def write(model, path, *arguments):
        path.mkdir()
        (path / site.MODEL).write_bytes(MODEL)

    monkeypatch.setattr(api, "write", write)
    monkeypatch.setattr(api, "write_in_subprocess", write)

    def export(model=model, **arguments):
        arguments = {"class_names": NAMES, "origin": "made here", "license": "MIT", **arguments}
        return keras_smlp.export(model, tmp_path / "site", "web", **arguments)

    return export


def about(path):
    return json.loads((path / "about.json").read_text())


def test_what_the_folder_holds(exported):
    path = exported()
    assert {x.name for x in path.iterdir()} == {
        *site.COPIED,
        "index.html",
        "about.json",
        site.MODEL,
    }
    found = about(path)
    assert found["metadata"]["class_names"] == NAMES and found["metadata"]["license"] == "MIT"
    assert found["model"] == {
        "file": "model.tflite",
        "bytes": len(MODEL),
        "integrity": "sha384-" + base64.b64encode(hashlib.sha384(MODEL).digest()).decode(),
    }
    assert (found["size"], found["cover"], found["channels"]) == ([16, 32], [18, 37], 3)
    assert found["metadata"]["resize_size"] == [18, 37]
    assert found["scale"] is None and found["map"] == [2, 4]
    assert {x.name for x in (site.PAGE).iterdir()} == {*site.COPIED, "index.html"}
    assert "Apache License" in (path / "NOTICES.txt").read_text()


def test_the_page_knows_one_answer(exported, model):
    values = site.sample((16, 32, 3))
    # 2654435761 k modulo 2**32, divided by 2**24
    assert values.dtype == "uint8" and values.ravel()[:4].tolist() == [158, 60, 218, 120]
    assert abs(values.mean() - 127.5) < 1
    probabilities = keras.ops.softmax(model.predict_on_batch(values[None].astype("float32")))
    np.testing.assert_allclose(about(exported())["sample"], probabilities[0], rtol=1e-4)
    normalized = net(include_preprocessing=False)
    normalized.set_weights(model.get_weights())
    means = meaning(normalized)
    found = site.answer(writing.endpoint(normalized, means, False), means)
    np.testing.assert_allclose(found, probabilities[0], rtol=1e-4)


def test_photos_are_resized_as_they_were_in_the_evaluation(exported):
    for small in (31, (40, 31), (15, 40)):
        with pytest.raises(ValueError, match="^`resize_size` must be at least the model's 16 x 32"):
            exported(resize_size=small)
    found = about(exported(resize_size=40, exif_orientation=True))
    assert found["cover"] == found["metadata"]["resize_size"] == [40, 40]
    assert found["metadata"]["exif_orientation"] is True
    assert found["metadata"]["preprocessing"].startswith("turn as EXIF says; resize")
    assert "so that 40 x 40 pixels" in found["metadata"]["preprocessing"]


def test_nothing_runs_but_the_files_of_the_page(exported, node_modules):
    for folder, more in ((node_modules, ""), (None, " blob:")):
        path = exported(runtime=folder)
        text = (path / "index.html").read_text()
        page = Page(text)
        assert not page.errors and page.elements[0] == ("html", {"lang": "en"})
        (policy,) = (x["content"] for tag, x in page.elements if x.get("http-equiv"))
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
        assert rules["script-src"] == f"'self' 'wasm-unsafe-eval'{more}"
        assert rules["style-src"] == "'self'" and "unsafe-inline" not in policy
        assert rules["connect-src"].startswith("'self' blob:")
        assert ("https:" in policy) == (folder is None)
        # the policy is before all that it is for
        assert page.elements.index(("meta", {"charset": "utf-8"})) == 2
        assert page.elements[3][1].get("http-equiv") == "Content-Security-Policy"
        for tag, attributes in page.elements:
            assert tag != "style" and (tag != "script" or attributes["src"])
            assert not any(name == "style" or name.startswith("on") for name in attributes)
            for name in ("src", "href"):
                assert name not in attributes or (path / attributes[name]).is_file()
        assert not re.search(r"<script[^>]*>[^<]", text)
        api.shutil.rmtree(path)


def test_the_scripts_import_what_is_there_and_make_no_html(exported):
    path = exported()
    scripts = [*path.glob("*.js")]
    assert len(scripts) == 7
    for script in scripts:
        code = script.read_text()
        for name in re.findall(r'from "([^"]+)"', code):
            assert (path / name).is_file()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", code)
        assert "http" not in code.replace("https.", "") and runtime.UTILITIES not in code


def test_files_on_another_server_are_pinned(exported):
    described = about(exported())["runtime"]
    assert described["isHere"] is False and set(described["files"]) == set(runtime.FILES)
    assert described["import"] == '"@litertjs/wasm-utils"'
    for file in described["files"].values():
        assert re.fullmatch(
            r"https://[^/]+/npm/@litertjs/[\w-]+@2\.5\.3/.+\.(js|wasm)", file["address"]
        )
        kind, _, value = file["integrity"].partition("-")
        assert kind == "sha384" and len(base64.b64decode(value, validate=True)) == 48


def test_the_runtime_is_copied_beside_the_page(exported, node_modules):
    path = exported(runtime=node_modules)
    described = about(path)["runtime"]
    assert described["isHere"] is True
    for name, file in described["files"].items():
        copied = (path / file["address"]).read_text()
        assert (name in copied) or (name == "core" and copied.endswith('from "./wasm-utils.js";'))
    assert_by_umask(path)
    first = (path / "runtime" / "core.js").read_text().splitlines()[0]
    assert first.startswith("// Changed by keras_smlp")


def broken(folder, kind):
    if kind == "no such folder":
        return folder / "nowhere"
    if kind == "another version":
        (folder / runtime.CORE / "package.json").write_text('{"version": "2.4.0"}')
    elif kind == "no version":
        (folder / runtime.UTILITIES / "package.json").write_text("[]")
    elif kind == "a missing file":
        (folder / runtime.CORE / "wasm/litert_wasm_internal.wasm").unlink()
    else:
        (folder / runtime.CORE / "wasm/litert_wasm_internal.wasm").write_text("changed")
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    {
        "no such folder": "without a @litertjs/core/package.json that names its version",
        "another version": r"with @litertjs/core of version 2\.4\.0",
        "no version": "without a @litertjs/wasm-utils/package.json that names its version",
        "a missing file": r"without @litertjs/core/wasm/litert_wasm_internal\.wasm",
        "a changed file": r"litert_wasm_internal\.wasm is not the published file",
    }.items(),
)
def test_a_folder_without_the_runtime_is_refused(exported, node_modules, tmp_path, kind, words):
    install = "npm install @litertjs/core@2.5.3 @litertjs/wasm-utils@2.5.3"
    begin = f"`runtime` must be the folder node_modules that `{install}` makes. Received: "
    with pytest.raises(ValueError, match=f"{begin}.*{words}"):
        exported(runtime=broken(node_modules, kind))
    assert not (tmp_path / "site").exists()
    page = (ROOT / "docs" / "web.md").read_text()
    assert install.replace("install", "install --prefix there") in page


def test_what_the_page_cannot_show_is_refused(exported, tmp_path):
    images = keras.Input((16, 32, 3))
    unknown = keras.Model(images, keras.layers.Dense(5)(net()(images)))
    bands = net(input_shape=(16, 32, 4))
    cases = [
        ({"model": net(include_top=False)}, "`model` must be a classifier"),
        ({"model": unknown}, "`outputs` must be 'probabilities', 'sigmoid' or 'logits' for 'web'"),
        ({"inputs": "unknown"}, r"`inputs` must be one of \('pixels', 'normalized'\) for 'web'"),
        ({"model": bands}, "`model` must take images of 1 or 3 channels for 'web'"),
        ({"features": True}, "`features` must be False for 'web'"),
        ({"precision": "bfloat16"}, "`precision` must be one of .* for 'web'"),
        ({"runtime": 3}, "`runtime` must be a path"),
    ]
    for arguments, words in cases:
        with pytest.raises(ValueError, match=words):
            exported(**arguments)
    with pytest.raises(ValueError, match="`runtime` must be None for 'tf_saved_model'"):
        keras_smlp.export(net(), tmp_path / "served", "tf_saved_model", runtime="node_modules")
    (tmp_path / "site").mkdir()
    with pytest.raises(FileExistsError, match="`path` must not exist yet"):
        exported()
    assert [*tmp_path.iterdir()] == [tmp_path / "site"] and not [*(tmp_path / "site").iterdir()]


def test_nothing_is_left_of_a_page_that_fails(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "COPIED", ("app.js", "not_there.js"))
    with pytest.raises(FileNotFoundError):
        exported()
    assert not [*tmp_path.iterdir()]


# ---- what the model returns beside the probabilities --------------------------------------------
def maps_of(model, images):
    found = writing.endpoint(model, meaning(model), False, maps=True).predict_on_batch(images)
    return found["maps"]


def test_the_maps_are_grad_cams(model):
    images = pixels()
    bias = keras.ops.convert_to_numpy(model.get_layer("predictions").bias)
    maps = maps_of(model, images)
    assert maps.shape == (3, *class_maps.size(model), 5)
    logits = model.predict_on_batch(images)
    np.testing.assert_allclose(maps.mean((1, 2)) + bias, logits, rtol=1e-4, atol=1e-5)
    for k in range(5):
        seen = np.maximum(maps[..., k], 0)
        seen = np.stack([np.asarray(keras_smlp.explain.enlarged(x, (16, 32))) for x in seen])
        wanted = keras_smlp.explain.grad_cam(model, images, k)
        largest = seen.max((1, 2), keepdims=True)
        np.testing.assert_allclose(seen / np.where(largest > 0, largest, 1), wanted, atol=1e-4)
    folded = keras_smlp.fold(model)
    np.testing.assert_allclose(maps_of(folded, images), maps + bias, rtol=1e-3, atol=1e-4)


def test_models_with_another_end_have_no_maps(model):
    images = keras.Input((16, 32, 3))
    body = trained_like(net(include_top=False, pooling="avg"))
    own = keras.Model(body.input, keras.layers.Dense(5, "softmax", name="predictions")(body.output))
    assert class_maps.size(own) == [2, 4]
    softmax = keras.Model(model.input, keras.layers.Softmax()(model.output))  # as a run saves it
    assert class_maps.size(softmax) == [2, 4]
    for other in (
        keras.Model(model.input, keras.layers.Dense(5, "softmax")(model.output)),
        keras.Sequential([images, model]),
        keras.Model(body.input, keras.layers.Dense(5, "softmax")(body.output)),
        keras.Sequential([images, keras.layers.Flatten(), keras.layers.Dense(5, "softmax")]),
    ):
        assert class_maps.size(other) is None
        assert set(writing.endpoint(other, meaning(other), False, maps=True).output) == {
            "probabilities"
        }


# ---- colors -------------------------------------------------------------------------------------
def luminance(color):
    parts = [
        int(color[i : i + len(color) // 3] * (2 if len(color) == 3 else 1), 16) / 255
        for i in range(0, len(color), len(color) // 3)
    ]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_the_contrast_of_wcag_aa():
    style = (site.PAGE / "style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    for scheme in (light, dark):
        colors = dict(re.findall(r"--([\w-]+): #([0-9a-f]+)", scheme))
        for text, ground in (
            ("ink", "ground"), ("ink", "card"), ("soft", "ground"), ("soft", "card"),
            ("main", "card"), ("on-main", "main"), ("error", "error-ground"), ("main", "ground"),
        ):  # fmt: skip
            dim, bright = sorted(luminance(colors[x]) for x in (text, ground))
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (text, ground)
