"""The weighted cross entropy against NumPy, and its gradient against Keras' class weights."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_smlp.training import losses


def test_class_weights_average_to_one_over_the_images():
    labels = np.array([0] * 6 + [2] * 2)
    weights = losses.class_weights(labels, 4)
    np.testing.assert_allclose(weights, [8 / 12, 0, 2, 0], rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1)


def test_mixed_targets_count_by_each_of_their_classes():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 3)).astype("float32")
    targets = rng.dirichlet([1, 1, 1], 5).astype("float32")
    weights = np.array([0.5, 2.0, 1.5], "float32")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(weights * targets * log_probabilities).sum(-1).mean()
    loss = losses.WeightedCrossentropy(weights)(targets, logits)
    assert float(ops.convert_to_numpy(loss)) == pytest.approx(expected, rel=1e-5)


def test_a_step_is_that_of_keras_class_weights():
    """For targets of one class each."""
    x = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
    y = np.eye(3, dtype="float32")[[0, 1, 2, 0, 0, 1]]
    weights, models = np.array([0.3, 1.0, 2.0], "float32"), []
    for loss in (
        losses.WeightedCrossentropy(weights),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    ):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.5), loss)
        models.append(model)
    models[0].train_on_batch(x, y)
    models[1].train_on_batch(x, y, class_weight=dict(enumerate(weights.tolist())))
    for own, other in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)
