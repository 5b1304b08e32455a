"""Arguments of all that is public: the same in other words, and what cannot be."""

import inspect
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.nets import answer, pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import keras_smlp
from keras_smlp import explain, layers
from keras_smlp.deploy.precision import with_precision

pytestmark = pytest.mark.quick_once

FUNCTIONS = [getattr(keras_smlp, name) for name in dir(keras_smlp)]
FUNCTIONS = [x for x in FUNCTIONS if inspect.isfunction(x)]
FUNCTIONS += [explain.grad_cam, explain.axial_kernels]
LAYERS = [getattr(layers, name) for name in dir(layers) if name[0].isupper()]
CLASSES = [keras_smlp.PortableModel, *LAYERS]

FEW = settings(max_examples=12, derandomize=True, deadline=None, database=None)
NET = {"dim": 8, "depths": (1, 1), "input_shape": (16, 16, 3), "patch_size": 2, "classes": 5}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A network, its files and a photo; what is made of it is made anew for each call."""
    folder = tmp_path_factory.mktemp("arguments")
    model = keras_smlp.SMLPNet(**NET)
    model.save(folder / "net.keras")
    keras_smlp.save_official(model, folder / "net.pth")
    Image.fromarray(pixels(20, 30, 3)).save(folder / "photo.png")
    return folder, model


# ---- the table ----------------------------------------------------------------------------------
def parameters_of(function):
    """The parameters of a function or of a class; up to Python 3.11.3 `signature` has others."""
    if not inspect.isclass(function):
        return list(inspect.signature(function).parameters.values())
    return list(inspect.signature(function.__init__).parameters.values())[1:]  # not `self`


def own(function):
    """The parameters of a function, or of a class but for those that are Keras' own."""
    parameters = parameters_of(function)
    keras_own = ("dtype", "parts") if function in LAYERS else ()
    return [x for x in parameters if x.name not in ("kwargs", *keras_own)]


@pytest.mark.once
@pytest.mark.parametrize("function", FUNCTIONS + CLASSES, ids=lambda x: x.__name__)
def test_what_is_public_has_hints_and_says_its_arguments(function):
    doc = inspect.getdoc(function)
    assert doc and doc.splitlines()[0].endswith(".")
    if inspect.isfunction(function):
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    for parameter in parameters_of(function):
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        star = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else ""
        if function in LAYERS and parameter.name in ("dtype", "parts"):
            continue  # Keras' own, under `**kwargs`; what `get_config` writes
        assert f"\n    {star}{parameter.name}: " in doc.partition("Args:")[2], parameter


@pytest.mark.once
def test_the_docstring_of_a_variant_is_whole_with_and_without_indentation():
    """Python 3.13 takes the indentation away, earlier ones keep it."""
    from keras_smlp.model import variant_doc

    small = keras_smlp.VARIANTS["small"]
    doc = inspect.cleandoc(keras_smlp.SMLPNet.__doc__)
    indented = doc.replace("\n", "\n    ") + "\n    "
    for text in (doc, doc + "\n", indented):
        made = variant_doc(text, "SMLPNetSmall", small)
        assert made == inspect.getdoc(keras_smlp.SMLPNetSmall) + "\n"
        assert made.startswith("sMLPNet-Small.\n\ndim=96")
        for line in (
            "    include_top: Boolean",
            "Raises:",
            "Reference:",
            ">>> model = keras_smlp.",
        ):
            assert f"\n{line}" in made
        assert "SMLPNet(16" not in made
    assert variant_doc(None, "SMLPNetSmall", small).startswith("sMLPNet-Small.")


# ---- the same in other words --------------------------------------------------------------------
def spellings(value):
    """What means the same as a plain value."""
    if isinstance(value, bool):
        return [value, np.bool_(value), np.array(value)]
    if isinstance(value, int):
        return [value, np.int64(value), np.uint16(value), np.array(value)]
    if isinstance(value, float):
        return [value, np.float64(value), np.float32(value), np.array(value, "float16")]
    if isinstance(value, Path):
        return [value, str(value), np.str_(value)]
    if isinstance(value, str):
        return [value, np.str_(value)]
    if isinstance(value, tuple):
        numpys = [spellings(x)[1] for x in value]
        array = [np.array(value)] if isinstance(value[0], int) else []
        return [value, list(value), numpys, tuple(numpys), *array]
    return [value]


