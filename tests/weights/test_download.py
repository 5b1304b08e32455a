"""Tests of `weights="imagenet"`: one good download, or an error that says what to do.

The server of helpers/publisher.py answers well, and badly in every way.
"""

import contextlib
import gzip
import hashlib
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import filelock
import keras
import numpy as np
import pytest
from helpers import processes
from helpers.damage import flipped, halved
from helpers.modes import assert_by_umask
from helpers.nets import answer, assert_same_weights, pixels, trained_like
from helpers.publisher import MICRO, RECORD, build, left_in, weights_digest

import keras_smlp
from keras_smlp.variants import RELEASE
from keras_smlp.weights import download, loading

pytestmark = pytest.mark.once

PATIENCE = 60  # seconds until a test of processes gives up


# ---- good ---------------------------------------------------------------------------------------
def test_good(publisher, published, cache, fetch_good):
    path = fetch_good()
    assert publisher.paths == ["/smlp_micro.pth"]
    record = json.loads((cache / RECORD).read_text())
    sha256 = hashlib.sha256(published.data).hexdigest()
    assert record == {"origin": publisher.address, "sha256": sha256, "license": "MIT"}
    for file in (path, cache / RECORD):
        assert_by_umask(file)
    publisher.close()
    before = path.stat()
    assert download.fetch(MICRO) == path
    assert path.stat() == before
    assert publisher.paths == ["/smlp_micro.pth"]


def test_load_fills_the_model(publisher, published, shared_model):
    assert loading.load(shared_model, MICRO) is shared_model
    assert_same_weights(shared_model, published.model)
    without = loading.load(build(include_top=False), MICRO)
    np.testing.assert_equal(without.get_weights(), published.model.get_weights()[:-2])
    assert [v.path for v in published.model.weights[-2:]] == [
        "predictions/kernel",
        "predictions/bias",
    ]
    assert publisher.paths == ["/smlp_micro.pth"]


