"""What is set on a model and its sublayers survives saving, cloning, pickling and copying."""

import copy
import pickle

import keras
import numpy as np
import pytest
from helpers.nets import answer, assert_same_weights, pixels
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_smlp
from keras_smlp.deploy.quantization import hidden_from_garbage_collection

pytestmark = pytest.mark.quick_once

SIZE = {"dim": 8, "depths": (1, 1), "input_shape": (16, 32, 3)}


def network(**arguments):
    return keras_smlp.SMLPNet(**{**SIZE, "classes": 3, **arguments})


def logits(**arguments):
    return network(classifier_activation=None, **arguments)


def body(**arguments):
    return network(include_top=False, pooling="avg", **arguments)


def stock_head(inner):
    """The documented way to fine-tune, with Keras' own model class."""
    return keras.Model(inner.input, keras.layers.Dense(2, name="mine")(inner.output))


def portable_head(inner):
    return keras_smlp.PortableModel(inner.input, keras.layers.Dense(2, name="mine")(inner.output))


def nested(inner):
    inputs = keras.Input(SIZE["input_shape"])
    return keras.Model(inputs, keras.layers.Dense(2, name="mine")(inner(inputs)))


def sequential(inner):
    return keras.Sequential([keras.Input(SIZE["input_shape"]), inner, keras.layers.Dense(2)])


def sublayers(layer):
    """All layers below a layer that can have weights, parents first."""
    below = getattr(layer, "layers", None) or [
        getattr(layer, x) for x in getattr(layer, "PARTS", ())
    ]
    for child in below:
        if isinstance(child, keras.layers.InputLayer):
            continue
        yield child
        yield from sublayers(child)


def flags(model):
    """Everything about a model that is trainable or not."""
    layers = [(x.name, x.trainable) for x in sublayers(model)]
    return layers, [(v.path.split("/")[-1], v.trainable) for v in model.variables]


def saved(model, folder):
    model.save(folder / "m.keras")
    return keras.saving.load_model(folder / "m.keras")


WAYS = {
    "save": saved,
    "clone": lambda model, _: keras.models.clone_model(model),
    "config": lambda model, _: type(model).from_config(model.get_config()),
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "copy": lambda model, _: copy.deepcopy(model),
}


# ---- trainable ----------------------------------------------------------------------------------
@pytest.mark.quick_each
@pytest.mark.parametrize("wrap", [stock_head, portable_head, nested, sequential])
def test_a_frozen_body_stays_frozen(wrap, tmp_path):
    inner = body()
    inner.trainable = False
    model = wrap(inner)
    assert len(model.trainable_variables) == 2
    loaded = saved(model, tmp_path)
    assert len(loaded.trainable_variables) == 2
    assert flags(loaded) == flags(model)
    assert_same_weights(loaded, model)


@pytest.fixture(scope="module", params=[stock_head, nested, sequential])
def wrapped(request):
    return request.param(body(dim=2, depths=(1,), drop_path_rate=0.1))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_pattern_of_flags_survives(wrapped, tmp_path_factory, data):
    """Also those that set a layer apart from the one around it, in either direction."""
    layers = list(sublayers(wrapped))
    wrapped.trainable = data.draw(st.booleans())
    orders = st.lists(st.tuples(st.sampled_from(range(len(layers))), st.booleans()), max_size=9)
    for number, flag in data.draw(orders):
        layers[number].trainable = flag
    way = data.draw(st.sampled_from(sorted(WAYS)))
    found = WAYS[way](wrapped, tmp_path_factory.mktemp("saved"))
    assert flags(found) == flags(wrapped), way


def test_one_variable_that_is_set_apart_stays_so(tmp_path):
    model = network()
    dense = model.get_layer("stage1_block1_channel_mixing").dense1
    dense.bias.trainable = False
    model.get_layer("stage2_block1_token_mixing").trainable = False
    model.get_layer("stage2_block1_token_mixing").mix.height.bias.trainable = True
    for way in WAYS.values():
        assert flags(way(model, tmp_path)) == flags(model)


def test_statistics_of_a_batch_norm_that_is_frozen_alone_stay(tmp_path):
    model = network()
    model.get_layer("stage1_block1_token_mixing").norm2.trainable = False
    loaded = saved(model, tmp_path).get_layer("stage1_block1_token_mixing")
    before = [np.array(norm.moving_mean) for norm in (loaded.norm1, loaded.norm2)]
    loaded(np.random.normal(size=(2, 4, 8, 8)).astype("float32"), training=True)
    after = [np.array(norm.moving_mean) for norm in (loaded.norm1, loaded.norm2)]
    assert (after[0] != before[0]).any() and (after[1] == before[1]).all()


def test_a_layer_frozen_before_it_is_built_is_frozen_throughout():
    x = np.zeros((1, 4, 4, 2), "float32")
    frozen, config = keras_smlp.layers.TokenMixing(trainable=False), None
    frozen(x)
    assert not any(v.trainable for v in frozen.variables)
    frozen.norm1.trainable = True
    config = frozen.get_config()
    layer = type(frozen).from_config(config)
    assert layer.get_config() == config
    layer.trainable = True  # what is set last counts
    layer(x)
    assert layer.norm1.trainable and layer.norm2.trainable and "parts" not in layer.get_config()


def test_a_config_with_unknown_parts_is_refused():
    with pytest.raises(ValueError, match="`parts` of a SparseMLP .*Received: .'norm1'"):
        keras_smlp.layers.SparseMLP(parts={"trainable": {"norm1": False}})