def description(made):
    """What a call made, for comparison: configs as JSON, which knows Python's own types only."""
    if isinstance(made, (keras.Layer, keras.Model)):
        return json.dumps(made.get_config())
    return made


EQUAL_LAYERS = {
    layers.AxialLinear: {"axis": "width", "use_bias": False, "kernel_initializer": "zeros"},
    layers.DepthwiseConv: {"kernel_size": 5, "use_bias": True},
    layers.DropPath: {"rate": 0.25, "seed": 3},
    layers.TokenMixing: {"drop_path_rate": 0.125, "seed": 4},
    layers.ChannelMixing: {"expansion": 2, "drop_path_rate": 0.5, "seed": 5},
    layers.FoldedChannelMixing: {"expansion": 2},
    layers.FoldedTokenMixing: {},
    layers.SparseMLP: {},
    layers.Affine: {},
    layers.PatchConv: {"filters": 4, "kernel_size": (2, 3)},
}


@pytest.mark.parametrize("layer", LAYERS, ids=lambda x: x.__name__)
@FEW
@given(data=st.data())
def test_a_layer_in_other_words_is_the_same(layer, data):
    plain = {"name": "x", "dtype": "mixed_bfloat16", **EQUAL_LAYERS[layer]}
    policy = keras.DTypePolicy("mixed_bfloat16")
    policies = [policy, keras.dtype_policies.serialize(policy)]
    drawn = {key: data.draw(st.sampled_from(spellings(x)), key) for key, x in plain.items()}
    drawn["dtype"] = data.draw(st.sampled_from([drawn["dtype"], *policies]), "dtype")
    drawn["name"] = plain["name"]  # Keras' own argument
    assert description(layer(**drawn)) == description(layer(**plain))


NETWORK = {
    "dim": 8,
    "depths": (1, 1),
    "expansion": 2,
    "patch_size": 2,
    "include_top": True,
    "weights": None,
    "input_shape": (8, 12, 3),
    "classes": 3,
    "include_preprocessing": True,
    "drop_path_rate": 0.25,
    "name": "x",
    "dtype": "float32",
}


@pytest.mark.quick_each
@settings(FEW, max_examples=4)
@given(data=st.data())
def test_a_network_in_other_words_is_the_same(data):
    drawn = {key: data.draw(st.sampled_from(spellings(x)), key) for key, x in NETWORK.items()}
    made, expected = keras_smlp.SMLPNet(**drawn), keras_smlp.SMLPNet(**NETWORK)
    assert description(made) == description(expected)
    assert type(made.name) is str


@FEW
@given(data=st.data())
def test_a_call_in_other_words_answers_the_same(world, data):
    folder, model = world
    calls = {
        keras_smlp.list_models: {"pretrained": True},
        keras_smlp.decode_predictions: {"probabilities": np.eye(1000)[:1], "top": 2},
        keras_smlp.load_image: {"source": folder / "photo.png", "size": (8, 12), "resize_size": 16},
        keras_smlp.preprocess_input: {"images": pixels(9, 9, 3), "size": 8},
        keras_smlp.feature_extractor: {"model": model, "levels": ("P2", "P1")},
        explain.grad_cam: {"model": model, "images": pixels(2, 16, 16, 3), "class_index": (1, 2)},
        keras_smlp.load_model: {"path": folder / "net.pth", "compile": False, "key": "model"},
        keras_smlp.load_official: {"model": model, "path": folder / "net.pth", "key": "model"},
        keras_smlp.resize_weights: {"model": model, "input_shape": (8, 8, 3), "method": "linear"},
        with_precision: {"model": model, "precision": "bfloat16"},
    }
    function = data.draw(st.sampled_from(list(calls)), "function")
    plain = calls[function]
    drawn = {key: data.draw(st.sampled_from(spellings(x)), key) for key, x in plain.items()}
    np.testing.assert_equal(description(function(**drawn)), description(function(**plain)))