def test_slow_bytes(publisher, published, fetch_good):
    def answer(handler):
        handler.send(b"", length=len(published.data))
        for start in range(0, len(published.data), 1 << 18):
            handler.wfile.write(published.data[start : start + (1 << 18)])
            time.sleep(0.05)

    publisher.answer = answer
    fetch_good()


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_base_address(slashes, publisher, monkeypatch, fetch_good):
    monkeypatch.setenv("KERAS_SMLP_WEIGHTS_URL", f"{publisher.base}/mirror/v1{slashes}")
    fetch_good()
    assert publisher.paths == ["/mirror/v1/smlp_micro.pth"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_file_address(slash, publisher, published, cache, monkeypatch, fetch_good):
    base = published.path.parent.as_uri()
    monkeypatch.setenv("KERAS_SMLP_WEIGHTS_URL", base + slash)
    fetch_good()
    assert json.loads((cache / RECORD).read_text())["origin"] == f"{base}/smlp_micro.pth"
    assert published.path.read_bytes() == published.data
    assert publisher.paths == []


@pytest.mark.parametrize("name", keras_smlp.list_models(pretrained=True))
@pytest.mark.parametrize("base", [None, ""])
def test_published_address(name, base, publisher, monkeypatch):
    asked = []
    monkeypatch.delenv("KERAS_SMLP_WEIGHTS_URL")
    if base is not None:
        monkeypatch.setenv("KERAS_SMLP_WEIGHTS_URL", base)
    monkeypatch.setattr(
        download, "retrieve", lambda address, file, most: asked.append(address) or fail()
    )
    variant = keras_smlp.VARIANTS[name]
    address = f"https://github.com/microsoft/SPACH/releases/download/v1.0/smlp_{name[0]}.pth"

    def fail():
        raise OSError("no network")

    with pytest.raises(RuntimeError, match=re.escape(address)):
        download.fetch(variant)
    assert asked == [address] == [f"{RELEASE}/{variant.checkpoint}"]


# ---- bad answers --------------------------------------------------------------------------------
# the error and the answer: the arguments of `sends`, given the file and that of another network
BAD = {
    "not found": (RuntimeError, lambda good, other: {"data": b"no", "status": 404}),
    "server error": (RuntimeError, lambda good, other: {"data": good, "status": 500}),
    "cut short": (RuntimeError, lambda good, other: {"data": good[:-100], "length": len(good)}),
    "no answer": (RuntimeError, None),
    "a web page": (ValueError, lambda good, other: {"data": b"<html>Log in", "kind": "text/html"}),
    "empty": (ValueError, lambda good, other: {"data": b""}),
    "truncated at the publisher's": (ValueError, lambda good, other: {"data": good[:-100]}),
    "without a length": (ValueError, lambda good, other: {"data": halved(good), "length": False}),
    "a byte changed": (ValueError, lambda good, other: {"data": flipped(good)}),
    "another architecture": (ValueError, lambda good, other: {"data": other}),
}


# the socket of a download that was cut short is left to the garbage collector by Python's urllib
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("case", BAD)
def test_bad_answer(case, publisher, published, cache, load_fails, fetch_good):
    error, answer = BAD[case]
    if answer:
        publisher.sends(**answer(published.data, published.other))
    else:
        publisher.answer = lambda handler: None
    part = cache / MICRO.checkpoint
    if error is ValueError:
        part = "is not the official sMLPNet-micro checkpoint"
    load_fails(error, publisher.address, str(part))
    assert len(publisher.paths) == 1
    assert left_in(cache.parents[1]) == ["models", "models/keras_smlp"]
    publisher.sends(published.data)
    fetch_good()


def test_a_mirror_that_stalls(publisher, published, cache, monkeypatch, load_fails, fetch_good):
    go_on = threading.Event()

    def stall(handler):
        handler.send(halved(published.data), length=len(published.data))
        go_on.wait(PATIENCE)

    publisher.answer = stall
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(download, "TIMEOUT", 0.5)
        load_fails(RuntimeError, publisher.address, "timed out", str(cache / MICRO.checkpoint))
    go_on.set()
    assert time.monotonic() - start < PATIENCE / 2 and left_in(cache) == []
    publisher.sends(published.data)
    fetch_good()


def test_more_than_any_checkpoint_has(publisher, published, cache, monkeypatch, load_fails):
    monkeypatch.setattr(download, "MOST_PER_PARAMETER", 1)
    load_fails(RuntimeError, publisher.address, f"more than {MICRO.parameters} bytes came")
    assert left_in(cache) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_checkpoint_that_is_not_finite_is_not_kept(
    value, publisher, published, cache, load_fails, tmp_path
):
    model = trained_like(build())
    model.get_layer("norm").beta.assign(np.full(32, value))
    keras_smlp.save_official(model, tmp_path / "bad.pth")
    publisher.sends((tmp_path / "bad.pth").read_bytes())
    load_fails(ValueError, publisher.address, "finite numbers. Received: batch_norm.bias with 32")
    assert left_in(cache) == []


@pytest.mark.parametrize(
    "data",
    [gzip.compress(b"PK" * 100, mtime=0), b"<!DOCTYPE html>", b"PK\x03\x04" + bytes(99)],
    ids=["gzip", "html", "cut"],
)
def test_a_refusal_names_no_scratch_file(data, publisher, cache):
    publisher.sends(data)
    with pytest.raises(ValueError) as caught:
        download.fetch(MICRO)
    message = str(caught.value)
    assert message.startswith(publisher.address) and str(cache) not in message
    assert message.isprintable() and message.count("smlp_micro.pth") == 1


def test_waiting_for_another_process_is_said(publisher, cache, monkeypatch, capsys, fetch_good):
    cache.mkdir(parents=True)
    lock = filelock.FileLock(cache / ".smlp_micro.pth.lock")
    monkeypatch.setattr(download, "LONGEST_WAIT", 0.2)
    with lock, pytest.raises(RuntimeError, match=r"\.smlp_micro\.pth\.lock for 0.2 seconds"):
        download.fetch(MICRO)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and re.match("Waiting for another process.*smlp_micro.pth", lines[0])
    assert publisher.paths == []
    fetch_good()


def test_nothing_outside_the_cache(publisher, tmp_path, monkeypatch):
    # get_file's fallback, /tmp/.keras, would hand a later call what an earlier one left there
    fallback = Path("/tmp/.keras")
    before = left_in(fallback)
    publisher.sends(b"<html>")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", "~/keras")
    with pytest.raises(ValueError, match="official"):
        download.fetch(MICRO)
    assert left_in(fallback) == before
    assert left_in(tmp_path) == ["keras", "keras/models", "keras/models/keras_smlp"]


@pytest.mark.parametrize("base", ["ftp", "C:\\mirror", "mirror/v1"])
def test_base_address_of_no_kind(base, publisher, cache, monkeypatch):
    monkeypatch.setenv("KERAS_SMLP_WEIGHTS_URL", base)
    with pytest.raises(RuntimeError, match=re.escape(f"{base}/smlp_micro.pth")):
        download.fetch(MICRO)
    assert left_in(cache) == []


# ---- interruptions and several processes --------------------------------------------------------
def test_interrupted_while_it_is_checked(publisher, cache, monkeypatch, load_fails, fetch_good):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "sha256", interrupted)
        load_fails(KeyboardInterrupt)
    assert left_in(cache) == []
    fetch_good()


