"""Files that hold more than a network wants, no numbers, or other names: bounds of every reader."""

import os
import re

import keras
import numpy as np
import pytest
import safetensors.numpy
from helpers.nets import assert_same_weights, save
from helpers.refusals import refused, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_smlp
from keras_smlp.weights import identify, loading, official, pth

pytestmark = pytest.mark.once


# ---- what no variable wants ---------------------------------------------------------------------
@pytest.mark.parametrize("ending", official.ENDINGS)
def test_a_large_tensor_is_not_read(ending, here, tiny_model, tiny_files):
    path = here / f"large{ending}"
    tensors = pth.read(tiny_files[".pth"])
    del tensors["mlp_head.0.bias"]
    tensors["large"] = np.zeros(30 << 20, "float32")
    if ending == ".safetensors":
        safetensors.numpy.save_file(tensors, path)
    else:
        pth.write(path, tensors)
    tensors.clear()
    refused(tiny_model, path, "missing: mlp_head.0.bias; unexpected: large")


def test_a_network_larger_than_its_file_is_not_built(here, tiny_files):
    tensors = pth.read(tiny_files[".pth"])
    tensors["to_patch_embedding.0.0.weight"] = np.zeros((20_000, 3, 4, 4), "float32")
    pth.write(here / "large.pth", tensors)
    with pytest.raises(ValueError, match=r"large.pth holds no whole sMLPNet.*dim=20000"):
        keras_smlp.load_model(here / "large.pth")


@settings(derandomize=True, deadline=None, max_examples=10)
@given(
    dim=st.integers(1, 6),
    depths=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    expansion=st.integers(1, 4),
    patch_size=st.integers(1, 3),
    sides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    classes=st.none() | st.integers(1, 4),
)
def test_the_size_of_an_architecture(dim, depths, expansion, patch_size, sides, classes):
    shape = (*(side * patch_size * 2 ** (len(depths) - 1) for side in sides), 3)
    found = identify.Architecture(dim, tuple(depths), expansion, patch_size, shape, classes)
    model = keras_smlp.SMLPNet(**found.arguments(), drop_path_rate=0.0)
    assert found.values() == sum(np.prod(v.shape) for v in model.weights)


# ---- values that are no numbers -----------------------------------------------------------------
@settings(derandomize=True, deadline=None, max_examples=6)
@given(
    ending=st.sampled_from([".pth", ".safetensors", ".weights.h5", ".keras"]),
    place=st.integers(0, 10**6),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_a_value_that_is_not_finite_is_refused_wherever_it_is(
    ending, place, value, tiny_model, tmp_path_factory
):
    path = tmp_path_factory.mktemp("nan") / f"bad{ending}"
    variable = tiny_model.weights[place % len(tiny_model.weights)]
    good = keras.ops.convert_to_numpy(variable).copy()
    bad = good.copy()
    bad.flat[place % bad.size] = value
    variable.assign(bad)
    save(tiny_model, path)
    variable.assign(good)
    before = tiny_model.get_weights()
    for load in (loading.load, lambda _, path: keras_smlp.load_model(path)):
        with pytest.raises(ValueError, match="must be finite numbers. Received: .* 1 of"):
            load(tiny_model, path)
    np.testing.assert_equal(tiny_model.get_weights(), before)


def test_a_network_that_is_a_layer_is_looked_at(here):
    network = tiny()
    network.get_layer("stem").kernel.assign(network.get_layer("stem").kernel * np.nan)
    inputs = keras.Input(network.input_shape[1:])
    inner = keras.Sequential([inputs, network])
    keras.Model(inputs, inner(inputs)).save(here / "mine.keras")
    with pytest.raises(ValueError, match="mine.keras must be finite numbers"):
        keras_smlp.load_model(here / "mine.keras")


def test_other_peoples_layers_may_hold_anything(here):
    body = tiny(include_top=False, pooling="avg")
    mask = keras.layers.Dense(2, bias_initializer=keras.initializers.Constant(-np.inf), name="mask")
    head = keras.Sequential([mask], name="predictions")  # a name of the network's
    keras.Model(body.input, head(body.output)).save(here / "mine.keras")
    with pytest.raises(ValueError, match="mine.keras must be finite numbers"):
        keras_smlp.load_model(here / "mine.keras")
    keras.Model(body.input, mask(body.output)).save(here / "mine.keras")
    assert np.isinf(keras_smlp.load_model(here / "mine.keras").get_weights()[-1]).all()


def test_predictions_that_are_not_finite():
    with pytest.raises(ValueError, match="`probabilities` must be finite numbers.*1 of 1000"):
        keras_smlp.decode_predictions(np.where(np.arange(1000) == 3, np.nan, 0.1)[None])


# ---- .pth files of other programs ---------------------------------------------------------------
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_names_of_a_wrapped_network(prefix, here, tiny_model, tiny_files):
    tensors = pth.read(tiny_files[".pth"])
    pth.write(here / "wrapped.pth", {prefix + name: x for name, x in tensors.items()})
    assert_same_weights(tiny(weights=here / "wrapped.pth"), tiny_model)
    pth.write(here / "half.pth", {"module.mlp_head.0.bias": tensors["mlp_head.0.bias"]} | tensors)
    with pytest.raises(ValueError, match="unexpected: module.mlp_head.0.bias"):
        tiny(weights=here / "half.pth")


@pytest.mark.parametrize("ending", [".pt", ".pth.tar", ".ckpt", ".bin"])
def test_other_endings_of_pytorchs_files(ending, here, tiny_model, tiny_files):
    path = here / f"m{ending}"
    path.write_bytes(tiny_files[".pth"].read_bytes())
    assert_same_weights(tiny(weights=path), tiny_model)
    assert_same_weights(keras_smlp.load_model(path), tiny_model)
    with pytest.raises(ValueError, match=re.escape("must end in one of ('.pth', '.safetensors')")):
        keras_smlp.save_official(tiny_model, path)


def test_a_file_of_another_architecture_says_so(here, tiny_files):
    with pytest.raises(
        ValueError, match=r"network with dim=8, depths=\(1, 1\), the model has dim=4"
    ):
        keras_smlp.SMLPNet(4, (1, 2), input_shape=(32, 32, 3), weights=tiny_files[".keras"])


def test_a_pipe_is_no_file(here):
    with pytest.raises(ValueError, match="fifo.pth is no regular file"):
        os.rename("fifo", "fifo.pth")
        identify.infer(here / "fifo.pth")


def test_nothing_is_converted_before_all_is_checked(tiny_model, here, monkeypatch):
    body = tiny(include_top=False)
    monkeypatch.setattr(official.ops, "convert_to_numpy", lambda x: pytest.fail("converted"))
    with pytest.raises(ValueError, match="classifier"):
        keras_smlp.save_official(body, here / "m.pth")
