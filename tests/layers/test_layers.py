"""Each layer alone: its arithmetic against NumPy, its shapes, its config, its errors."""

import math

import keras
import numpy as np
import pytest
from helpers.nets import answer, draw
from keras import ops

import keras_smlp
from keras_smlp.layers import (
    Affine,
    AxialLinear,
    ChannelMixing,
    DepthwiseConv,
    DropPath,
    FoldedChannelMixing,
    FoldedTokenMixing,
    PatchConv,
    SparseMLP,
    TokenMixing,
)
from keras_smlp.layers.drop_path import batch_part
from keras_smlp.layers.initializers import TorchUniform


def numpy(x):
    return ops.convert_to_numpy(x)


def erf_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


# ---- axial ------------------------------------------------------------------------------------
# maps where sizes collide too: on TensorFlow a bias that fits another axis goes astray (H == W)
SHAPES = [(2, 5, 7, 3), (2, 6, 6, 4), (1, 4, 4, 4), (3, 1, 6, 6), (2, 6, 1, 6), (1, 1, 1, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("axis", "equation"), [("width", "vw,bhwc->bhvc"), ("height", "gh,bhwc->bgwc")]
)
def test_axial_linear_mixes_its_axis(shape, axis, equation):
    x, layer = draw(*shape), AxialLinear(axis, bias_initializer="random_normal")
    y = numpy(layer(x))
    kernel, bias = numpy(layer.kernel), numpy(layer.bias)
    bias = bias[:, None] if axis == "width" else bias[:, None, None]
    np.testing.assert_allclose(y, np.einsum(equation, kernel, x) + bias, atol=1e-5)
    assert layer.compute_output_shape(shape) == shape == y.shape


def test_axial_linear_without_bias():
    layer = AxialLinear("height", use_bias=False)
    layer(draw(1, 4, 3, 2))
    assert layer.bias is None and [v.name for v in layer.variables] == ["kernel"]


def test_axial_linear_in_a_functional_model_of_unknown_batch_and_other_axis():
    x = draw(2, 5, 7, 3)
    for axis, shape in {"height": (5, None, 3), "width": (None, 7, 3)}.items():
        inputs = keras.Input(shape)
        layer = AxialLinear(axis)
        model = keras.Model(inputs, layer(inputs))
        np.testing.assert_allclose(model.predict_on_batch(x), numpy(layer(x)), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_sparse_mlp_fuses_identity_width_and_height_in_this_order(shape):
    x, layer = draw(*shape), SparseMLP()
    y = numpy(layer(x))
    branches = [x, numpy(layer.width(x)), numpy(layer.height(x))]
    expected = np.concatenate(branches, -1) @ numpy(layer.fuse.kernel)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    paths = sorted(v.path.split("/", 1)[1] for v in layer.variables)
    assert " ".join(paths) == "fuse/kernel height/bias height/kernel width/bias width/kernel"


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (2, 3, 7, 3), (2, 3, 3, 3)])
def test_channel_biases_go_to_the_channels(shape):
    """Also where height or width are as many."""
    x, conv, affine = draw(*shape), DepthwiseConv(3, use_bias=True), Affine()
    expected = numpy(conv(x))
    bias, scale = draw(3), draw(3)
    conv.bias.assign(bias)
    np.testing.assert_allclose(numpy(conv(x)), expected + bias, atol=1e-5)
    affine.build(x.shape)
    affine.scale.assign(scale)
    affine.shift.assign(bias)
    np.testing.assert_allclose(numpy(affine(x)), x * scale + bias, atol=1e-5)


def test_affine_keeps_its_weights_whole_in_16_bits():
    """As the folded normalization of pixels needs it: they are cast after the arithmetic."""
    layer = Affine(dtype="mixed_bfloat16")
    layer.build((None, 1))
    layer.scale.assign([1 + 2**-9])  # 1 in bfloat16
    layer.shift.assign([-1])
    y = layer(ops.ones((1, 1), "bfloat16"))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert numpy(ops.cast(y, "float32")).item() == 2**-9


