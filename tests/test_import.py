"""What an import costs and what it must not pull in, each in a fresh process."""

import ast
import importlib
import sys

import pytest
from helpers.nets import BACKEND
from helpers.processes import python

HIDE = """
import importlib.util, sys

class Hidden:
    # found, as PyTorch asks whether some modules exist, but importing it raises
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec):
        raise ModuleNotFoundError(f"{{spec.name}} is hidden by the test")

    exec_module = create_module

sys.meta_path.insert(0, Hidden())
"""
USE = """
import os, tempfile
import keras, keras_smlp
import numpy as np

folder = tempfile.mkdtemp()
x = np.zeros((1, 32, 32, 3), "uint8")
model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
expected = keras.ops.convert_to_numpy(model(x))
keras_smlp.save_official(model, os.path.join(folder, "m.pth"))
keras_smlp.save_official(model, os.path.join(folder, "m.safetensors"))
model.save_weights(os.path.join(folder, "m.weights.h5"))
model.save(os.path.join(folder, "m.keras"))
for name in os.listdir(folder):
    path = os.path.join(folder, name)
    again = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3, weights=path)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(again(x)), expected, atol=1e-6)
loaded = keras.saving.load_model(os.path.join(folder, "m.keras"))
np.testing.assert_allclose(keras.ops.convert_to_numpy(loaded(x)), expected, atol=1e-6)
loaded.compile("sgd", "sparse_categorical_crossentropy")
assert np.isfinite(loaded.train_on_batch(x, np.zeros(1)))
"""


def output(code):
    """What a fresh process prints that runs this code."""
    return python("-c", code, KERAS_BACKEND=BACKEND).stdout


@pytest.mark.once  # on the others in an environment of its own, by `alone`
def test_one_backend_is_enough():
    """Build, save, load, port and train with the other two hidden, as if not installed."""
    others = {"tensorflow", "jax", "torch"} - {BACKEND}
    output(HIDE.format(hidden=others) + USE)


@pytest.mark.deep
@pytest.mark.once
def test_import_loads_nothing_that_keras_does_not():
    code = "import sys, keras; before = set(sys.modules); import keras_smlp; "
    code += "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    assert set(ast.literal_eval(output(code))) - sys.stdlib_module_names == {"keras_smlp"}


@pytest.mark.deep
@pytest.mark.once
def test_import_costs_at_most_a_tenth_of_keras():
    code = (
        "import time; a = time.perf_counter(); import keras; b = time.perf_counter(); "
        "import keras_smlp; c = time.perf_counter(); print((c - a) / (b - a))"
    )
    # the least of up to three
    assert any(float(output(code)) < 1.1 for _ in range(3))


@pytest.mark.once
def test_what_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)  # importing it raises
    for name in [x for x in sys.modules if x.startswith("keras_smlp.hubs.keras_hub")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError) as caught:
        importlib.import_module("keras_smlp.hubs.keras_hub")
    assert str(caught.value) == (
        "keras_smlp.hubs.keras_hub needs KerasHub, which could not be imported (import of "
        "keras_hub halted; None in sys.modules). To install it: "
        'pip install "keras-smlp[keras-hub]" && pip install --no-deps keras-hub'
    )


@pytest.mark.once
def test_public_names():
    import keras_smlp

    for name in ("layers", "SMLPNet", "SMLPNetTiny", "load_official", "fold", "quantize"):
        assert hasattr(keras_smlp, name), name
