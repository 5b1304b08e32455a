"""Tests of `weights="imagenet"`: one good download, or an error that says what to do.

A server on loopback plays the publisher, with a checkpoint of a small network and every way to
answer badly. Run as a script, this file is a process that fetches, to be killed or to compete.
"""

import contextlib
import hashlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.nets import trained_like
from helpers.processes import environment

import keras_smlp
from keras_smlp.variants import RELEASE, Variant
from keras_smlp.weights import download, loading

pytestmark = pytest.mark.once

DEPTHS = (1, 2)
RECORD = "smlp_micro.json"
MICRO = Variant("micro", 16, DEPTHS, 0.0, 26_298, "smlp_micro.pth", 0.0, input_size=64, classes=10)
PATIENCE = 60  # seconds until a test of processes gives up


def build(depths=DEPTHS):
    return keras_smlp.SMLPNet(16, depths, input_shape=(64, 64, 3), classes=10)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def weights_digest(model):
    return digest(b"".join(x.tobytes() for x in model.get_weights()))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The small network as its publisher has it: file, bytes, model; another one's bytes."""
    folder = tmp_path_factory.mktemp("published")
    model = trained_like(build())
    path = folder / MICRO.checkpoint
    keras_smlp.save_official(model, path)
    keras_smlp.save_official(build((1, 3)), folder / "other.pth")
    other = (folder / "other.pth").read_bytes()
    return types.SimpleNamespace(path=path, data=path.read_bytes(), model=model, other=other)


@pytest.fixture(scope="module")
def shared_model():
    return build()


@pytest.fixture
def model(shared_model):
    """A model to load into, with other values than the published one."""
    return trained_like(shared_model, seed=1)


@contextlib.contextmanager
def fails(error, part, model):
    """Loading raises, and leaves the model as it was: nobody goes on with random weights."""
    before = weights_digest(model)
    with pytest.raises(error) as caught:
        yield caught
    assert part in str(caught.value)
    assert weights_digest(model) == before


def flipped(data):
    """The bytes with one bit in the middle changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


# ---- the publisher ------------------------------------------------------------------------------
class Publisher(http.server.ThreadingHTTPServer):
    """Answers every request with `self.answer(handler)` and keeps the paths asked for."""

    daemon_threads = True
    block_on_close = False  # an answer may be stalled on purpose

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.paths, self.errors = answer, [], []
        self.address = f"http://127.0.0.1:{self.server_port}/{MICRO.checkpoint}"
        self.base = self.address.rpartition("/")[0]
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # the client was killed
            self.errors.append(sys.exception())

    def close(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        self.server.answer(self)

    def log_message(self, *args):
        pass


def send(handler, data, length=None, status=200, kind="application/octet-stream"):
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    if length is not False:
        handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def publisher(published, tmp_path, monkeypatch):
    """The server, asked by everything that runs in the test, and an empty cache."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Publisher(lambda handler: send(handler, published.data))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("KERAS_SMLP_WEIGHTS_URL", server.base)
    yield server
    server.close()
    assert server.errors == []


@pytest.fixture
def cache(publisher, tmp_path):
    """Where the folders of the variants are."""
    return tmp_path / "keras" / "models" / "keras_smlp"


def entries(cache):
    """The names in the cache folder but for the locks."""
    return sorted(p.name for p in cache.iterdir() if p.suffix != ".lock")


def contents(folder):
    """Everything but folders and locks below a folder."""
    files = (p for p in folder.rglob("*") if not p.is_dir() and p.suffix != ".lock")
    return sorted(str(p.relative_to(folder)) for p in files)


