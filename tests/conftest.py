"""Fixtures that tests share; `KERAS_BACKEND` says on which backend the tests run."""

import random
import subprocess

import numpy as np
import pytest

# Keras is imported in functions: pytest's own process, which starts those that do the tests, would
# import it first, and they would wait for that

# it compiles nothing; noxfile.py's first backend
QUICKEST = "torch"
# started first: at the end one of them would leave a processor idle
LONGEST = ("resume", "train", "cross_backend", "parity", "engines", "network", "export")


def pytest_ignore_collect(collection_path, config):
    """Does not even import a file whose tests are all `once` where these are not wanted."""
    if collection_path.suffix == ".py" and "not once" in config.option.markexpr:
        return "\npytestmark = pytest.mark.once\n" in collection_path.read_text() or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Puts the longest tests first; makes `quick_once` tests `deep` on TensorFlow and JAX."""
    import keras

    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)
    for item in items:
        is_quick = keras.backend.backend() == QUICKEST or item.get_closest_marker("quick_each")
        if item.get_closest_marker("quick_once") and not is_quick:
            item.add_marker(pytest.mark.deep)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Function from a variant's name to the path of its stand-in checkpoint (`.pth`)."""
    from keras_smlp.weights import pth
    from reference import stand_in

    folder = tmp_path_factory.mktemp("checkpoints")

    def path(variant):
        file = folder / f"{variant}.pth"
        if not file.exists():
            pth.write(file, stand_in.state_dict(variant))
        return file

    return path


@pytest.fixture(scope="session")
def micro(checkpoint):
    """A micro network with the stand-in weights. Shared: do not change it."""
    from helpers import nets

    return nets.build("micro", weights=checkpoint("micro"))


@pytest.fixture
def small_disk(tmp_path):
    """Function from a size, as mount takes it, to a folder that holds no more."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]).returncode:
            pytest.skip("this machine mounts no tmpfs")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def hub_cache(tmp_path):
    """The folder of huggingface_hub's cache, which is not there yet."""
    return tmp_path / "hub"


@pytest.fixture
def hub(hub_cache, tmp_path, monkeypatch):
    """The Hugging Face hub, played on loopback, with an empty cache and without a token."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("huggingface_hub.constants")  # by itself the package imports no module
    from helpers.hugging_face import Hub

    server = Hub()
    changed = {
        "ENDPOINT": server.base,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.base + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(hub_cache),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_DISABLE_XET": True,  # a protocol and a server of its own
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }
    for name, value in changed.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()
    server.close()
    assert server.errors == []


def seed():
    # not keras.utils.set_random_seed, which would import TensorFlow on every backend
    random.seed(0)
    np.random.seed(0)


def pytest_fixture_setup(fixturedef):
    """What tests share does not depend on which test comes first."""
    if fixturedef.scope != "function":
        seed()


@pytest.fixture(autouse=True)
def fixed_seed():
    seed()
