"""`keras-smlp serve`: what it refuses, and both servers on loopback."""

import asyncio
import contextlib
import http.client
import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.nets import net
from helpers.processes import ROOT, environment, free_port
from PIL import Image

import keras_smlp
from keras_smlp_cli import serve
from keras_smlp_cli.serve import model

pytest.importorskip("uvicorn", reason="serves")
from keras_smlp_cli.serve import uploads  # noqa: E402

pytestmark = pytest.mark.once

NAMES = ["cat", "dog", "tench", "bird", "eel"]
CONNECTIONS = 30
SECONDS = 3  # in which a request must have arrived
HEADERS = {"content-type": "multipart/form-data; boundary=photo"}
FORM = b'--photo\r\ncontent-disposition: form-data; name="photo"; filename="a.jpg"\r\n\r\n'
END = b"\r\n--photo--\r\n"


@pytest.fixture
def folder(tmp_path):
    """What looks like a SavedModel."""
    (tmp_path / "saved_model.pb").touch()
    (tmp_path / model.METADATA).parent.mkdir()
    write_metadata(tmp_path)
    return tmp_path


def write_metadata(folder, **changes):
    about = {"class_names": NAMES, "output": "probabilities", **changes}
    (folder / model.METADATA).write_text(json.dumps(about))


# ---- before it serves ---------------------------------------------------------------------------
def test_a_folder_that_cannot_be_served_is_one_sentence(folder, refused):
    assert model.read_names(folder) == NAMES
    write_metadata(folder, class_names=None)
    assert "--classes" in refused(serve, f"{folder}")
    write_metadata(folder, output="unknown")
    assert "--outputs" in refused(serve, f"{folder}")
    (folder / model.METADATA).write_text("[]")
    assert f"{folder / model.METADATA} cannot be read" in refused(serve, f"{folder}")
    (folder / "saved_model.pb").unlink()
    assert f"{folder} has no saved_model.pb" in refused(serve, f"{folder}")