def test_interrupted_download(publisher, published, cache, load_fails, fetch_good):
    stalled = threading.Event()

    def answer(handler):
        handler.send(halved(published.data), length=len(published.data))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not any(
            p.stat().st_size for p in cache.rglob(MICRO.checkpoint)
        ):
            time.sleep(0.01)  # until a part of the file is there
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C, in the main thread
        stalled.wait(PATIENCE)

    publisher.answer = answer
    # a job started in the background of a shell ignores the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        load_fails(KeyboardInterrupt)
    finally:
        signal.signal(signal.SIGINT, before)
        stalled.set()
    assert len(publisher.paths) == 1
    assert left_in(cache) == []
    publisher.sends(published.data)
    fetch_good()


@contextlib.contextmanager
def fetching():
    """A process that fetches, killed at the end."""
    with processes.begin("-m", "helpers.publisher") as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.deep
def test_killed_in_the_download(publisher, published, cache, fetch_good):
    stalled, go_on = threading.Event(), threading.Event()

    def stall(handler):
        handler.send(halved(published.data), length=len(published.data))
        stalled.set()
        go_on.wait(PATIENCE)

    publisher.answer = stall
    with fetching() as child:
        assert stalled.wait(PATIENCE), child.communicate()
        publisher.sends(published.data)
        child.kill()
        child.wait(PATIENCE)
        go_on.set()
    scratch, *_ = left_in(cache)
    assert scratch.startswith(".smlp_micro-")
    # it is of no use to anyone, and the next download cleans up
    fetch_good()
    assert len(publisher.paths) == 2


@pytest.mark.deep
def test_concurrent_processes_download_once(publisher, published, fetch_good):
    def answer(handler):
        time.sleep(1)  # the others come meanwhile, and wait
        handler.send(published.data)

    publisher.answer = answer
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(fetching()) for _ in range(3)]
        outputs = [child.communicate(timeout=2 * PATIENCE)[0] for child in children]
    assert [child.returncode for child in children] == [0] * 3, outputs
    assert all(weights_digest(published.model) in out.splitlines() for out in outputs)
    assert publisher.paths == ["/smlp_micro.pth"]
    fetch_good()
    assert publisher.paths == ["/smlp_micro.pth"]


# ---- what was never published -------------------------------------------------------------------
def test_tiny(publisher):
    with pytest.raises(ValueError, match="never published") as caught:
        keras_smlp.SMLPNetTiny(weights="imagenet")
    for part in ("sMLPNet-tiny", "'small', 'base'", "weights=None"):
        assert part in str(caught.value)
    assert publisher.paths == []


@pytest.mark.parametrize("constructor", [keras_smlp.SMLPNetSmall, keras_smlp.SMLPNetBase])
@pytest.mark.parametrize(
    ("name", "value"),
    [("classes", 10), ("input_shape", (256, 250, 3))],
)
def test_arguments(constructor, name, value, publisher):
    with pytest.raises(ValueError, match=f"`{name}`") as caught:
        constructor(weights="imagenet", **{name: value})
    assert str(value) in str(caught.value)
    assert publisher.paths == []


# ---- the public path ----------------------------------------------------------------------------
@pytest.mark.deep
def test_small_from_end_to_end(publisher, cache, tmp_path):
    publisher.sends(b"", status=404)
    with pytest.raises(RuntimeError, match="smlp_s.pth"):
        keras_smlp.SMLPNetSmall(weights="imagenet")
    assert left_in(cache) == []

    official = trained_like(keras_smlp.SMLPNetSmall(drop_path_rate=0.0))
    keras_smlp.save_official(official, tmp_path / "smlp_s.pth")
    data = (tmp_path / "smlp_s.pth").read_bytes()
    assert len(data) > 194_000_000
    publisher.sends(data)
    model = keras_smlp.SMLPNetSmall(weights="imagenet")
    assert publisher.paths == ["/smlp_s.pth"] * 2
    assert_same_weights(model, official)
    assert left_in(cache) == ["smlp_s.json", "smlp_s.pth"]

    publisher.close()
    features = keras_smlp.SMLPNetSmall(weights="imagenet", include_top=False, pooling="avg")
    assert features.output_shape == (None, 768)
    np.testing.assert_equal(features.get_weights(), official.get_weights()[:-2])

    model.save(tmp_path / "model.keras")
    images = pixels(1, 224, 224, 3)
    wanted = answer(model, images)
    for path in cache.rglob("*.*"):
        path.unlink()
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(answer(again, images), wanted)
    assert publisher.paths == ["/smlp_s.pth"] * 2
