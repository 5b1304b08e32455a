"""Each backend's own implementations of the arithmetic against the reference."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.nets import BACKEND, draw
from keras import ops

from keras_smlp.layers import backend, folded, mixing, normalization
from keras_smlp.layers.backend import reference

MAP = (2, 6, 5, 4)


def gradient(loss, *arrays):
    """The gradients of a function of arrays, by the backend's own means."""
    if BACKEND == "jax":
        import jax

        return [np.asarray(g) for g in jax.grad(loss, argnums=range(len(arrays)))(*arrays)]
    tensors = [ops.convert_to_tensor(x) for x in arrays]
    if BACKEND == "torch":
        for tensor in tensors:
            tensor.requires_grad_()
        loss(*tensors).backward()
        return [ops.convert_to_numpy(tensor.grad) for tensor in tensors]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = loss(*tensors)
    return [ops.convert_to_numpy(g) for g in tape.gradient(value, tensors)]


def value_and_gradients(function, arguments):
    """What a function returns, and the gradients of a weighted sum of it by all arrays."""
    leaves = keras.tree.flatten(arguments)
    arrays = [leaf for leaf in leaves if isinstance(leaf, np.ndarray)]

    def call(*tensors):
        own = iter(tensors)
        mixed = [next(own) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
        return function(*keras.tree.pack_sequence_as(arguments, mixed))

    value = ops.convert_to_numpy(call(*map(ops.convert_to_tensor, arrays)))
    weights = np.random.default_rng(0).normal(size=value.shape).astype("float32")
    loss = lambda *tensors: ops.sum(call(*tensors) * ops.convert_to_tensor(weights))  # noqa: E731
    return [value, *gradient(loss, *arrays)]


def agree(functions, *arguments, tolerance=1e-5):
    """Checks that two functions, or a backend's and the reference's of a name, are the same."""
    if isinstance(functions, str):
        functions = getattr(backend, functions), getattr(reference, functions)
    answers = [value_and_gradients(function, arguments) for function in functions]
    for own, expected in zip(*answers, strict=True):
        largest = max(np.abs(expected).max(), 1.0)
        np.testing.assert_allclose(own, expected, rtol=0, atol=tolerance * largest)


def by_hand(x, kernel, bias):
    """A depthwise convolution in NumPy."""
    margins = [(size // 2, size // 2) for size in kernel.shape[:2]]
    padded, total = np.pad(x, [(0, 0), *margins, (0, 0)]), np.zeros_like(x)
    for i, j in np.ndindex(kernel.shape[:2]):
        total += padded[:, i : i + x.shape[1], j : j + x.shape[2]] * kernel[i, j, :, 0]
    return total + bias


@pytest.mark.parametrize("size", [1, 3, 5])
def test_depthwise(size):
    arrays = draw(*MAP), draw(size, size, 4, 1), draw(4)
    y = backend.depthwise(*map(ops.convert_to_tensor, arrays))
    np.testing.assert_allclose(ops.convert_to_numpy(y), by_hand(*arrays), atol=1e-5)
    agree("depthwise", *arrays)
    agree("depthwise", *arrays[:2], None)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX alone has two ways there")
def test_several_devices(monkeypatch):
    """Where no image may be taken apart from the others."""
    import jax

    monkeypatch.setattr(jax, "device_count", lambda: 2)
    agree("depthwise", draw(*MAP), draw(3, 3, 4, 1), draw(4))
    agree("axial", draw(*MAP), draw(5, 5), None, "width")


def test_which_implementations_a_backend_has_of_its_own():
    """Or one that lost its name would be compared with itself."""
    whole = {"tensor", "rows", "as_map", "dense", "axial", "fuse", "copy_if_inplace", "gelu", "add"}
    together = {"casting", "updating_statistics"}
    expected = {
        "tensorflow": {"axial", "gelu", "layer_norm", "batch_norm", "patches"},
        "jax": {*whole, "biased", "batch_norm", "layer_norm", "depthwise", "patches"}
        - {"copy_if_inplace", "add"},
        "torch": {*whole, *together, "affine", "layer_norm", "batch_norm", "depthwise", "patches"},
    }
    names = set(vars(backend)) & {name for name in vars(reference) if not name.startswith("_")}
    own = {name for name in names if getattr(backend, name) is not getattr(reference, name)}
    assert own == expected[BACKEND]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["dense", "axial", "fuse", "gelu", "depthwise", "patches"])
def test_16_bits_lose_no_more_than_their_rounding(name, dtype):
    """Also where many positions are summed up (not of biases: that sum is the backend's own)."""
    arguments = {
        "dense": (draw(1024, 4), draw(4, 5), None),
        "axial": (draw(16, 8, 8, 4), draw(8, 8), None, "width"),
        "fuse": ([draw(4, 8, 8, 4) for _ in range(3)], draw(12, 4)),
        "gelu": (draw(16, 8, 8, 4),),
        "depthwise": (draw(16, 8, 8, 4), draw(3, 3, 4, 1), None),
        "patches": (draw(16, 8, 8, 4), draw(2, 2, 4, 5)),
    }[name]

    def narrow(x):
        return ops.cast(x, dtype) if ops.is_tensor(x) else x

    def rounded(*arguments):
        y = getattr(backend, name)(*keras.tree.map_structure(narrow, arguments))
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        return ops.cast(y, "float32")

    agree((rounded, getattr(reference, name)), *arguments, tolerance=0.03)


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16", "mixed_float16"])
def test_training_in_16_bits(policy):
    """GELU and the normalizations as in training, and what they leave in the statistics."""
    x, weights = draw(4, 8, 8, 4), [draw(4), draw(4), draw(4), np.abs(draw(4))]
    policy, answers = keras.DTypePolicy(policy), []
    dtype = policy.compute_dtype
    for dtypes, module in ((policy, backend), ("float32", reference)):
        norm = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtypes)
        layer = keras.layers.LayerNormalization(epsilon=1e-5, dtype=dtypes)
        norm.build(x.shape)
        layer.build((None, x.shape[-1]))
        norm.set_weights(weights)
        layer.set_weights(weights[:2])
        narrow = ops.cast(x, dtype if module is backend else "float32")
        maps = (
            module.batch_norm(norm, narrow, True),
            module.as_map(module.layer_norm(layer, module.rows(narrow), True), narrow),
            module.gelu(narrow, True),
        )
        assert all(y.dtype == narrow.dtype for y in maps)
        values = [*maps, norm.moving_mean, norm.moving_variance]
        answers.append([ops.convert_to_numpy(ops.cast(y, "float32")) for y in values])
    for own, expected in zip(*answers, strict=True):
        np.testing.assert_allclose(own, expected, atol=0.03 * max(1, np.abs(expected).max()))


@pytest.mark.skipif(BACKEND != "torch", reason="torch.autocast is PyTorch's")
def test_a_fusion_under_autocast():
    import torch

    parts, kernel = [torch.tensor(draw(*MAP)) for _ in "xyz"], torch.tensor(draw(12, 4))
    with torch.autocast("cpu", torch.bfloat16):
        y = backend.fuse(parts, kernel)
    assert y.dtype == torch.bfloat16
    expected = reference.fuse(parts, kernel)
    assert (y.float() - expected).abs().max() < 0.03 * expected.abs().max()
    with torch.no_grad():
        total = backend.add(parts[0], y)
    assert total.dtype == torch.float32 and torch.equal(total, parts[0] + y)


@pytest.mark.parametrize("axis", ["width", "height"])
def test_axial(axis):
    size = dict(zip(("height", "width"), MAP[1:3], strict=True))[axis]
    for bias in (draw(size), None):
        agree("axial", draw(*MAP), draw(size, size), bias, axis)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow writes LiteRT's files")
@pytest.mark.parametrize("axis", ["width", "height"])
def test_axial_for_litert(axis):
    from keras_smlp.layers.backend import tensorflow

    size = dict(zip(("height", "width"), MAP[1:3], strict=True))[axis]
    for bias in (draw(size), None):
        with tensorflow.for_litert():
            agree("axial", draw(*MAP), draw(size, size), bias, axis)
    assert not tensorflow.FOR_LITERT.get()


def test_products_of_channels():
    for bias in (draw(7), None):
        agree("dense", draw(30, 12), draw(12, 7), bias)
    agree("fuse", [draw(*MAP) for _ in "xyz"], draw(12, 4))


@pytest.mark.parametrize("window", [(1, 1), (2, 2), (3, 2)])
def test_patches(window):
    """Also where the last positions fill no patch."""
    arrays = draw(2, 7, 8, 4), draw(*window, 4, 5)
    agree("patches", *arrays)
    agree((reference.patches_by_product, reference.patches), *arrays)


def test_elementwise():
    for training in (False, True):
        agree("gelu", draw(*MAP), training)
    agree("affine", draw(*MAP), draw(4), draw(4))
    agree("add", draw(*MAP), draw(*MAP))
    if BACKEND != "jax":  # it keeps the maps
        agree("rows", draw(*MAP))
    back = [lambda x, f=f: f.as_map(f.rows(x), x) for f in (backend, reference)]
    agree(back, draw(*MAP))


needs_torch = pytest.mark.skipif(BACKEND != "torch", reason="PyTorch alone computes in place")


@needs_torch
def test_what_is_overwritten_where_no_gradient_is_taken():
    import torch

    x, y = (torch.tensor(draw(*MAP)) for _ in "xy")
    sum_, gelu = x + y, reference.gelu(x)
    for function, operands, expected in ((backend.add, (x, y), sum_), (backend.gelu, (x,), gelu)):
        last = operands[-1].clone()
        torch.testing.assert_close(function(*operands), expected)
        torch.testing.assert_close(operands[-1], last, rtol=0, atol=0)
        with torch.no_grad():
            assert function(*operands) is operands[-1]
        torch.testing.assert_close(operands[-1], expected)
        operands[-1].copy_(last)


@needs_torch
@pytest.mark.parametrize("name", ["TokenMixing", "ChannelMixing"])
@pytest.mark.parametrize("module", [mixing, folded])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_overwrites_nothing_of_its_input(name, module, autocast):
    import torch

    layer = getattr(module, "Folded" * (module is folded) + name)()
    x = torch.tensor(draw(*MAP))
    before = x.clone()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = layer(x, training=False)
        with torch.no_grad():
            y = layer(x, training=False)
    torch.testing.assert_close(y, expected.detach(), rtol=0, atol=0)  # and of one dtype
    torch.testing.assert_close(x, before, rtol=0, atol=0)


@needs_torch
def test_a_hook_keeps_what_it_saw():
    """Of a part that is called as a layer, for it has a policy of its own."""
    import torch

    layer, x, seen = mixing.ChannelMixing(), torch.tensor(draw(*MAP)), []
    layer.build(MAP)
    layer.dense1.quantize("int8")
    layer.dense1.register_forward_hook(lambda layer, inputs, y: seen.append((y, y.clone())))
    with torch.no_grad():
        layer(x)
    [(held, copy)] = seen
    torch.testing.assert_close(held, copy, rtol=0, atol=0)


@pytest.mark.parametrize("training", [False, True])
def test_gelu_far_from_zero(training):
    """As exact as PyTorch's: one plus the error function has the digits of one."""
    x = np.array([-9, -5.5, -3, 0, 3, 5.5, 9], "float32")
    exact = [0.5 * math.erfc(-v * 0.5**0.5) for v in x]
    exact += x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    own = gradient(lambda x: ops.sum(backend.gelu(x, training)), x)[0]
    np.testing.assert_allclose(own, exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("training", [False, True])
def test_layer_norm(training):
    layer = keras.layers.LayerNormalization(epsilon=1e-5)
    layer.build((None, 5))
    layer.set_weights([draw(5), draw(5)])
    agree("layer_norm", layer, draw(7, 5) + 3, training)


def test_layer_norm_in_its_weights():
    def form(x, gamma, beta):
        layer = SimpleNamespace(gamma=gamma, beta=beta, epsilon=1e-5, compute_dtype="float32")
        return backend.layer_norm(layer, x, True)

    def defining(x, gamma, beta):
        return ops.layer_normalization(x, gamma, beta, axis=-1, epsilon=1e-5)

    agree((form, defining), draw(7, 5) + 3, draw(5), draw(5))


def test_batch_norm_in_its_weights():
    state = {"trainable": True, "synchronized": False, "momentum": 0.9, "epsilon": 1e-5}
    state |= {name: keras.Variable(draw(4)) for name in ("moving_mean", "moving_variance")}

    def form(x, gamma, beta):
        return backend.batch_norm(SimpleNamespace(gamma=gamma, beta=beta, **state), x, True)

    def defining(x, gamma, beta):
        mean, variance = ops.moments(x, axes=(0, 1, 2))
        return ops.batch_normalization(x, mean, variance, -1, beta, gamma, 1e-5)

    agree((form, defining), draw(*MAP), draw(4), draw(4))


@pytest.mark.parametrize("mean", [0.0, 30.0, 3000.0])
def test_batch_norm_far_from_zero(mean):
    """As exact as its input, in the first step too, when the moving mean is still zero."""
    x = (np.random.default_rng(0).normal(size=(8, 16, 16, 4)) + mean).astype("float32")
    layer = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    layer.build(x.shape)
    y = ops.convert_to_numpy(backend.batch_norm(layer, ops.convert_to_tensor(x), True))
    exact = x.astype("float64")
    variance = exact.var((0, 1, 2))
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(y, expected, atol=2e-6 * max(1, mean))
    moving = ops.convert_to_numpy(layer.moving_variance)
    np.testing.assert_allclose(moving, 0.9 + 0.1 * variance, rtol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="the other engines run a copy of it on each device")
def test_batch_norm_of_parts():
    """Each device's part of a batch by its own statistics; the moving ones are their mean."""
    x, weights = draw(6, 5, 4, 4) + 3, [draw(4), draw(4), draw(4), np.abs(draw(4))]
    layers = [normalization.BatchNormalization() for _ in range(4)]
    for layer in layers:
        layer.build(x.shape)
        layer.set_weights(weights)
    layers[0].parts = 3

    def separately(x):
        parts = zip(layers[1:], ops.split(x, 3), strict=True)
        return ops.concatenate([backend.batch_norm(layer, part, True) for layer, part in parts])

    agree((lambda x: backend.batch_norm(layers[0], x, True), separately), x)
    layers[0].set_weights(weights)
    for layer in layers[1:]:
        layer.set_weights(weights)
    backend.batch_norm(layers[0], ops.convert_to_tensor(x), True)
    separately(ops.convert_to_tensor(x))
    several = [np.mean(v, axis=0) for v in zip(*(x.get_weights() for x in layers[1:]), strict=True)]
    for own, expected in zip(layers[0].get_weights(), several, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX alone has implementations for devices")
@pytest.mark.parametrize("device", ["tpu", "gpu"])
def test_what_other_devices_run(monkeypatch, device):
    """A program for a CPU never has these implementations: here they run as if it had."""
    from keras_smlp.layers.backend import jax, jax_products

    def for_device(cpu, tpu, gpu=None):
        return gpu if gpu and device == "gpu" else tpu

    for module in (jax, jax_products):
        monkeypatch.setattr(module, "for_device", for_device)
    agree("gelu", draw(*MAP))
    agree("depthwise", draw(*MAP), draw(3, 3, 4, 1), draw(4))
    for axis, size in (("height", 6), ("width", 5)):
        agree("axial", draw(*MAP), draw(size, size), draw(size), axis)
    agree("fuse", [draw(*MAP) for _ in "xyz"], draw(12, 4))
    agree("patches", draw(2, 7, 8, 4), draw(3, 2, 4, 5))


@pytest.mark.skipif(BACKEND != "jax", reason="the others round gradients with their kernels")
def test_gradients_are_as_wide_as_their_kernels():
    """In mixed precision too, or devices would add them up in 16 bits."""
    import jax

    layer = mixing.ChannelMixing(dtype="mixed_bfloat16")
    layer.build(MAP)
    others = [v.value for v in layer.non_trainable_variables]

    def loss(values, x):
        return ops.sum(layer.stateless_call(values, others, x)[0].astype("float32") ** 2)

    values = [v.value for v in layer.trainable_variables]
    for gradient in jax.grad(loss)(values, draw(*MAP).astype("bfloat16")):
        assert gradient.dtype == "float32"
        assert (gradient.astype("bfloat16").astype("float32") != gradient).any()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras synchronizes it there")
def test_batch_norm_over_several_devices_is_keras(monkeypatch):
    """TensorFlow's kernel normalizes what its own device has."""
    layer = keras.layers.BatchNormalization(synchronized=True)
    layer.build(MAP)
    monkeypatch.setattr(reference, "batch_norm", lambda layer, x, training: ("Keras'", training))
    assert backend.batch_norm(layer, ops.convert_to_tensor(draw(*MAP)), True) == ("Keras'", True)


@pytest.mark.parametrize("shape", [MAP, (1, 1, 1, 4)])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training, trainable, shape):
    # at one position the variance is 0: rounding errors of x grow by 1 / sqrt(epsilon)
    x, functions, states = draw(*shape) * np.float32(1 if shape == MAP else 0.1), [], []
    values = [draw(4), draw(4), draw(4), np.abs(draw(4))]
    for form in (backend.batch_norm, reference.batch_norm):
        layer = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
        layer.build(shape)
        layer.set_weights(values)
        layer.trainable = trainable
        form(layer, ops.convert_to_tensor(x), training)
        states.append(layer.get_weights())
        layer.set_weights(values)
        functions.append(lambda x, layer=layer, form=form: form(layer, x, training))
    for own, expected in zip(*states, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)
    agree(functions, x)