def test_a_port_in_use_is_one_sentence(folder, refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for server in serve.SERVERS:
            message = refused(serve, f"{folder} --port {port} --with {server}")
            assert f"127.0.0.1 and {port} cannot be used: Address already in use" in message


def test_wrong_arguments_are_one_sentence(folder, refused):
    assert "1 to 65535" in refused(serve, f"{folder} --port 65536")
    assert "positive integer" in refused(serve, f"{folder} --timeout 0")
    assert "1024 to 65535" in refused(serve, f"{folder} --with litserve --port 80")
    assert "--host must be an address or a name" in refused(serve, f"{folder} --host=")
    assert "allowed with litserve" in refused(serve, f"{folder} --with litserve --host localhost")


def test_a_missing_package_is_one_sentence(folder, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "litserve", None)
    monkeypatch.delitem(sys.modules, "keras_smlp_cli.serve.with_litserve", raising=False)
    message = refused(serve, f"{folder} --with litserve --port {free_port()}")
    assert 'litserve is not installed: pip install "keras-smlp[serve]"' in message


# ---- parts --------------------------------------------------------------------------------------
class Halves:
    """Stands for a `Model` whose photos are numbers; what is negative is damaged."""

    class tf:
        class errors:
            InvalidArgumentError = ArithmeticError

    names, top = NAMES, 2
    answers, named = model.Model.answers, model.Model.named
    calls = 0

    def probabilities(self, photos):
        self.calls += 1
        if min(photos) < 0:
            raise ArithmeticError
        return np.array([np.roll([0.5, 0.2, 0.2, 0.1, 0], photo) for photo in photos])


def test_one_damaged_photo_does_not_spoil_its_batch():
    found = Halves().answers([0, 1, -1, 3])
    assert isinstance(found[2], model.Refused) and found[2].status == 400
    assert [x["predictions"][0]["name"] for x in found if x is not found[2]] == [
        "cat",
        "dog",
        "bird",
    ]
    assert found[0] == {
        "predictions": [
            {"class": 0, "name": "cat", "probability": 0.5},
            {"class": 1, "name": "dog", "probability": 0.2},  # before its equal, tench
        ]
    }


def test_each_request_gets_its_own_answer_and_an_error_is_that_of_its_batch():
    batches = pytest.importorskip("keras_smlp_cli.serve.with_tensorflow").Batches
    sizes = []

    def answers(photos):
        sizes.append(len(photos))
        time.sleep(0.01)
        if "bug" in photos:
            raise KeyError
        return [photo.upper() for photo in photos]

    async def run():
        own = batches(answers)
        task = asyncio.create_task(own.run())
        first = await asyncio.gather(*(own.answer(f"photo {i}") for i in range(20)))
        (failed,) = await asyncio.gather(own.answer("bug"), return_exceptions=True)
        again = await own.answer("x")
        task.cancel()
        return first, failed, again

    first, failed, again = asyncio.run(run())
    assert first == [f"PHOTO {i}" for i in range(20)] and max(sizes) == 8
    assert isinstance(failed, KeyError) and again == "X"


def asked(*chunks, seconds=30, headers=(), delay=0.0):
    """The status and the text that `Uploads` answers with, and what it gives the application."""
    sent, seen = [], []
    waiting = iter(chunks)

    async def app(scope, receive, send):
        seen.append((await receive())["body"])

    async def receive():
        await asyncio.sleep(delay)
        chunk = next(waiting)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    async def send(message):
        sent.append(message)

    kind = (b"content-type", HEADERS["content-type"].encode())
    scope = {"type": "http", "method": "POST", "headers": [kind, *headers]}
    asyncio.run(uploads.Uploads(app, 100, seconds)(scope, receive, send))
    if not sent:
        return seen
    return sent[0]["status"], json.loads(sent[1]["body"])["detail"]


def test_a_request_is_read_up_to_its_limits():
    assert asked(b"a" * 60, b"b" * 40, b"") == [b"a" * 60 + b"b" * 40]
    too_large = (413, "the request must have at most 100 bytes")
    assert asked(headers=[(b"content-length", b"101")]) == too_large  # not read at all
    assert asked(b"a" * 60, b"b" * 41) == too_large
    late = (408, "the request must arrive within 0.2 s")
    assert asked(*[b"a"] * 50, delay=0.02, seconds=0.2) == late


def test_segments_are_counted_up_to_the_end_of_the_image():
    scan = b"\xff\xda\0\4ab" + b"data\xff\0\xff\xd0data"
    photo = b"\xff\xd8\xff\xe0\0\6\xff\xda\xff\xda" + scan + b"\xff\xff" + scan + b"\xff\xd9"
    assert model.segments_of(photo + scan, 9) == [b"\xe0", b"\xda", b"\xda"]
    assert model.segments_of(photo, 2) == [b"\xe0", b"\xda"]
    assert model.segments_of(photo[:30], 9) == [b"\xe0", b"\xda"]
    assert model.segments_of(b"\xff\xd8" + b"\xff\xe1" * 50, 9) == [b"\xe1"]
    # decoders skip an invalid marker alone, whatever length seems to follow
    hidden = b"\xff\x02\0\x0c\xff\xbf\0\x0a" + scan
    assert model.segments_of(photo[:-2] + hidden, 9) == [b"\xe0", b"\xda", b"\xda", b"\xda"]


# ---- servers ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A SavedModel of a small network, beside a copy of the folder `serve` alone."""
    folder = tmp_path_factory.mktemp("server")
    keras_smlp.export(net(), folder / "served", class_names=NAMES)
    shutil.copytree(Path(serve.__file__).parent, folder / "serve")
    for name in ("keras", "keras_smlp", "keras_smlp_cli"):  # the server has none of them
        (folder / f"{name}.py").write_text("raise ImportError('this is not to be imported')")
    return folder


@contextlib.contextmanager
def started(served, server, end=lambda process: process.terminate()):
    """A server in a process of its own, which a function ends; its port."""
    pytest.importorskip(server)
    port = free_port()
    command = [sys.executable, "-m", "serve", "served", "--with", server, "--port", str(port)]
    command += ["--timeout", str(SECONDS), "--max-mb", "1", "--connections", str(CONNECTIONS)]
    paths = environment(PYTHONPATH="")
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(command, cwd=served, env=paths, **options)
    try:
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError):
                if request(port, "GET", "/health")[0] == 200:
                    break
            time.sleep(0.2)
        yield port
    finally:
        end(process)
        try:
            _, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0 and "Traceback" not in err, err


@pytest.fixture(params=serve.SERVERS)
def server(request, served):
    """The port of each server."""
    with started(served, request.param) as port:
        yield port


def request(port, method, path, body=None, headers=None):
    """The status and the JSON object, or the text, of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read().decode()
    return response.status, json.loads(text) if text.startswith("{") else text


def post(port, photo):
    return request(port, "POST", "/predict", FORM + photo + END, HEADERS)


def jpegs(count, side=48):
    """JPEG files of noise."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (4, 4, 3)).astype("uint8")
        Image.fromarray(pixels).resize((side, side)).save(file, "jpeg")
        found.append(file.getvalue())
    return found


