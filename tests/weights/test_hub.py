"""Tests of `hf://` addresses: the hub of helpers/hugging_face.py answers well, and badly."""

import contextlib
import json
import re
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.hugging_face import TOKEN
from helpers.nets import SMALL, assert_same_weights, net

import keras_smlp
from keras_smlp.training import parsing
from keras_smlp.weights import hub as addresses
from keras_smlp_cli import kernels, predict

pytestmark = pytest.mark.once

CLASSES = ["cat", "dog", "tench", "bird", "eel"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a repository, with those of a small network."""
    folder, model = tmp_path_factory.mktemp("files"), net(classifier_activation="softmax")
    model.save(folder / "model.keras")
    square = net(input_shape=(32, 32, 3))
    keras_smlp.save_official(square, folder / "model.safetensors")
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def commit(hub, files):
    """The commit of the repository `me/net`."""
    return hub.add("me/net", files)


@pytest.fixture
def offline(hub, monkeypatch):
    """Function after which there is no hub: nobody listens."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def go():
        huggingface_hub.close_session()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")

    return go


def cached(cache):
    """The names of what the cache holds of contents, and what it would give for a name."""
    return sorted(x.name for x in cache.rglob("*") if "blobs" in x.parts or "snapshots" in x.parts)


# ---- good ---------------------------------------------------------------------------------------
def test_a_model_is_loaded_and_its_commit_said(hub, commit, files, capsys, offline):
    model = keras_smlp.load_model("hf://me/net")
    assert_same_weights(model, net(classifier_activation="softmax"))
    whole = f"hf://me/net@{commit}/model.keras"
    assert capsys.readouterr().out == f"hf://me/net is {whole}\n"
    # the same commit again: nothing is asked
    hub.log.clear()
    for address in (whole, f"hf://me/net@{commit}"):
        keras_smlp.load_model(address)
    assert hub.log == [] and capsys.readouterr().out == f"hf://me/net@{commit} is {whole}\n"
    # the branch has moved, the pinned one is as it was
    new = hub.repositories["me/net"].commit({"model.keras": files["model.keras"], "x": b""})
    keras_smlp.load_model("hf://me/net@main")
    assert capsys.readouterr().out == f"hf://me/net@main is hf://me/net@{new}/model.keras\n"
    # without a network what was last seen, and it is said
    offline()
    keras_smlp.load_model("hf://me/net")
    said = capsys.readouterr().out
    assert said.startswith(f"hf://me/net is hf://me/net@{new}/model.keras in the cache; the hub ")
    keras_smlp.load_model(whole)
    with pytest.raises(ConnectionError, match="is not in the cache, and the hub cannot be reached"):
        keras_smlp.load_model("hf://me/net@other")


def test_weights_are_those_of_the_official_keys_first(hub, commit, files, capsys):
    square = {**SMALL, "input_shape": (32, 32, 3)}
    filled = keras_smlp.SMLPNet(**square, weights="hf://me/net")
    assert_same_weights(filled, net(input_shape=(32, 32, 3)))
    assert capsys.readouterr().out.endswith("/model.safetensors\n")
    hub.add("me/keras", {"deep/model.keras": files["model.keras"]})
    filled = keras_smlp.SMLPNet(**SMALL, weights="hf://me/keras@main/deep/model.keras")
    assert_same_weights(filled, net())
    hub.add("me/only", {"model.keras": files["model.keras"]})
    assert_same_weights(keras_smlp.SMLPNet(**SMALL, weights="hf://me/only"), net())


def test_a_token_opens_a_private_repository(hub, files, monkeypatch):
    hub.add("me/private", files, private=True)
    with pytest.raises(FileNotFoundError, match="it is private .log in by `hf auth login`"):
        keras_smlp.load_model("hf://me/private")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    keras_smlp.load_model("hf://me/private")


def test_offline_mode_asks_nothing(hub, commit, monkeypatch, capsys):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    keras_smlp.load_model("hf://me/net")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()
    keras_smlp.load_model("hf://me/net")
    assert hub.log == [] and "in the cache; the hub cannot be reached" in capsys.readouterr().out


# ---- the commands -------------------------------------------------------------------------------
def test_a_configuration_keeps_the_commit(hub, commit, capsys):
    line = ["--config", "finetune", "--data.dir", "photos", "--model.weights", "hf://me/net"]
    line += ["--model.input_size", "32"]
    config = parsing.parse(line, "keras-smlp train", "")
    assert config.model.weights == f"hf://me/net@{commit}/model.keras"
    assert (config.model.dim, config.model.depths) == (8, (1, 1))
    said = capsys.readouterr()
    assert said.out == "" and said.err == f"hf://me/net is {config.model.weights}\n"


def test_predict_takes_the_names_beside_the_model(hub, commit, tmp_path, capsys):
    keras.utils.save_img(tmp_path / "photo.png", np.zeros((40, 40, 3)))
    line = [str(tmp_path / "photo.png"), "--weights", "hf://me/net", "--json"]
    assert predict.main(line) == 0
    out, err = capsys.readouterr()
    assert {x["name"] for x in json.loads(out)["predictions"]} == set(CLASSES)
    assert err.startswith("hf://me/net is hf://")
    line[2] = "hf://me/none"
    assert predict.main(line) == 2
    assert "error: hf://me/none is in no repository" in capsys.readouterr().err


# ---- bad ----------------------------------------------------------------------------------------
REFUSED = {
    "hf://me/none": (FileNotFoundError, "is in no repository that can be seen"),
    "hf://me/net@none": (FileNotFoundError, "has no such revision"),
    "hf://me/net/none.keras": (FileNotFoundError, "has no none.keras (it has classes.json, "),
    "hf://me/net/classes.json": (ValueError, "`path` must be hf://ACCOUNT/NAME"),
    "hf://me": (ValueError, "`path` must be hf://ACCOUNT/NAME"),
    "hf://datasets/me/net": (ValueError, "`path` must be hf://ACCOUNT/NAME"),
    "hf://me/net@main/../model.keras": (ValueError, "`path` must be hf://ACCOUNT/NAME"),
    "hf://me/gated": (PermissionError, "is gated: accept its terms on its page"),
}


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_there_is_one_sentence(address, hub, commit, files, hub_cache):
    hub.add("me/gated", files, gated=True)
    error, words = REFUSED[address]
    with pytest.raises(error, match=re.escape(words)) as caught:
        keras_smlp.load_model(address)
    assert "\n" not in str(caught.value) and cached(hub_cache) == []


def test_an_address_as_a_path_is_refused_in_words():
    for load, name in ((keras_smlp.load_model, "path"), (lambda x: net(weights=x), "weights")):
        said = f"`{name}` must not be .*: give the address as text. Received: "
        with pytest.raises(ValueError, match=said):
            load(Path("hf://me/net"))


@pytest.mark.parametrize("name", ["model.keras", "classes.json"])
def test_other_contents_than_announced_are_removed(name, hub, commit, files, hub_cache):
    """huggingface_hub compares the sizes alone: it takes these."""
    changed = bytearray(files[name])
    changed[len(changed) // 2] ^= 1
    hub.changed[name] = bytes(changed)
    with pytest.raises(ValueError, match=f"{name} is not what the hub announced"):
        keras_smlp.load_model("hf://me/net")
    assert name not in cached(hub_cache)
    hub.changed.clear()
    keras_smlp.load_model("hf://me/net")


def test_a_file_that_changed_in_the_cache_is_not_loaded(hub, commit):
    path = addresses.fetch(f"hf://me/net@{commit}", "path", ("model.keras",), (".keras",)).path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    Path(path.resolve()).write_bytes(data)
    with pytest.raises(ValueError, match="it was removed from the cache"):
        keras_smlp.load_model(f"hf://me/net@{commit}")
    keras_smlp.load_model(f"hf://me/net@{commit}")


def test_a_cache_without_links_is_verified_by_the_hub(hub, commit, files, monkeypatch, capsys):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    hub.changed["model.keras"] = files["model.keras"][:-1] + b"!"
    with pytest.raises(ValueError, match="model.keras is not what the hub announced"):
        keras_smlp.load_model("hf://me/net")
    hub.changed.clear()
    keras_smlp.load_model("hf://me/net")
    assert "not verified" not in capsys.readouterr().out
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    keras_smlp.load_model(f"hf://me/net@{commit}/model.keras")
    assert "model.keras is not verified; the hub cannot be reached" in capsys.readouterr().out
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.get_hf_file_metadata", lambda url: types.SimpleNamespace(etag=None)
    )
    keras_smlp.load_model(f"hf://me/net@{commit}/model.keras")
    assert "model.keras is not verified; the hub does not say what" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_download_that_breaks_off(hub, commit, hub_cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.cut["model.keras"] = 1
    with contextlib.suppress(ConnectionError):  # newer versions of huggingface_hub go on
        keras_smlp.load_model("hf://me/net")
    keras_smlp.load_model("hf://me/net")
    new = hub.repositories["me/net"].commit({"model.keras": b"1" * 1000})
    hub.cut["model.keras"], hub.cut_to = 100, 0  # not a byte comes
    with pytest.raises(ConnectionError, match="was not transferred"):
        keras_smlp.load_model(f"hf://me/net@{new}")
    assert not [x for x in hub_cache.rglob("*") if new in x.parts and x.is_file()]
    # some versions of huggingface_hub leave an empty file
    assert not any(x.stat().st_size for x in hub_cache.rglob("*.incomplete"))


def test_a_hub_that_is_out_of_order(hub, commit, capsys):
    hub.status = 503
    with pytest.raises(ConnectionError, match="503"):
        keras_smlp.load_model("hf://me/net")
    hub.status = None
    keras_smlp.load_model("hf://me/net")
    hub.status = 503
    keras_smlp.load_model("hf://me/net")
    assert "in the cache; the hub cannot be reached (" in capsys.readouterr().out


def test_a_keras_file_of_the_hub_runs_no_code(hub, tmp_path):
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs)).save(tmp_path / "code.keras")
    hub.add("me/code", {"model.keras": (tmp_path / "code.keras").read_bytes()})
    with pytest.raises(ValueError, match="holds no model that loads"):
        keras_smlp.load_model("hf://me/code")


def test_the_extra_is_named_where_the_package_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "keras-smlp\[hub\]"'):
        keras_smlp.load_model("hf://me/net")
    assert kernels.main(["kernels.png", "--weights", "hf://me/net"]) == 2
    said = capsys.readouterr().err
    assert said.endswith('huggingface_hub is not installed: pip install "keras-smlp[hub]"\n')