# ---- what cannot be -----------------------------------------------------------------------------
KINDS = {
    "none": st.none(),
    "boolean": st.booleans() | st.booleans().map(np.bool_),
    "positive": st.integers(1, 4) | st.integers(1, 4).map(np.int32),
    "zero or less": st.integers(max_value=0) | st.integers(-9, 0).map(np.int8),
    "huge": st.integers(min_value=2**31) | st.just(10**5000),
    "float": st.floats() | st.floats(width=32).map(np.float32),
    "complex": st.complex_numbers(),
    "text": st.text(st.characters(codec="utf-8"), max_size=9),
    "long text": st.just("x\n" * 300),
    "bytes": st.binary(max_size=9) | st.binary(max_size=9).map(bytearray),
    "dict": st.dictionaries(st.integers(1, 4), st.integers(1, 4)),
    "set": st.sets(st.integers(1, 4)),
    "generator": st.just(()).map(iter),
    "list": st.lists(st.none() | st.text(max_size=3) | st.floats(), min_size=1, max_size=3),
    "matrix": st.just(np.ones((2, 2), "int64")),
    "object": st.builds(object),
}
# by argument: the kinds that can be, wholly or in part
INTEGER, RATE, BOOLEAN = {"positive"}, {"float", "zero or less"}, {"boolean"}
SIZE = INTEGER | {"huge"}  # as large as memory allows: refused later, by the number of pixels
TEXT, OPTIONAL = {"text", "long text"}, {"none"}
MAY_BE = {
    "dim": INTEGER,
    "depths": set(),
    "expansion": INTEGER,
    "patch_size": INTEGER,
    "input_shape": OPTIONAL,
    "input_tensor": OPTIONAL,
    "classes": INTEGER,
    "filters": INTEGER,
    "kernel_size": INTEGER,
    "rank": INTEGER,
    "temperature": INTEGER | {"huge", "float"},
    "logits": {"matrix"},
    "labels": set(),
    "top": INTEGER,
    "size": INTEGER,
    "resize_size": INTEGER | OPTIONAL,
    "channels": INTEGER,
    "class_index": INTEGER | {"zero or less"} | OPTIONAL,
    "rate": RATE,
    "drop_path_rate": RATE | OPTIONAL,
    "alpha": INTEGER | OPTIONAL | {"huge", "float"},
    "seed": INTEGER | {"zero or less"} | OPTIONAL,
    "include_top": BOOLEAN,
    "include_preprocessing": BOOLEAN,
    "use_bias": BOOLEAN,
    "compile": BOOLEAN,
    "exif_orientation": BOOLEAN,
    "features": BOOLEAN,
    "pretrained": BOOLEAN,
    "axis": set(),
    "pooling": OPTIONAL,
    "method": set(),
    "mode": set(),
    "format": set(),
    "inputs": set(),
    "outputs": set(),
    "precision": set(),
    "name": TEXT | OPTIONAL,
    "key": TEXT,
    "origin": TEXT | OPTIONAL,
    "license": TEXT | OPTIONAL,
    "runtime": OPTIONAL,  # only for "web"
    "weights": OPTIONAL,
    "path": TEXT,  # `export` writes to any
    "source": set(),
    "levels": OPTIONAL,
    "class_names": OPTIONAL | {"list"},
    "classifier_activation": OPTIONAL,
    "kernel_initializer": OPTIONAL | {"matrix"},  # Keras takes arrays
    "bias_initializer": OPTIONAL | {"matrix"},
    "dtype": OPTIONAL,
    "model": set(),
    "images": {"matrix"},
    "probabilities": set(),
}


