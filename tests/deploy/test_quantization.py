"""Dense layers in 8 bits and their files, 16-bit inference, low-rank fine-tuning."""

import gc

import keras
import numpy as np
import pytest
from helpers import nets
from helpers.nets import SMALL, answer, build, net, pixels

import keras_smlp
from keras_smlp.deploy.quantization import PYTHON_FROZEN_OBJECTS
from keras_smlp.layers import ChannelMixing, SparseMLP, TokenMixing
from keras_smlp.naming import dense_layers
from reference import stand_in
from reference.stand_in import relative

pytestmark = pytest.mark.quick_once

PARTS = ("token_mixing/mix/fuse", "channel_mixing/dense1", "channel_mixing/dense2")
PATHS = [f"stage{stage}_block1_{part}" for stage in (1, 2) for part in PARTS]
# PyTorch's convolutions round by where in memory a weight lies; 8 bits round that up
RELOADED = 1e-3


def values(model):
    return {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.variables}


# ---- 8 bits -------------------------------------------------------------------------------------
@pytest.mark.parametrize("folded", [False, True])
def test_a_quantized_file_loads_and_answers_the_same(folded, tmp_path):
    model = keras_smlp.fold(net()) if folded else net()
    x, variables = pixels(), len(model.variables)
    expected = answer(model, x)
    model.save(tmp_path / "full.keras")
    assert keras_smlp.quantize(model, "int8") == [*PATHS, "predictions"]
    assert sum(v.dtype == "int8" for v in model.variables) == 7
    assert len(model.variables) == variables + 7  # one vector of factors each
    model.save(tmp_path / "int8.keras")
    answers = answer(model, x)
    assert 0 < relative(answers, expected) < 0.05
    loaded = keras.saving.load_model(tmp_path / "int8.keras")  # a warning would be an error here
    assert relative(answer(loaded, x), answers) < RELOADED
    np.testing.assert_equal(values(loaded), values(model))
    loaded.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    assert relative(answer(again, x), answers) < RELOADED


def test_a_quantized_network_mostly_agrees_and_its_dense_layers_are_a_quarter(checkpoint):
    model = build(weights=checkpoint("micro"))

    def size():
        return sum(
            np.prod(v.shape) * (1 if v.dtype == "int8" else 4)
            for layer in dense_layers(model).values()
            for v in layer.variables
        )

    x, before = stand_in.images("micro", batch=32), size()
    expected = answer(model, x)
    keras_smlp.quantize(model)
    found = answer(model, x)
    assert relative(found, expected) < 0.05
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > 0.9
    assert size() < 0.3 * before


@pytest.mark.parametrize("frozen", [False, True])
def test_collecting_garbage_does_not_look_through_all_that_is_loaded(frozen, monkeypatch):
    """Keras collects once for each kernel; what somebody else set apart stays so."""
    model, looked_through = net(), []
    loaded = len(gc.get_objects())
    monkeypatch.setattr(gc, "collect", lambda: looked_through.append(len(gc.get_objects())))
    if frozen:
        gc.freeze()
    try:
        keras_smlp.quantize(model, "int8")
        assert (gc.get_freeze_count() > PYTHON_FROZEN_OBJECTS) == frozen
    finally:
        gc.unfreeze()
    assert looked_through and max(looked_through) < loaded / 5


def test_features_of_a_quantized_network():
    model, x = net(), pixels()
    before = answer(keras_smlp.feature_extractor(model), x)
    keras_smlp.quantize(model)
    after = answer(keras_smlp.feature_extractor(model), x)
    for level in before:
        assert 0 < relative(after[level], before[level]) < 0.05


@pytest.mark.parametrize("layer", [SparseMLP(), TokenMixing(), ChannelMixing(2)])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")  # Keras 3.15
@pytest.mark.filterwarnings("ignore:`model.quantize.*skipped")  # Keras 3.16
def test_a_layer_alone_reloads_quantized(layer, tmp_path):
    """Keras' own `quantize`, in a model of one's own."""
    inputs = keras.Input((4, 6, 3))
    model = keras.Model(inputs, type(layer).from_config(layer.get_config())(inputs))
    x = nets.draw(2, 4, 6, 3)
    expected = answer(model, x)
    model.quantize("int8")
    assert 0 < relative(answer(model, x), expected) < 0.05
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert relative(answer(loaded, x), answer(model, x)) < RELOADED
    config = model.layers[1].get_config()
    assert type(layer).from_config(config).get_config() == config  # before it is built, too