def connected(port, text):
    """A connection on which this was sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(text)
    return connection


@pytest.mark.deep
def test_answers_and_refusals(served, server):
    import tensorflow as tf

    # ---- each of many at a time gets its own answer
    photos = jpegs(24)
    expected = tf.saved_model.load(str(served / "served"))
    expected = expected.serve_jpeg(tf.constant(photos))["probabilities"].numpy()
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda photo: post(server, photo), photos)]
    for (status, answer), row in zip(found, expected, strict=True):
        predictions = answer["predictions"]
        assert status == 200 and len(predictions) == 5
        assert [x["name"] for x in predictions] == [NAMES[x["class"]] for x in predictions]
        assert predictions == sorted(predictions, key=lambda x: -x["probability"])
        own = sorted((x["class"], x["probability"]) for x in predictions)
        np.testing.assert_allclose([x[1] for x in own], row, atol=1e-5)

    # ---- damaged, of another kind, huge
    photo = photos[0]
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "png")
    large = io.BytesIO()
    Image.new("L", (8000, 7000)).save(large, "jpeg")
    refusals = {
        photo[: len(photo) // 2]: (400, "photo is a damaged JPEG file"),
        photo[:10]: (400, "photo is a damaged JPEG file"),
        png.getvalue(): (415, "photo must be a JPEG file, not PNG"),
        b"": (415, "photo must be a JPEG file, not another one"),
        bytes(1_100_000): (413, "the request must have at most 1000000 bytes"),
        large.getvalue(): (413, "photo must have at most 50000000 pixels, not 8000 x 7000"),
        photo[:-2] + b"\xff\xda\0\2" * 200: (
            413,
            "photo must have at most 100 scans, not 201 or more",
        ),
    }
    for content, (status, reason) in refusals.items():
        assert post(server, content) == (status, {"detail": reason})
    assert post(server, photo + b"\xff\xda\0\2" * 200)[0] == 200  # after the end of the image
    other = FORM.replace(b'name="photo"', b'name="other"') + photo + END
    status, answer = request(server, "POST", "/predict", other, HEADERS)
    assert status == 400 and "the form has no file photo" in answer["detail"]
    two = FORM + photo + b"\r\n" + FORM.replace(b'name="photo"', b'name="other"') + photo + END
    status, answer = request(server, "POST", "/predict", two, HEADERS)
    assert status == 400 and ("more than one" in answer["detail"] or "Too many" in answer["detail"])
    form = {"content-type": "multipart/form-data"}
    status, answer = request(server, "POST", "/predict", photo, form)
    assert status == 400 and "names no boundary" in answer["detail"]
    status, answer = request(server, "POST", "/predict", "{}", {"content-type": "text/json"})
    assert status == 415 and "multipart form" in answer["detail"]
    assert request(server, "GET", "/predict")[0] == 405 and request(server, "GET", "/x")[0] == 404

    # ---- slow ones, while others are answered
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=photo"
    length = b"\r\ncontent-length: 900000\r\n\r\n"
    begin = time.monotonic()
    bodies = [connected(server, head + length + FORM) for _ in range(8)]
    heads = [connected(server, head[:20]), connected(server, b"")]
    while (now := time.monotonic() - begin) < 2 * SECONDS:
        start = time.monotonic()
        assert post(server, photo)[0] == 200
        assert time.monotonic() - start < SECONDS  # 0.02 s alone: nobody waits for the slow ones
        for connection in bodies + heads[:1]:
            if now < SECONDS - 1:
                connection.sendall(b"a")
        time.sleep(0.2)
    for connection in bodies:
        with connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    for connection in heads:
        with connection:
            assert connection.recv(1000) == b""  # closed

    # ---- too many
    idle = [connected(server, b"") for _ in range(CONNECTIONS)]
    assert request(server, "GET", "/health")[0] == 503
    for connection in idle:
        connection.close()
    until = time.monotonic() + 5
    while (status := post(server, photo)[0]) == 503 and time.monotonic() < until:
        time.sleep(0.1)
    assert status == 200


@pytest.mark.deep
@pytest.mark.parametrize("server", serve.SERVERS)
def test_a_damaged_savedmodel_is_one_sentence(served, tmp_path, server):
    pytest.importorskip(server)
    shutil.copytree(served / "served", tmp_path / "served")
    (tmp_path / "served" / "saved_model.pb").write_bytes(b"no model")
    command = [sys.executable, "-m", "keras_smlp_cli", "serve", "served", "--with", server]
    done = subprocess.run(
        [*command, "--port", str(free_port())],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2, done.stderr
    assert "error: FOLDER: " in done.stderr.splitlines()[-1], done.stderr  # others are TensorFlow's


def test_the_folder_needs_neither_keras_nor_the_package():
    code = "import sys, keras_smlp_cli.serve; print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
    own = importlib.util.find_spec("keras_smlp_cli.serve").submodule_search_locations[0]
    for file in Path(own).glob("*.py"):
        assert "keras_smlp" not in "".join(
            line for line in file.read_text().splitlines() if "import" in line
        )


@pytest.mark.deep
@pytest.mark.parametrize("server", serve.SERVERS)
def test_ctrl_c_ends_all_processes_in_order(served, server):
    # as a terminal does it: every process of the group gets the signal
    end = lambda process: os.killpg(process.pid, signal.SIGINT)  # noqa: E731
    with started(served, server, end) as port:
        assert post(port, jpegs(1)[0])[0] == 200
