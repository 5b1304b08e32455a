"""Layers made of others: the dtype policies of their parts; and a subclass of `DropPath`."""

import keras
import numpy as np
import pytest
from helpers.nets import answer, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.dtype_policies import DTypePolicyMap

from keras_smlp.deploy.quantization import hidden_from_garbage_collection
from keras_smlp.layers import ChannelMixing, DropPath, SparseMLP, TokenMixing
from keras_smlp.layers.composite import Composite

pytestmark = pytest.mark.quick_once

INT8 = "int8_from_float32"


def sublayers(layer):
    for child in getattr(layer, "layers", None) or [getattr(layer, x) for x in layer.PARTS]:
        yield child
        if isinstance(child, Composite):
            yield from sublayers(child)


def keras_map(model):
    """The policies of a model's quantized layers, as Keras and KerasHub write them."""
    policies = DTypePolicyMap("float32")
    for layer in sublayers(model):
        if layer.quantization_mode is not None:
            policies[layer.path] = layer.dtype_policy
    return policies


@keras.saving.register_keras_serializable(package="tests")
class Backbone(keras.Model):
    """A thin wrapper as KerasHub has them: one dtype, policy or map, for all its layers."""

    def __init__(self, dtype=None, **kwargs):
        inputs = keras.Input((4, 6, 3))
        x = TokenMixing(name="block1_token_mixing", dtype=dtype)(inputs)
        x = ChannelMixing(2, name="block1_channel_mixing", dtype=dtype)(x)
        x = TokenMixing(name="block2_token_mixing", dtype=dtype)(x)
        x = keras.layers.Dense(2, name="last", dtype=dtype)(x)
        super().__init__(inputs, x, **kwargs)

    def get_config(self):
        policies = keras_map(self)
        dtype = keras.dtype_policies.serialize(policies) if len(policies) else "float32"
        return {"name": self.name, "trainable": self.trainable, "dtype": dtype}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "dtype": keras.dtype_policies.get(config["dtype"])})


PARTS = [
    "block1_token_mixing/mix/fuse",
    "block1_channel_mixing/dense1",
    "block1_channel_mixing/dense2",
    "block2_token_mixing/mix/fuse",
    "last",
]


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@settings(max_examples=4, deadline=None, derandomize=True)
@given(chosen=st.sets(st.sampled_from(PARTS), min_size=1))
def test_a_wrapper_with_a_map_of_layer_paths_reloads_quantized(chosen, tmp_path_factory):
    model, path = Backbone(), tmp_path_factory.mktemp("saved") / "m.keras"
    with hidden_from_garbage_collection():
        model.quantize("int8", filters=lambda layer: layer.path in chosen)
    assert set(keras_map(model)) == chosen
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert set(keras_map(loaded)) == chosen
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    np.testing.assert_allclose(answer(loaded, x), answer(model, x), atol=1e-4)


def test_paths_of_layers_may_be_those_of_parts_or_lie_deeper():
    policies = DTypePolicyMap(
        "float32", {"outer/inner/mine/dense1": INT8, "others": INT8, "outer/mine2/dense2": INT8}
    )
    layer = ChannelMixing(name="mine", dtype=policies)
    layer.build((None, 3))
    assert [x.quantization_mode for x in (layer, layer.dense1, layer.dense2)] == [
        None,
        "int8",
        None,
    ]
    assert "others" not in str(layer.get_config())
    own = DTypePolicyMap("float32", {"outer/mine": "mixed_bfloat16"})
    assert ChannelMixing(name="mine", dtype=own).compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    "keys",
    [
        ["dense3"],  # a slip
        ["mine/dense3"],
        ["mix/fuse"],  # another layer's part
        ["dense1", "mine/dense2"],  # of the layer, and of the model
        ["mine/.*"],
        ["dense[12]"],
        ["a/mine/dense1", "b/mine/dense1"],  # which?
    ],
)
def test_keys_that_cannot_be_are_refused(keys):
    policies = {
        key: f"mixed_{kind}" for key, kind in zip(keys, ("float16", "bfloat16"), strict=False)
    }
    with pytest.raises(
        ValueError, match="`dtype` of a ChannelMixing must be .*Received: "
    ) as caught:
        ChannelMixing(name="mine", dtype=DTypePolicyMap("float32", policies))
    assert any(key in str(caught.value) for key in keys)


def test_a_map_without_entries_is_its_policy():
    assert SparseMLP(dtype=DTypePolicyMap("mixed_bfloat16")).compute_dtype == "bfloat16"


@keras.saving.register_keras_serializable(package="tests")
class ScaledDropPath(DropPath):
    def build(self, input_shape):
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones")

    def call(self, x, training=None):
        return super().call(x, training=training) * self.scale


def test_a_subclass_of_drop_path_is_built(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, ScaledDropPath(0.5)(inputs))
    assert [tuple(v.shape) for v in model.trainable_variables] == [(3,)]
    x = draw(2, 3)
    np.testing.assert_allclose(answer(model, x), x)
    assert DropPath(0.5).built
