"""The training step of keras_smlp.training.step: what is averaged, and when, and how it resumes."""

import random

import keras
import numpy as np
import pytest
from helpers import nets

from keras_smlp.training.step import TrainingModel

BATCHES, BATCH = 6, 8


def training_model(
    seed=1,
    ema_decay=0.9,
    drop_path_rate=0.3,
    dtype=None,
    optimizer=None,
    remat=False,
    **steps,
):
    random.seed(seed)  # Keras' function would import TensorFlow on every backend
    network = nets.to_train(drop_path_rate=drop_path_rate, dtype=dtype)
    model = TrainingModel(network.input, network.output, ema_decay=ema_decay, remat=remat)
    optimizer = optimizer or keras.optimizers.AdamW(1e-2, weight_decay=0.05, **steps)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def fit(model, first, last, callbacks=()):
    """Trains on the batches from `first` up to `last`, in one epoch."""
    x, y = (part[first * BATCH : last * BATCH] for part in nets.to_train_on(BATCHES * BATCH))
    return model.fit(
        x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=list(callbacks)
    ).history


def values(variables):
    return [np.copy(keras.ops.convert_to_numpy(variable)) for variable in variables]


def state(model):
    """All that a resumed training depends on."""
    return values(
        [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]
    )


class Weights(keras.callbacks.Callback):
    """The weights after each batch; also looks into the averaged model, which must not matter."""

    def __init__(self):
        super().__init__()
        self.after = []

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.after.append(values(self.model.averaged_variables))
        with self.model.ema_swapped_in():
            pass
        np.testing.assert_equal(self.after[-1], values(self.model.averaged_variables))


def train(model):
    weights = Weights()
    history = fit(model, 0, 5, [weights])
    return model, history, weights.after, values(model.averages.weights)


@pytest.fixture(scope="module")
def trained():
    """A model after five steps, with what its training left. Change nothing for good."""
    return train(training_model())


@pytest.fixture(scope="module")
def accumulated():
    """The same with half of an accumulation, and in float16: the loss scale is state too."""
    return train(training_model(dtype="mixed_float16", gradient_accumulation_steps=2))


@pytest.mark.parametrize(
    ("name", "every"),
    [("trained", 1), pytest.param("accumulated", 2, marks=pytest.mark.quick_once)],
)
def test_averages_are_those_of_the_weights_after_each_update(name, every, request):
    model, _, after, trained_averages = request.getfixturevalue(name)
    averages = values(training_model().averaged_variables)
    assert any("moving_mean" in variable.path for variable in model.averaged_variables)
    for weights in after[every - 1 :: every]:
        averages = [0.9 * a + 0.1 * w for a, w in zip(averages, weights, strict=True)]
    for average, expected in zip(trained_averages, averages, strict=True):
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.quick_once
def test_averages_of_half_precision_stand_still_on_overflow():
    # a loss scaled far beyond float16, and so are its gradients
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1e30)
    model = training_model(dtype="mixed_float16", optimizer=optimizer)
    before = values(model.averages.weights)
    fit(model, 0, 1)
    assert int(optimizer.iterations) == 0
    np.testing.assert_equal(before, values(model.averages.weights))
    optimizer.dynamic_scale.assign(1.0)
    fit(model, 0, 1)
    assert int(optimizer.iterations) == 1
    changed = [np.any(a != b) for a, b in zip(before, values(model.averages.weights), strict=True)]
    assert sum(changed) > len(changed) / 2


def test_the_step_is_keras_own_with_averages_and_without(trained):
    plain, twin = (training_model(ema_decay=None) for _ in range(2))
    own = keras.Model(twin.input, twin.output)
    own.compile(twin.optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = fit(own, 0, 5)["loss"]
    for model, history in ((trained[0], trained[1]), (plain, fit(plain, 0, 5))):
        np.testing.assert_allclose(history["loss"], loss, rtol=1e-6)
        pairs = zip(values(model.averaged_variables), values(own.weights), strict=True)
        for weight, expected in pairs:
            np.testing.assert_allclose(weight, expected, atol=1e-5)
    assert plain.averages is None
    with pytest.raises(ValueError, match="ema_decay"), plain.ema_swapped_in():
        pass


def test_a_resumed_training_is_bit_equal(accumulated, tmp_path):
    straight = accumulated[0]
    straight.save_weights(tmp_path / "state.weights.h5")
    resumed = training_model(2, dtype="mixed_float16", gradient_accumulation_steps=2)
    resumed.load_weights(tmp_path / "state.weights.h5")
    np.testing.assert_equal(state(straight), state(resumed))
    assert fit(straight, 5, BATCHES) == fit(resumed, 5, BATCHES)
    np.testing.assert_equal(state(straight), state(resumed))


def test_the_averaged_model_is_the_averages_and_then_itself_again(trained):
    model = trained[0]
    before, x = state(model), nets.to_train_on(BATCHES * BATCH)[0][:BATCH]
    with model.ema_swapped_in():
        np.testing.assert_equal(values(model.averaged_variables), values(model.averages.weights))
        averaged = model.predict_on_batch(x)
    np.testing.assert_equal(before, state(model))
    assert np.abs(averaged - model.predict_on_batch(x)).max() > 1e-3
    with pytest.raises(KeyError), model.ema_swapped_in():
        raise KeyError
    np.testing.assert_equal(before, state(model))


def test_loaded_weights_can_be_the_start_of_the_averages():
    model, other = training_model(), training_model(seed=2, ema_decay=None)
    for variable, value in zip(model.averaged_variables, values(other.weights), strict=True):
        variable.assign(value)
    model.reset_ema()
    np.testing.assert_equal(values(other.weights), values(model.averages.weights))


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"`ema_decay` must be .* in \[0, 1\).* Received: ema_decay=1.5"
    ):
        training_model(ema_decay=1.5)
    with pytest.raises(ValueError, match="save_weights"):
        training_model().save(tmp_path / "model.keras")


@pytest.mark.quick_once
def test_rematerialization_changes_no_value(trained):
    """Neither weights nor statistics, nor what stochastic depth draws."""
    _, history, after, _ = trained
    _, again, weights, _ = train(training_model(remat=True))
    np.testing.assert_allclose(again["loss"], history["loss"], rtol=1e-6)
    for own, expected in zip(weights[-1], after[-1], strict=True):
        np.testing.assert_allclose(own, expected, rtol=0, atol=2e-6)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch tells what it keeps")
def test_rematerialization_keeps_less():
    import torch

    images, labels = nets.to_train_on(BATCH)
    kept = []
    for remat in (False, True):
        model, sizes = training_model(remat=remat), []
        note = lambda x, sizes=sizes: sizes.append(x.nbytes) or x  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            model(torch.as_tensor(images), training=True)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3
