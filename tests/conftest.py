"""Shared models and files; the same tests run on every backend (`KERAS_BACKEND`)."""

import random
import subprocess
import sys

import keras
import numpy as np
import pytest
import stand_in

import keras_smlp
from keras_smlp.weights import pth

BACKEND = keras.backend.backend()


def build(variant="micro", **arguments):
    """A network without preprocessing that answers with logits, as the golden files do."""
    dim, depths, side, classes = stand_in.VARIANTS[variant]
    return keras_smlp.SMLPNet(
        dim,
        depths,
        **{
            "input_shape": (side, side, 3),
            "classes": classes,
            "classifier_activation": None,
            "include_preprocessing": False,
            **arguments,
        },
    )


def trained_like(model, seed=0):
    """The model, with every weight drawn as if it had been trained."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = variable.shape
        if variable.name in ("gamma", "moving_variance"):
            values = rng.uniform(0.5, 1.5, shape)
        elif variable.name == "kernel":
            summed = shape[:2] if shape[-1] == 1 else shape[:-1]  # a depthwise kernel ends in 1
            values = rng.uniform(-1, 1, shape) / np.sqrt(np.prod(summed))
        else:
            values = rng.normal(0, 0.3, shape)
        variable.assign(values)
    return model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Function from a variant's name to the path of its stand-in checkpoint (`.pth`)."""
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
    return build("micro", weights=checkpoint("micro"))


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
def run_tool(monkeypatch):
    """Function that runs a module of tools/ with arguments, as a user does; the exit status."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, "argv", [tool.__file__, *map(str, arguments)])
        try:
            return tool.main()
        except SystemExit as stop:
            return stop.code

    return run


@pytest.fixture(autouse=True)
def fixed_seed():
    # not keras.utils.set_random_seed, which would import TensorFlow on every backend
    random.seed(0)
    np.random.seed(0)
