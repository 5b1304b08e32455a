"""One side of test_cross_backend.py, in its own process: `write FOLDER` or `read FOLDER`.

Prints nothing; an assertion that fails is the process's exit status.
"""

import sys
import warnings
from pathlib import Path

import keras
import numpy as np
from conftest import trained_like

import keras_smlp

MODELS = {"float32": "float32", "half": "mixed_float16"}
TOLERANCE = 1e-5
# a value that one backend rounds up and another down is a step of 1/127 in 8 bits
SHRUNK = {"folded": 1e-5, "int8": 5e-3, "folded_int8": 5e-3}


def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (8, 32, 32, 3)).astype("float32"), np.arange(8) % 4


def compiled(policy):
    keras.utils.set_random_seed(1)
    model = keras_smlp.SMLPNet(
        8, (1, 1), input_shape=(32, 32, 3), classes=4, drop_path_rate=0.2, dtype=policy
    )
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.05)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def optimizer_of(model):
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def shrunk(name):
    """A folded network, a quantized one, or one that is both."""
    model = trained_like(
        keras_smlp.SMLPNet(
            8, (1, 1), input_shape=(32, 32, 3), classes=4, classifier_activation=None
        )
    )
    if "folded" in name:
        model = keras_smlp.fold(model)
    if "int8" in name:
        keras_smlp.quantize(model)
    return model


def write(folder):
    x, y = data()
    for name in SHRUNK:
        model = shrunk(name)
        model.save(folder / f"{name}.keras")
        answers = model.predict(x, verbose=0)
        np.savez(folder / f"{name}.npz", *model.get_weights(), answers=answers)
    for name, policy in MODELS.items():
        model = compiled(policy)
        model.fit(x, y, batch_size=4, epochs=1, verbose=0)
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        np.save(folder / f"{name}.npy", model.predict(x, verbose=0))


def read(folder):
    x, y = data()
    for name, tolerance in SHRUNK.items():
        with warnings.catch_warnings(action="error"):
            # see pyproject.toml
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy")
            model = keras.saving.load_model(folder / f"{name}.keras")
        expected = np.load(folder / f"{name}.npz")
        for i, weight in enumerate(model.get_weights()):
            np.testing.assert_array_equal(weight, expected[f"arr_{i}"])
        found = model.predict(x, verbose=0)
        error = np.linalg.norm(found - expected["answers"]) / np.linalg.norm(expected["answers"])
        assert error < tolerance, (name, error)
    for name, policy in MODELS.items():
        expected = np.load(folder / f"{name}.npy")
        tolerance = TOLERANCE if policy == "float32" else 5e-3
        model = keras.saving.load_model(folder / f"{name}.keras")
        assert type(model).__name__ == "PortableModel" and model.dtype_policy.name == policy
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=tolerance)
        assert model.jit_compile == compiled(policy).jit_compile, "another backend's jit flag"
        assert int(optimizer_of(model).iterations) == 2
        # resumes: the moments are there, the drop path's draws go on, the loss is finite
        moments = [v for v in optimizer_of(model).variables if "momentum" in v.path]
        assert moments and any(np.abs(keras.ops.convert_to_numpy(v)).max() > 0 for v in moments)
        states = [
            keras.ops.convert_to_numpy(layer.drop_path.seed_generator.state)
            for layer in model.layers
            if hasattr(layer, "drop_path") and layer.drop_path.rate
        ]
        assert states and all(state[1] > 0 for state in states), "the random state was lost"
        history = model.fit(x, y, batch_size=4, epochs=1, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        assert int(optimizer_of(model).iterations) == 4

        other = compiled(policy)
        other.optimizer.build(other.trainable_variables)
        other.load_weights(folder / f"{name}.weights.h5")
        np.testing.assert_allclose(other.predict(x, verbose=0), expected, atol=tolerance)
        assert int(optimizer_of(other).iterations) == 2

        by_name = keras_smlp.SMLPNet(
            8, (1, 1), input_shape=(32, 32, 3), classes=4, weights=folder / f"{name}.keras"
        )
        np.testing.assert_allclose(by_name.predict(x, verbose=0), expected, atol=5e-3)


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
