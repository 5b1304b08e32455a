"""Files in each format; for downloads a publisher on loopback, an empty cache, a model to fill."""

import os
import types

import pytest
from helpers.nets import FORMATS, assert_same_weights, saved_in_each_format, trained_like
from helpers.publisher import MICRO, RECORD, Publisher, build, left_in, weights_digest
from helpers.refusals import tiny

import keras_smlp
from keras_smlp.weights import download, loading


@pytest.fixture(scope="session")
def files(micro, tmp_path_factory):
    """Ending -> path of the micro network's weights in this format."""
    return saved_in_each_format(micro, tmp_path_factory.mktemp("formats"))


@pytest.fixture(params=FORMATS)
def file(request, files):
    """The micro network's weights, in each format in turn."""
    return files[request.param]


# ---- odd files ----------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def tiny_model():
    """A tiny network. Shared: do not change it."""
    return tiny()


@pytest.fixture(scope="session")
def tiny_files(tiny_model, tmp_path_factory):
    """Ending -> path of the tiny network's weights."""
    return saved_in_each_format(tiny_model, tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a pipe that nobody writes to and a file of somebody else."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "secret").write_bytes(bytes(10_000))
    return tmp_path


# ---- downloads ----------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """The small network as its publisher has it: file, bytes, model; another one's bytes."""
    folder = tmp_path_factory.mktemp("published")
    model, path = trained_like(build()), folder / MICRO.checkpoint
    keras_smlp.save_official(model, path)
    keras_smlp.save_official(build((1, 3)), folder / "other.pth")
    other = (folder / "other.pth").read_bytes()
    return types.SimpleNamespace(path=path, data=path.read_bytes(), model=model, other=other)


@pytest.fixture
def publisher(published, tmp_path, monkeypatch):
    """The server, asked by everything that runs in the test, and an empty cache."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Publisher()
    server.sends(published.data)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("KERAS_SMLP_WEIGHTS_URL", server.base)
    yield server
    server.close()
    assert server.errors == []


@pytest.fixture
def cache(publisher, tmp_path):
    """The folder of the cache, which is not there yet."""
    return tmp_path / "keras" / "models" / "keras_smlp"


@pytest.fixture(scope="session")
def shared_model():
    return build()


@pytest.fixture
def fetch_good(published, cache, shared_model):
    """Function that fetches the published file, alone in the cache but for its record: its path."""

    def fetch(folder=cache):
        path = download.fetch(MICRO)
        assert path == folder / MICRO.checkpoint and path.read_bytes() == published.data
        assert left_in(folder) == [RECORD, MICRO.checkpoint]
        model = trained_like(shared_model, seed=2)
        assert_same_weights(loading.load(model, path), published.model)
        return path

    return fetch


@pytest.fixture
def load_fails(shared_model):
    """Function: loading raises, and changes nothing: nobody goes on with random weights."""

    def load(error, *parts):
        model = trained_like(shared_model, seed=1)
        before = weights_digest(model)
        with pytest.raises(error) as caught:
            loading.load(model, MICRO)
        assert all(part in str(caught.value) for part in parts), caught.value
        assert weights_digest(model) == before

    return load