def calls(folder, model):
    """Each public function and layer, and what a call of it is right with."""
    net = {"model": model}
    x = pixels(1, 16, 16, 3)
    return {
        **EQUAL_LAYERS,
        layers.TokenMixing: {"drop_path_rate": 0.5, "seed": None},
        keras_smlp.SMLPNet: dict(NET),
        keras_smlp.SMLPNetTiny: {},
        keras_smlp.SMLPNetSmall: {},
        keras_smlp.SMLPNetBase: {},
        keras_smlp.list_models: {},
        keras_smlp.decode_predictions: {"probabilities": np.eye(1000)[:1]},
        keras_smlp.load_image: {"source": folder / "photo.png", "size": 8},
        keras_smlp.preprocess_input: {"images": pixels(9, 9, 3), "size": 8},
        keras_smlp.feature_extractor: net,
        keras_smlp.intermediate: {**net, "x": x},
        explain.grad_cam: {**net, "images": x},
        explain.axial_kernels: net,
        keras_smlp.load_model: {"path": folder / "net.pth"},
        keras_smlp.load_official: {**net, "path": folder / "net.pth"},
        keras_smlp.save_official: {**net, "path": folder / "other.pth"},
        keras_smlp.resize_weights: {**net, "input_shape": (8, 8, 3)},
        keras_smlp.fold: net,
        keras_smlp.freeze_batch_norm: net,
        keras_smlp.quantize: net,
        keras_smlp.enable_lora: {**net, "rank": 2},
        keras_smlp.merge_lora: net,
        keras_smlp.calibrate: {**net, "temperature": 2.0},
        keras_smlp.fit_temperature: {"logits": [[1.0, 0.0]] * 3, "labels": [0, 0, 1]},
        keras_smlp.export: {**net, "path": folder / "served"},
    }


@pytest.mark.once
def test_no_public_argument_is_left_out():
    listed = calls(Path(), None)
    assert set(listed) == {*FUNCTIONS, *LAYERS} - {keras_smlp.imagenet_classes}
    names = {x.name for function in listed for x in own(function)}
    assert names - {"x"} == set(MAY_BE)


@pytest.mark.once
@settings(FEW, max_examples=200)
@given(data=st.data())
def test_what_cannot_be_is_refused_in_one_sentence_with_its_name(world, data):
    listed = calls(*world)
    places = [(f, x.name) for f in listed for x in own(f) if x.name in MAY_BE]
    function, name = data.draw(st.sampled_from(places), "argument")
    wrong = data.draw(
        st.sampled_from(sorted(set(KINDS) - MAY_BE[name])).flatmap(KINDS.get), "value"
    )
    state = world[1].get_weights()
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        function(**{**listed[function], name: wrong})
    message = str(caught.value)
    assert f"`{name}`" in message, message
    assert len(message) < 700 and message.isprintable(), message
    np.testing.assert_equal(world[1].get_weights(), state)


@pytest.mark.once
@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        (
            keras_smlp.SMLPNet,
            {"dim": 10**400, "depths": (1,)},
            "`dim` must be a positive integer below 2147483648. Received: dim=1000",
        ),
        (
            keras_smlp.SMLPNet,
            {"dim": 8, "depths": (10**9,)},
            "`depths` must be a sequence of positive integers, at most 31 of up to 10000. "
            "Received: depths=(1000000000,)",
        ),
        (
            keras_smlp.SMLPNet,
            {"dim": 8, "depths": b"x"},
            "`depths` must be a sequence of positive integers. Received: depths=b'x'",
        ),
        (
            keras_smlp.SMLPNetTiny,
            {"include_top": "no"},
            "`include_top` must be True or False. Received: include_top='no'",
        ),
        (
            layers.DropPath,
            {"rate": float("nan")},
            "`rate` must be a number in [0, 1). Received: rate=nan",
        ),
        (
            layers.DropPath,
            {"rate": 0.1, "seed": 2**31},
            "`seed` must be None or an integer from -2147483648 to 2147483647. "
            "Received: seed=2147483648",
        ),
        (
            layers.AxialLinear,
            {"axis": ["width"]},
            "`axis` must be one of ('height', 'width'). Received: axis=['width']",
        ),
        (
            keras_smlp.load_image,
            {"source": "a\0b"},
            "`source` must be the path of an image file or its content in bytes. "
            "Received: source='a\\x00b'",
        ),
        (
            keras_smlp.decode_predictions,
            {"probabilities": np.full((1, 1000), np.nan)},
            "`probabilities` must be finite numbers. Received: 1000 of 1000 in a row",
        ),
    ],
)
def test_sentences(function, arguments, sentence):
    with pytest.raises(ValueError) as caught:
        function(**arguments)
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("alpha", [True, float("inf"), float("nan"), 0, 10**400, "1"])
def test_alpha_that_cannot_be(world, alpha):
    with pytest.raises(ValueError, match="^`alpha` must be None or a positive number. Received"):
        keras_smlp.enable_lora(world[1], 2, alpha)
    assert not any(
        layer.lora_enabled for layer in world[1].layers if hasattr(layer, "lora_enabled")
    )