def test_another_size_keeps_what_is_frozen():
    model = network()
    model.get_layer("stem").trainable = False
    model.get_layer("stage1_block1_token_mixing").norm1.trainable = False
    assert flags(keras_smlp.resize_weights(model, (32, 32, 3))) == flags(model)


# ---- optimizers ---------------------------------------------------------------------------------
def frozen_body():
    inner = body()
    inner.trainable = False
    return stock_head(inner)


def adapted():
    model = logits(drop_path_rate=0.3)
    keras_smlp.enable_lora(model, 2, 6)
    return model


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


def values(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]


@pytest.mark.quick_each
@pytest.mark.parametrize("make", [frozen_body, adapted])
def test_a_compiled_model_keeps_its_optimizer(make, tmp_path):
    model = compiled(make())
    model.optimizer.build(model.trainable_variables)
    for variable in (*model.trainable_variables, *model.optimizer.variables[2:]):
        variable.assign(np.random.uniform(0.1, 1, variable.shape))
    loaded = saved(model, tmp_path)
    assert flags(loaded) == flags(model)
    for part in (lambda x: x, lambda x: x.optimizer):
        np.testing.assert_equal(values(part(loaded)), values(part(model)))


@pytest.mark.parametrize("make", [frozen_body, adapted])
def test_training_goes_on_as_if_it_had_not_been_saved(make, tmp_path):
    model, x, y = compiled(make()), pixels(4, 16, 32, 3, dtype="float32"), np.arange(4) % 2
    model.train_on_batch(x, y)
    others = [saved(model, tmp_path), copy.deepcopy(model)]
    before = values(model)
    for each in (model, *others):
        each.train_on_batch(x, y)
    assert any((a != b).any() for a, b in zip(values(model), before, strict=True))
    for other in others:
        np.testing.assert_equal(values(other), values(model))
        np.testing.assert_equal(values(other.optimizer), values(model.optimizer))


# ---- LoRA ---------------------------------------------------------------------------------------
def trained_like(model):
    for variable in model.trainable_variables:
        variable.assign(np.random.normal(0, 0.3, variable.shape))
    return model


@pytest.mark.parametrize("way", WAYS)
def test_lora_survives(way, tmp_path):
    model = trained_like(adapted())
    found = WAYS[way](model, tmp_path)
    assert flags(found) == flags(model)
    dense = found.get_layer("stage1_block1_channel_mixing").dense1
    assert (dense.lora_rank, dense.lora_alpha) == (2, 6)
    assert np.array(dense.lora_kernel_a).any()
    if way in ("save", "pickle", "copy"):
        assert_same_weights(found, model)


def test_weights_with_lora_load_anywhere(tmp_path):
    """Whole where the products are the same; as their sum where there are none, or others."""
    model, path, x = trained_like(adapted()), tmp_path / "m.weights.h5", pixels(2, 16, 32, 3)
    model.save_weights(path)
    whole, plain, another = adapted(), logits(), logits()
    keras_smlp.enable_lora(another, 2, 3)
    first = np.array(another.get_layer("stage1_block1_channel_mixing").dense1.lora_kernel_a)
    for each in (whole, plain, another):
        each.load_weights(path)
        np.testing.assert_allclose(answer(each, x), answer(model, x), atol=1e-5)
    assert_same_weights(whole, model)
    np.testing.assert_allclose(answer(logits(weights=path), x), answer(model, x), atol=1e-5)
    # a factor of zeros beside another of zeros could not be trained
    dense = another.get_layer("stage1_block1_channel_mixing").dense1
    np.testing.assert_array_equal(np.array(dense.lora_kernel_a), first)
    assert first.any() and not np.array(dense.lora_kernel_b).any()


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_lora_that_keras_quantizes_survives(tmp_path):
    model, x = trained_like(adapted()), pixels(2, 16, 32, 3)
    with hidden_from_garbage_collection():
        model.quantize("int8")
    loaded = saved(model, tmp_path)
    assert flags(loaded) == flags(model)
    np.testing.assert_equal(values(loaded), values(model))
    np.testing.assert_allclose(answer(loaded, x), answer(model, x), atol=1e-3)


def test_merging_keeps_a_head_of_several_layers():
    inner = body()
    head = keras.Sequential([keras.layers.Dense(5), keras.layers.Dense(2)], name="head")
    model = keras_smlp.PortableModel(inner.input, head(inner.output))
    keras_smlp.enable_lora(model, 2)
    trained_like(model)
    plain, x = keras_smlp.merge_lora(model), pixels(2, 16, 32, 3)
    np.testing.assert_allclose(answer(plain, x), answer(model, x), atol=1e-5)


class Subclass(keras_smlp.PortableModel):
    def __init__(self, classes):
        inner = body()
        super().__init__(inner.input, keras.layers.Dense(classes)(inner.output))


def test_what_lora_refuses_is_said():
    model = Subclass(2)
    keras_smlp.enable_lora(model, 2)
    with pytest.raises(ValueError, match="`model` must be a functional model .* a Subclass"):
        keras_smlp.merge_lora(model)
    with pytest.raises(ValueError, match="`model` must not be adapted by LoRA.*merge_lora"):
        keras_smlp.resize_weights(adapted(), (32, 32, 3))


# ---- a network that is a layer of another model -------------------------------------------------
def test_a_network_inside_another_model_is_named(tmp_path):
    model = sequential(body())
    with pytest.raises(
        ValueError, match="'sequential.*with the network 'smlpnet' as one of its la"
    ):
        keras_smlp.save_official(model, tmp_path / "m.pth")
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="as a layer of another model: load it with keras.saving"):
        body(weights=tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="has its sMLPNet as a layer of another model"):
        keras_smlp.load_model(tmp_path / "m.weights.h5")