def test_a_map_of_policies_reaches_the_parts():
    policies = keras.dtype_policies.DTypePolicyMap(
        "mixed_bfloat16", {"norm1": "float32", "mix/width": "float32"}
    )
    layer = TokenMixing(dtype=policies)
    y = layer(np.zeros((1, 4, 4, 2), "float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    parts = (layer, layer.norm1, layer.conv, layer.mix, layer.mix.width, layer.mix.height)
    dtypes = [part.compute_dtype for part in parts]
    assert dtypes == ["bfloat16", "float32", "bfloat16", "bfloat16", "float32", "bfloat16"]
    copy = TokenMixing.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    with pytest.raises(ValueError, match="`dtype` of a ChannelMixing.*Received: .'norm1'"):
        ChannelMixing(dtype=policies)


# ---- 16 bits ------------------------------------------------------------------------------------
def test_inference_in_bfloat16(tmp_path):
    """The documented way: the same weights, in a model with another policy."""
    full, x = net(), pixels()
    full.save(tmp_path / "m.keras")
    half = keras_smlp.SMLPNet(
        **SMALL, classifier_activation=None, weights=tmp_path / "m.keras", dtype="bfloat16"
    )
    expected, answers = answer(full, x), answer(half, x)
    assert answers.dtype == "float32"
    assert 0 < relative(answers, expected) < 0.03
    assert {v.dtype for v in half.get_layer("stage1_block1_channel_mixing").weights} == {"bfloat16"}
    keras_smlp.quantize(half)
    assert relative(answer(half, x), expected) < 0.06


# ---- LoRA ---------------------------------------------------------------------------------------
def train(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05), loss)
    for _ in range(2):  # A moves once B is not zero
        assert np.isfinite(model.train_on_batch(pixels(), np.arange(3)))
    return model


@pytest.mark.quick_each
def test_lora_trains_the_products_and_the_head_alone():
    model, x = net(drop_path_rate=0.1), pixels()
    plain, expected = values(model), answer(model, x)
    assert keras_smlp.enable_lora(model, 2) == PATHS
    np.testing.assert_allclose(answer(model, x), expected, atol=1e-5)
    before = values(model)
    added = before.keys() - plain.keys()
    assert added == {f"{path}/lora_kernel_{x}" for path in PATHS for x in "ab"}
    head = {"predictions/kernel", "predictions/bias"}
    assert {v.path for v in model.trainable_variables} == added | head
    after = values(train(model))
    changed = {path for path in before if (after[path] != before[path]).any()}
    seeds = {path for path in before if "seed" in path}
    assert seeds and changed == added | head | seeds


@pytest.mark.parametrize(("policy", "alpha"), [("float32", None), ("mixed_bfloat16", 8)])
def test_merged_lora_answers_the_same(policy, alpha, tmp_path):
    model, x = net(drop_path_rate=0.1, dtype=policy), pixels()
    keras_smlp.enable_lora(model, 2, alpha)
    answers = answer(train(model), x)
    plain = keras_smlp.merge_lora(model)
    tolerance = 1e-5 if policy == "float32" else 1e-2
    assert relative(answer(plain, x), answers) < tolerance
    assert {v.path for v in plain.weights} == {v.path for v in net().weights}
    assert not plain.compiled
    assert all(layer.trainable for layer in plain.layers)
    dense = model.get_layer("stage1_block1_channel_mixing").dense1
    merged = np.array(plain.get_layer("stage1_block1_channel_mixing").dense1.kernel)
    own = {v.name: np.array(v) for v in dense.variables}
    added = (alpha or 2) / 2 * own["lora_kernel_a"] @ own["lora_kernel_b"]
    np.testing.assert_allclose(merged, own["kernel"] + added, rtol=1e-5, atol=1e-7)
    # random states go along, and Keras merges by itself when it saves
    np.testing.assert_array_equal(*map(nets.drop_path_states, (model, plain)))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", compile=False)
    assert relative(answer(loaded, x), answers) < tolerance
    assert keras_smlp.quantize(keras_smlp.fold(plain)) == [*PATHS, "predictions"]


def test_lora_leaves_a_head_of_ones_own():
    body = net(include_top=False, pooling="avg")
    y = keras.layers.Dense(4, activation="relu", name="hidden")(body.output)
    model = keras_smlp.PortableModel(body.input, keras.layers.Dense(5, name="mine")(y))
    assert keras_smlp.enable_lora(model, 2) == PATHS
    trained = {v.path.split("/")[0] for v in model.trainable_variables}
    assert trained == {path.split("/")[0] for path in PATHS} | {"hidden", "mine"}
    model.get_layer("mine").enable_lora(1)  # merged too
    answers = answer(train(model), pixels())
    plain = keras_smlp.merge_lora(model)
    assert relative(answer(plain, pixels()), answers) < 1e-5
    assert not any("lora" in v.path for v in plain.variables)