# ---- what is set globally -----------------------------------------------------------------------
@pytest.fixture
def globally():
    """Sets Keras' configuration; afterwards it is as it was."""
    yield keras.config
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def test_channels_first_changes_nothing(world, globally):
    """A network is channels-last whatever Keras is set to, so that others can transpose around."""
    folder, model = world
    expected = answer(model, pixels(2, 16, 16, 3))
    globally.set_image_data_format("channels_first")
    loaded = keras.saving.load_model(folder / "net.keras")
    built = keras_smlp.SMLPNet(**NET, weights=folder / "net.keras")
    folded = keras_smlp.fold(loaded)
    for net in (model, loaded, built, keras_smlp.load_model(folder / "net.pth"), folded):
        np.testing.assert_allclose(answer(net, pixels(2, 16, 16, 3)), expected, atol=1e-5)
    inputs = keras.Input((3, 16, 16))
    body = keras_smlp.SMLPNet(**NET, input_tensor=keras.layers.Permute((2, 3, 1))(inputs))
    body.set_weights(model.get_weights())
    images = np.moveaxis(pixels(2, 16, 16, 3), -1, 1)
    np.testing.assert_allclose(answer(body, images), expected, atol=1e-5)
    maximum = keras_smlp.SMLPNet(**NET, include_top=False, pooling="max")
    assert maximum.output_shape == (None, 16)
    loaded.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(loaded.train_on_batch(pixels(2, 16, 16, 3), np.array([0, 4])))


@pytest.mark.quick_each
@pytest.mark.parametrize("policy", ["float64", "int8_from_float32", "float8_from_mixed_bfloat16"])
def test_a_global_policy_that_cannot_be(world, globally, policy):
    folder, model = world
    expected = answer(model, pixels(2, 16, 16, 3))
    globally.set_dtype_policy(policy)
    sentence = f"^`dtype` must be an unquantized .* global .*Received: dtype=.*{policy}[^.]*$"
    with pytest.raises(ValueError, match=sentence):
        keras_smlp.SMLPNet(**NET)
    with pytest.raises(ValueError, match=sentence):
        keras_smlp.load_model(folder / "net.pth")  # has no policy of its own
    loaded = keras.saving.load_model(folder / "net.keras")  # has one
    given = keras_smlp.SMLPNet(**NET, weights=folder / "net.pth", dtype="float32")
    for net in (loaded, given):
        np.testing.assert_allclose(answer(net, pixels(2, 16, 16, 3)), expected, atol=1e-5)
    if policy != "float64":
        for layer, arguments in EQUAL_LAYERS.items():
            with pytest.raises(ValueError, match=f"^`dtype` must be unquantized .*{policy}"):
                layer(**arguments)


def test_a_global_floatx_of_64_bits(world, globally):
    folder, model = world
    globally.set_floatx("float64")
    globally.set_dtype_policy("float32")
    built = keras_smlp.SMLPNet(**NET, weights=folder / "net.pth")
    assert {v.dtype for v in built.weights} == {built.input.dtype} == {"float32"}
    expected = answer(model, pixels(2, 16, 16, 3))
    np.testing.assert_allclose(answer(built, pixels(2, 16, 16, 3)), expected, atol=1e-5)