# ---- drop path --------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(400, 3), (400, 2, 3), (400, 2, 3, 4), (400,)])
def test_drop_path_drops_whole_samples_and_rescales(shape):
    y = numpy(DropPath(0.25, seed=1)(np.ones(shape, "float32"), training=True)).reshape(400, -1)
    assert (y == y[:, :1]).all()
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.75], rtol=1e-6)
    assert 0.15 < (y[:, 0] == 0).mean() < 0.35


def test_drop_path_is_the_identity_at_inference_and_at_rate_0():
    x = draw(8, 3)
    for rate, training in [(0.5, False), (0.5, None), (0.0, True)]:
        np.testing.assert_array_equal(numpy(DropPath(rate)(x, training=training)), x)


def test_drop_path_is_seeded():
    x = np.ones((64, 1), "float32")
    first, second = DropPath(0.5, seed=3), DropPath(0.5, seed=3)
    draws = [numpy(layer(x, training=True)) for layer in (first, second, first)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    keras.utils.set_random_seed(7)
    third = numpy(DropPath(0.5)(x, training=True))
    keras.utils.set_random_seed(7)
    np.testing.assert_array_equal(third, numpy(DropPath(0.5)(x, training=True)))


def test_drop_path_of_parts_is_that_of_the_whole_batch():
    x, parts = np.ones((64, 3), "float32"), 4
    whole, part = DropPath(0.5, seed=3), [DropPath(0.5, seed=3) for _ in range(parts)]
    for _ in range(2):
        drawn = []
        for number, layer in enumerate(part):
            with batch_part(number, parts):
                drawn.append(numpy(layer(x[: 64 // parts], training=True)))
        np.testing.assert_array_equal(np.concatenate(drawn), numpy(whole(x, training=True)))


@pytest.mark.parametrize("seed", [None, 3])
def test_drop_path_saves_its_random_state(seed, tmp_path):
    """Keras loses it, and with it the exactness of a resumed training."""

    def make():
        inputs = keras.Input((3,))
        return keras.Model(inputs, DropPath(0.5, seed)(inputs))

    x, model, other = np.ones((64, 3), "float32"), make(), make()
    model(x, training=True)
    model.save_weights(tmp_path / "m.weights.h5")
    expected = numpy(model(x, training=True))
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(numpy(other(x, training=True)), expected)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="jax.jit is JAX's")
def test_drop_path_under_jit():
    import jax

    layer = DropPath(0.5, seed=3)
    step = jax.jit(lambda state, x: layer.stateless_call([], state, x, training=True))
    x, eager = np.ones((64, 1), "float32"), DropPath(0.5, seed=3)
    state = [layer.seed_generator.state.value]
    for _ in range(2):
        y, state = step(state, x)
        np.testing.assert_array_equal(y, numpy(eager(x, training=True)))


# ---- mixing -----------------------------------------------------------------------------------
def test_token_mixing_at_inference_equals_its_definition():
    x, layer = draw(2, 4, 6, 3), TokenMixing()
    layer.build(x.shape)
    for norm in (layer.norm1, layer.norm2):
        for variable in norm.variables:
            variable.assign(np.random.uniform(0.5, 1.5, variable.shape))

    def normalized(norm, y):
        gamma, beta, mean, variance = (numpy(v) for v in norm.variables)
        return (y - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    y = erf_gelu(normalized(layer.norm1, x)).astype("float32")
    y = erf_gelu(normalized(layer.norm2, numpy(layer.conv(y)))).astype("float32")
    np.testing.assert_allclose(numpy(layer(x)), x + numpy(layer.mix(y)), atol=1e-4)


def test_token_mixing_in_training_uses_and_tracks_batch_statistics():
    x, layer = 5 + 2 * draw(8, 4, 4, 3), TokenMixing()
    layer(x, training=False)
    np.testing.assert_array_equal(numpy(layer.norm1.moving_mean), 0)
    layer(x, training=True)
    np.testing.assert_allclose(numpy(layer.norm1.moving_mean), 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    layer.trainable = False
    before = numpy(layer.norm1.moving_mean)
    layer(x, training=True)
    np.testing.assert_array_equal(numpy(layer.norm1.moving_mean), before)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 5, 3), (2, 3)])
def test_channel_mixing_equals_its_definition(shape):
    x, layer = draw(*shape), ChannelMixing(expansion=2)
    y = numpy(layer(x))
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    kernels = [numpy(v) for v in (*layer.dense1.variables, *layer.dense2.variables)]
    hidden = erf_gelu(normed @ kernels[0] + kernels[1])
    np.testing.assert_allclose(y, x + hidden @ kernels[2] + kernels[3], atol=1e-4)
    assert kernels[0].shape == (3, 6)


def test_drop_path_of_a_block_drops_its_branch_only():
    x = draw(64, 2, 2, 3)
    for layer in (TokenMixing(0.5, seed=1), ChannelMixing(3, 0.5, seed=1)):
        y = numpy(layer(x, training=True))
        dropped = (y == x).all((1, 2, 3))
        assert 10 < dropped.sum() < 54


# ---- all --------------------------------------------------------------------------------------
LAYERS = [
    AxialLinear("height", use_bias=False),
    AxialLinear("width", kernel_initializer="zeros", bias_initializer="ones"),
    SparseMLP(),
    DepthwiseConv(5),
    DepthwiseConv(3, use_bias=True),
    PatchConv(5, 2),
    PatchConv(4, (1, 3), activation="relu"),
    DropPath(0.3, seed=5),
    TokenMixing(0.2, seed=6),
    ChannelMixing(4, 0.1, seed=7),
    Affine(),
    FoldedTokenMixing(),
    FoldedChannelMixing(4),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_config_and_file_round_trip(layer, tmp_path):
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
    inputs = keras.Input((4, 6, 3))
    model = keras.Model(inputs, type(layer).from_config(config)(inputs))
    for variable in model.variables:
        if not variable.path.endswith("seed_generator_state"):
            variable.assign(np.random.uniform(0.5, 1, variable.shape))
    model.save(tmp_path / "m.keras")
    x = draw(2, 4, 6, 3)
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(answer(loaded, x), answer(model, x))
    assert loaded.layers[1].get_config() == config


@pytest.mark.parametrize(
    "policy",
    ["mixed_bfloat16", "mixed_float16", pytest.param("bfloat16", marks=pytest.mark.quick_once)],
)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_policies_reach_the_sublayers(layer, policy):
    config = {**layer.get_config(), "dtype": policy}
    layer = type(layer).from_config(config)
    x = draw(2, 4, 6, 3)
    y = layer(ops.cast(x, layer.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    for variable in layer.weights:
        assert variable.dtype == layer.variable_dtype
    full = type(layer).from_config({**config, "dtype": "float32"})
    full.build(x.shape)
    full.set_weights(layer.get_weights())
    assert np.abs(numpy(ops.cast(y, "float32")) - numpy(full(x))).max() < 0.1


def test_a_sublayer_with_another_policy_is_cast():
    """A quantized or a float32 sublayer goes through its own `__call__`."""
    layer = ChannelMixing(2, dtype="mixed_bfloat16")
    layer.build((None, 3))
    layer.dense2.dtype_policy = keras.dtype_policies.get("float32")
    y = layer(ops.cast(draw(2, 3), "bfloat16"))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"


def test_initial_values_are_pytorchs():
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), weights and biases, the depthwise fan-in being 9."""
    model = keras_smlp.SMLPNet(64, (1, 1), input_shape=(64, 64, 3), classes=500)
    fans = {
        "stem/kernel": 48,
        "stage2_downsample/kernel": 4 * 64,
        "conv/kernel": 9,
        "stage1_block1_token_mixing/mix/width/kernel": 16,
        "stage1_block1_token_mixing/mix/width/bias": 16,
        "stage2_block1_token_mixing/mix/height/bias": 8,
        "stage1_block1_token_mixing/mix/fuse/kernel": 3 * 64,
        "stage1_block1_channel_mixing/dense1/kernel": 64,
        "stage1_block1_channel_mixing/dense1/bias": 64,
        "stage1_block1_channel_mixing/dense2/kernel": 3 * 64,
        "stage1_block1_channel_mixing/dense2/bias": 3 * 64,
        "predictions/kernel": 128,
        "predictions/bias": 128,
    }
    for ending, fan_in in fans.items():
        values = [numpy(v).ravel() for v in model.variables if v.path.endswith(ending)]
        assert values, ending
        values = np.concatenate(values) * math.sqrt(fan_in)
        assert values.min() >= -1 and values.max() <= 1, ending
        if values.size > 1000:
            assert values.max() > 0.98 and values.min() < -0.98, ending
            assert abs(values.std() - 1 / math.sqrt(3)) < 0.03, ending


def test_initial_values_are_seeded_and_the_same_on_every_backend():
    keras.utils.set_random_seed(1)
    first, second = (numpy(TorchUniform(4)((3,))) for _ in range(2))
    assert (first != second).all()
    np.testing.assert_allclose(
        first, [0.09783398360013962, 0.3905760645866394, -0.16527289152145386], rtol=1e-6
    )
    copy = TorchUniform.from_config(TorchUniform(4, seed=9).get_config())
    np.testing.assert_array_equal(numpy(copy((3,))), numpy(TorchUniform(4, seed=9)((3,))))


BAD = {
    "axis": (lambda: AxialLinear("depth"), "axis"),
    "axis missing": (lambda: AxialLinear(None), "axis"),
    "drop path 1": (lambda: DropPath(1.0), "rate"),
    "drop path negative": (lambda: DropPath(-0.1), "rate"),
    "drop path text": (lambda: DropPath("0.1"), "rate"),
    "even kernel": (lambda: DepthwiseConv(4), "kernel_size"),
    "strides of its own": (lambda: PatchConv(4, 2, strides=1), "strides"),
    "padded": (lambda: PatchConv(4, 3, padding="same"), "padding"),
    "kernel 0": (lambda: DepthwiseConv(0), "kernel_size"),
    "expansion 0": (lambda: ChannelMixing(0), "expansion"),
    "expansion 1.5": (lambda: ChannelMixing(1.5), "expansion"),
    "token mixing rate": (lambda: TokenMixing(2.0), "rate"),
    "no map": (lambda: AxialLinear("width")(draw(2, 3, 4)), "map"),
    "no map, sMLP": (lambda: SparseMLP()(draw(2, 3)), "map"),
    "unknown width": (lambda: AxialLinear("width")(keras.Input((4, None, 3))), "width"),
    "unknown height": (lambda: SparseMLP()(keras.Input((None, 4, 3))), "height"),
    "unknown channels": (lambda: DepthwiseConv()(keras.Input((4, 4, None))), "channels"),
    "unknown features": (lambda: ChannelMixing()(keras.Input((4, None))), "channels"),
    "unknown channels, affine": (lambda: Affine()(keras.Input((4, None))), "channels"),
    "folded in training": (lambda: FoldedChannelMixing()(draw(2, 3), training=True), "training"),
}


@pytest.mark.parametrize(("make", "word"), BAD.values(), ids=BAD)
def test_bad_arguments(make, word):
    with pytest.raises(ValueError, match=word):
        make()


def test_another_size_than_the_built_one_is_refused():
    layer = SparseMLP()
    layer(draw(1, 4, 6, 3))
    with pytest.raises(ValueError, match="incompatible"):
        layer(draw(1, 6, 4, 3))