def assert_good(path, published, cache, model):
    """The fetched file is the published one, alone in the cache but for its record."""
    assert path == cache / MICRO.checkpoint and path.read_bytes() == published.data
    assert entries(cache) == contents(cache) == [RECORD, MICRO.checkpoint]
    loading.load(trained_like(model, seed=2), path)
    assert [x.path for x in model.weights] == [x.path for x in published.model.weights]
    for x, y in zip(model.get_weights(), published.model.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


# ---- good ---------------------------------------------------------------------------------------
def test_good(publisher, published, cache, model):
    path = download.fetch(MICRO)
    assert_good(path, published, cache, model)
    assert publisher.paths == ["/smlp_micro.pth"]
    record = json.loads((cache / RECORD).read_text())
    sha256 = hashlib.sha256(published.data).hexdigest()
    assert record == {"origin": publisher.address, "sha256": sha256, "license": "MIT"}
    publisher.close()
    before = path.stat()
    assert download.fetch(MICRO) == path
    assert path.stat() == before
    assert publisher.paths == ["/smlp_micro.pth"]


def test_load_fills_the_model(publisher, published, model):
    assert loading.load(model, MICRO) is model
    assert weights_digest(model) == weights_digest(published.model)
    without = keras_smlp.SMLPNet(16, DEPTHS, input_shape=(64, 64, 3), include_top=False)
    loading.load(without, MICRO)
    *wanted, kernel, bias = published.model.weights
    assert [kernel.path, bias.path] == ["predictions/kernel", "predictions/bias"]
    assert [x.path for x in without.weights] == [x.path for x in wanted]
    for x, y in zip(without.get_weights(), published.model.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(x, y)
    assert publisher.paths == ["/smlp_micro.pth"]


def test_slow_bytes(publisher, published, cache, model):
    def answer(handler):
        send(handler, b"", length=len(published.data))
        for start in range(0, len(published.data), 1 << 18):
            handler.wfile.write(published.data[start : start + (1 << 18)])
            time.sleep(0.05)

    publisher.answer = answer
    assert_good(download.fetch(MICRO), published, cache, model)


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_base_address(slashes, publisher, published, cache, monkeypatch, model):
    monkeypatch.setenv("KERAS_SMLP_WEIGHTS_URL", f"{publisher.base}/mirror/v1{slashes}")
    assert_good(download.fetch(MICRO), published, cache, model)
    assert publisher.paths == ["/mirror/v1/smlp_micro.pth"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_file_address(slash, publisher, published, cache, monkeypatch, model):
    base = published.path.parent.as_uri()
    monkeypatch.setenv("KERAS_SMLP_WEIGHTS_URL", base + slash)
    path = download.fetch(MICRO)
    assert_good(path, published, cache, model)
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
        keras.utils, "get_file", lambda **kwargs: asked.append(kwargs["origin"]) or 1 / 0
    )
    variant = keras_smlp.VARIANTS[name]
    address = f"https://github.com/microsoft/SPACH/releases/download/v1.0/smlp_{name[0]}.pth"
    with pytest.raises(RuntimeError, match=re.escape(address)):
        download.fetch(variant)
    assert asked == [address] == [f"{RELEASE}/{variant.checkpoint}"]


# ---- where the cache is -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("home", "folder"), [(None, ".keras"), ("", ".keras"), ("~/elsewhere", "elsewhere")]
)
def test_home(home, folder, publisher, published, tmp_path, monkeypatch, model):
    (tmp_path / "user").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("KERAS_HOME")
    if home is not None:
        monkeypatch.setenv("KERAS_HOME", home)
    path = download.fetch(MICRO)
    assert_good(path, published, tmp_path / "user" / folder / "models" / "keras_smlp", model)
    assert list((tmp_path / "here").iterdir()) == []


def test_relative_home(publisher, published, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", "near")
    path = download.fetch(MICRO)
    assert_good(path, published, Path("near/models/keras_smlp"), model)


def test_home_that_is_no_folder(publisher, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file" / "models"))):
        download.fetch(MICRO)
    assert publisher.paths == []


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root"
)
@pytest.mark.parametrize("place", ["", "models/keras_smlp"])
def test_read_only_home(place, publisher, tmp_path, cache):
    cache.mkdir(parents=True)
    (tmp_path / "keras" / place).chmod(0o500)
    if not place:
        cache.rmdir()
        cache.parent.rmdir()
    try:
        with pytest.raises(PermissionError, match=re.escape(str(tmp_path / "keras" / place))):
            download.fetch(MICRO)
    finally:
        (tmp_path / "keras" / place).chmod(0o700)
    assert publisher.paths == []


# ---- bad answers --------------------------------------------------------------------------------
BAD = {
    "not found": (RuntimeError, lambda h, good, other: send(h, b"no", status=404)),
    "server error": (RuntimeError, lambda h, good, other: send(h, good, status=500)),
    "cut short": (RuntimeError, lambda h, good, other: send(h, good[:-100], length=len(good))),
    "no answer": (RuntimeError, lambda h, good, other: None),
    "a web page": (
        ValueError,
        lambda h, good, other: send(h, b"<html>Log in</html>", kind="text/html"),
    ),
    "empty": (ValueError, lambda h, good, other: send(h, b"")),
    "truncated at the publisher's": (ValueError, lambda h, good, other: send(h, good[:-100])),
    "half, without a length": (
        ValueError,
        lambda h, good, other: send(h, good[: len(good) // 2], length=False),
    ),
    "a byte changed": (
        ValueError,
        lambda h, good, other: send(h, flipped(good)),
    ),
    "another architecture": (ValueError, lambda h, good, other: send(h, other)),
}


# the socket of a download that was cut short is left to the garbage collector by Python's urllib
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("case", BAD)
def test_bad_answer(case, publisher, published, cache, model):
    error, answer = BAD[case]
    publisher.answer = lambda handler: answer(handler, published.data, published.other)
    with fails(error, publisher.address, model) as caught:
        loading.load(model, MICRO)
    if error is ValueError:
        assert "is not the official sMLPNet-micro checkpoint" in str(caught.value)
    else:
        assert str(cache / MICRO.checkpoint) in str(caught.value)
    assert len(publisher.paths) == 1
    assert entries(cache) == []
    assert contents(cache.parents[1]) == []
    publisher.answer = lambda handler: send(handler, published.data)
    assert_good(download.fetch(MICRO), published, cache, model)


def test_nothing_outside_the_cache(publisher, tmp_path, cache, monkeypatch):
    # get_file's fallback, /tmp/.keras, would hand a later call what an earlier one left there
    fallback = Path("/tmp/.keras")
    before = contents(fallback)
    publisher.answer = lambda handler: send(handler, b"<html>")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", "~/keras")
    with pytest.raises(ValueError, match="official"):
        download.fetch(MICRO)
    assert contents(fallback) == before
    assert contents(tmp_path) == []


@pytest.mark.parametrize("base", ["ftp", "C:\\mirror", "mirror/v1"])
def test_base_address_of_no_kind(base, publisher, cache, monkeypatch):
    monkeypatch.setenv("KERAS_SMLP_WEIGHTS_URL", base)
    with pytest.raises(RuntimeError, match=re.escape(f"{base}/smlp_micro.pth")):
        download.fetch(MICRO)
    assert entries(cache) == []


def test_interrupted_while_it_is_checked(publisher, published, cache, monkeypatch, model):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "sha256", interrupted)
        with fails(KeyboardInterrupt, "", model):
            loading.load(model, MICRO)
    assert entries(cache) == []
    assert_good(download.fetch(MICRO), published, cache, model)


def test_interrupted_download(publisher, published, cache, model):
    stalled = threading.Event()

    def answer(handler):
        send(handler, published.data[: len(published.data) // 2], length=len(published.data))
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
        with fails(KeyboardInterrupt, "", model):
            loading.load(model, MICRO)
    finally:
        signal.signal(signal.SIGINT, before)
        stalled.set()
    assert len(publisher.paths) == 1
    assert entries(cache) == []
    publisher.answer = lambda handler: send(handler, published.data)
    assert_good(download.fetch(MICRO), published, cache, model)


# ---- no network ---------------------------------------------------------------------------------
def test_no_network_and_the_file_by_hand(publisher, published, cache, model):
    publisher.close()
    by_hand = cache / "smlp_micro.pth"
    with fails(RuntimeError, publisher.address, model) as caught:
        loading.load(model, MICRO)
    for part in (f"place the file at {by_hand}", "KERAS_SMLP_WEIGHTS_URL"):
        assert part in str(caught.value)
    assert entries(cache) == []

    for data in (published.other, published.data[:-1], b""):
        by_hand.write_bytes(data)
        with fails(ValueError, f"{by_hand} is not the official", model):
            loading.load(model, MICRO)
        assert contents(cache) == ["smlp_micro.pth"]
        assert by_hand.read_bytes() == data

    by_hand.write_bytes(published.data)
    assert_good(download.fetch(MICRO), published, cache, model)
    assert json.loads((cache / RECORD).read_text())["origin"] == str(by_hand)
    assert publisher.paths == []


def test_the_file_by_hand_goes_before_the_network(publisher, published, cache, model):
    cache.mkdir(parents=True)
    (cache / "smlp_micro.pth").write_bytes(published.data)
    assert_good(download.fetch(MICRO), published, cache, model)
    assert publisher.paths == []


# ---- a cache that has changed -------------------------------------------------------------------
def edit_record(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


WEIGHTS_DAMAGE = {
    "one bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
}
RECORD_DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "not text": lambda path: path.write_bytes(b'{"sha256": "\xff\xfe"}'),
    "a list": lambda path: path.write_text("[]"),
    "a number": lambda path: path.write_text("1"),
    "no hash": lambda path: edit_record(path, lambda record: record.pop("sha256")),
    "null": lambda path: edit_record(path, lambda record: record.update(sha256=None)),
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *[pytest.param(MICRO.checkpoint, f, id=f"weights {n}") for n, f in WEIGHTS_DAMAGE.items()],
        *[pytest.param(RECORD, f, id=f"record {n}") for n, f in RECORD_DAMAGE.items()],
    ],
)
def test_changed_cache(name, damage, publisher, published, cache, model):
    cache.mkdir(parents=True)
    (cache / MICRO.checkpoint).write_bytes(published.data)
    assert_good(download.fetch(MICRO), published, cache, model)
    damage(cache / name)
    found = {p.name: p.read_bytes() for p in cache.iterdir()}
    message = f"remove them and {cache / RECORD} to fetch"
    for _ in range(2):
        with fails(ValueError, message, model):
            loading.load(model, MICRO)
    assert {p.name: p.read_bytes() for p in cache.iterdir()} == found
    assert publisher.paths == []  # it is the user who decides to download again


def test_a_removed_file_is_downloaded_again(publisher, published, cache, model):
    (cache / download.fetch(MICRO)).unlink()
    assert_good(download.fetch(MICRO), published, cache, model)
    assert len(publisher.paths) == 2


def test_a_folder_in_place_of_the_file(publisher, cache, model):
    (cache / MICRO.checkpoint).mkdir(parents=True)
    with fails(IsADirectoryError, str(cache / MICRO.checkpoint), model):
        loading.load(model, MICRO)
    assert publisher.paths == []


# ---- several processes --------------------------------------------------------------------------
@contextlib.contextmanager
def process():
    """This file as a process of its own, killed at the end."""
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def main():
    """Fetches, and prints the weights' hash."""
    print("\n" + weights_digest(loading.load(build(), MICRO)), flush=True)


def test_killed_in_the_download(publisher, published, cache, model):
    stalled, go_on = threading.Event(), threading.Event()
    half = len(published.data) // 2

    def stall(handler):
        send(handler, published.data[:half], length=len(published.data))
        stalled.set()
        go_on.wait(PATIENCE)

    publisher.answer = stall
    with process() as child:
        assert stalled.wait(PATIENCE), child.communicate()
        publisher.answer = lambda handler: send(handler, published.data)
        child.kill()
        child.wait(PATIENCE)
        go_on.set()
    (scratch,) = entries(cache)
    assert scratch.startswith(".smlp_micro-")
    # it is of no use to anyone, and the next download cleans up
    assert_good(download.fetch(MICRO), published, cache, model)
    assert len(publisher.paths) == 2


def test_other_folders_are_left_alone(publisher, published, cache):
    others = [".smlp_micronesia-1", "smlp_micro-1"]
    for name in others:
        (cache / name).mkdir(parents=True)
        (cache / name / "file").touch()
    download.fetch(MICRO)
    assert entries(cache) == sorted([*others, RECORD, MICRO.checkpoint])
    assert all((cache / name / "file").exists() for name in others)


@pytest.mark.deep
def test_concurrent_processes_download_once(publisher, published, cache, model):
    def answer(handler):
        time.sleep(1)  # the others come meanwhile, and wait
        send(handler, published.data)

    publisher.answer = answer
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process()) for _ in range(3)]
        outputs = [child.communicate(timeout=2 * PATIENCE) for child in children]
    assert [child.returncode for child in children] == [0] * 3, outputs
    wanted = weights_digest(published.model)
    assert [out.splitlines()[-1] for out, _ in outputs] == [wanted] * 3
    assert publisher.paths == ["/smlp_micro.pth"]
    assert_good(download.fetch(MICRO), published, cache, model)
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
    with pytest.raises(ValueError, match="`input_shape` must have 3 channels"):
        constructor(weights="imagenet", input_shape=(224, 224, 1), include_preprocessing=False)
    assert publisher.paths == []


# ---- the public path ----------------------------------------------------------------------------
@pytest.mark.deep
def test_small_from_end_to_end(publisher, cache, tmp_path):
    publisher.answer = lambda handler: send(handler, b"", status=404)
    with pytest.raises(RuntimeError, match="smlp_s.pth"):
        keras_smlp.SMLPNetSmall(weights="imagenet")
    assert entries(cache) == []

    official = trained_like(keras_smlp.SMLPNetSmall(drop_path_rate=0.0))
    keras_smlp.save_official(official, tmp_path / "smlp_s.pth")
    data = (tmp_path / "smlp_s.pth").read_bytes()
    assert len(data) > 194_000_000
    publisher.answer = lambda handler: send(handler, data)
    model = keras_smlp.SMLPNetSmall(weights="imagenet")
    assert publisher.paths == ["/smlp_s.pth"] * 2
    assert [x.path for x in model.weights] == [x.path for x in official.weights]
    for x, y in zip(model.get_weights(), official.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert contents(cache) == ["smlp_s.json", "smlp_s.pth"]

    publisher.close()
    features = keras_smlp.SMLPNetSmall(weights="imagenet", include_top=False, pooling="avg")
    assert features.output_shape == (None, 768)
    for x, y in zip(features.get_weights(), official.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(x, y)

    model.save(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), "uint8")
    wanted = keras.ops.convert_to_numpy(model(images))
    for path in cache.rglob("*.*"):
        path.unlink()
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again(images)), wanted)
    assert publisher.paths == ["/smlp_s.pth"] * 2


if __name__ == "__main__":
    main()
