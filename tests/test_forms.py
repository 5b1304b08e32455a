"""The forms of the arithmetic that the backends take, against the ones that define it."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_smlp.layers import composed, forms

RNG = np.random.default_rng(0)
MAP = (2, 6, 5, 4)


def draw(*shape):
    return RNG.normal(size=shape).astype("float32")


def gradient(loss, *arrays):
    """The gradients of a function of arrays, by the backend's own means."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return [np.asarray(g) for g in jax.grad(loss, argnums=range(len(arrays)))(*arrays)]
    tensors = [ops.convert_to_tensor(x) for x in arrays]
    if backend == "torch":
        for tensor in tensors:
            tensor.requires_grad_()
        loss(*tensors).backward()
        return [ops.convert_to_numpy(tensor.grad) for tensor in tensors]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = loss(*tensors)
    return [ops.convert_to_numpy(g) for g in tape.gradient(value, tensors)]


def agree(form, defining, *arrays, tolerance=1e-4):
    """Whether two functions have equal values and equal gradients in all their arrays."""
    upstream = draw(*defining(*map(ops.convert_to_tensor, arrays)).shape)
    answers = []
    for function in (form, defining):

        def loss(*tensors, function=function):
            return ops.sum(function(*tensors) * ops.convert_to_tensor(upstream))

        value = ops.convert_to_numpy(function(*map(ops.convert_to_tensor, arrays)))
        answers.append([value, *gradient(loss, *arrays)])
    for own, expected in zip(*answers, strict=True):
        np.testing.assert_allclose(own, expected, rtol=tolerance, atol=tolerance)


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
    y = forms.depthwise(*map(ops.convert_to_tensor, arrays))
    np.testing.assert_allclose(ops.convert_to_numpy(y), by_hand(*arrays), atol=1e-5)
    agree(forms.depthwise, composed.depthwise, *arrays)
    plain = [lambda x, k, f=f: f(x, k, None) for f in (forms.depthwise, composed.depthwise)]
    agree(*plain, *arrays[:2])


@pytest.mark.parametrize("name", ["gelu", "depthwise"])
def test_16_bits_lose_no_more_than_their_rounding(name):
    """Also where many positions are summed up."""

    def rounded(*tensors):
        tensors = (ops.cast(x, "bfloat16") for x in tensors)
        return ops.cast(getattr(forms, name)(*tensors), "float32")

    arrays = [draw(16, 8, 8, 4), draw(3, 3, 4, 1), draw(4)][: 1 if name == "gelu" else 3]
    agree(rounded, getattr(composed, name), *arrays, tolerance=0.15)


@pytest.mark.parametrize("axis", ["width", "height"])
def test_axial(axis):
    size = dict(zip(("height", "width"), MAP[1:3], strict=True))[axis]
    both = forms.axial, composed.axial
    arrays = draw(*MAP), draw(size, size), draw(size)
    agree(*(lambda x, k, b, f=f: f(x, k, b, axis) for f in both), *arrays)
    agree(*(lambda x, k, f=f: f(x, k, None, axis) for f in both), *arrays[:2])


def test_products_of_channels():
    both = forms.dense, composed.dense
    arrays = draw(30, 12), draw(12, 7), draw(7)
    agree(*both, *arrays)
    agree(*(lambda x, k, f=f: f(x, k, None) for f in both), *arrays[:2])
    both = forms.fuse, composed.fuse
    agree(
        *(lambda *a, f=f: f(a[:3], a[3]) for f in both), *(draw(*MAP) for _ in "xyz"), draw(12, 4)
    )


def test_elementwise():
    agree(forms.gelu, composed.gelu, draw(*MAP))
    agree(forms.affine, composed.affine, draw(*MAP), draw(4), draw(4))
    agree(forms.rows, composed.rows, draw(*MAP))
    back = (lambda x, f=f: f.as_map(f.rows(x), x) for f in (forms, composed))
    agree(*back, draw(*MAP))


def test_layer_norm():
    layer = keras.layers.LayerNormalization(epsilon=1e-5)
    layer.build((None, 5))
    layer.set_weights([draw(5), draw(5)])
    agree(*(lambda x, f=f: f.layer_norm(layer, x) for f in (forms, composed)), draw(7, 5) + 3)


@pytest.mark.parametrize("shape", [MAP, (1, 1, 1, 4)])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training, trainable, shape):
    x, functions, states = draw(*shape), [], []
    values = [draw(4), draw(4), draw(4), np.abs(draw(4))]
    for form in (forms.batch_norm, composed.batch_norm):
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
    agree(*functions, x)
