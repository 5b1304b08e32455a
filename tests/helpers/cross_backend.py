"""One backend's side of test_cross_backend.py: networks that it reads and checks, or writes.

`trained_float32` and `trained_mixed_float16` are compiled and trained under that policy. Prints
nothing; in a process of its own an assertion that fails is the exit status.
"""

import warnings
from pathlib import Path

import keras
import numpy as np

import keras_smlp
from helpers.nets import SMALL, answer, drop_path_states, net, pixels
from reference.stand_in import relative

# a value that one backend rounds up and another down is a step of 1/127 in 8 bits
TOLERANCES = {"plain": 1e-5, "folded": 1e-5, "int8": 5e-3, "folded_int8": 5e-3}
POLICIES = {"float32": 1e-5, "mixed_float16": 5e-3}


def data():
    return pixels(8, *SMALL["input_shape"], dtype="float32"), np.arange(8) % 4


def compiled(policy):
    """Under `mixed_float16` the optimizer that keeps a loss scale holds another one within."""
    keras.utils.set_random_seed(1)
    model = keras_smlp.SMLPNet(**SMALL, drop_path_rate=0.2, dtype=policy)
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.05)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def written(name):
    """A network as it is, folded, quantized, or both."""
    model = net()
    if "folded" in name:
        model = keras_smlp.fold(model)
    if "int8" in name:
        keras_smlp.quantize(model)
    return model


def write(name, folder):
    x, y = data()
    policy = name.removeprefix("trained_")
    if policy == name:
        model = written(name)
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", *model.get_weights(), answers=answer(model, x))
        return
    model = compiled(policy)
    model.fit(x, y, batch_size=4, epochs=1, verbose=0)
    model.save(folder / f"{name}.keras")
    model.save_weights(folder / f"{name}.weights.h5")
    np.save(folder / f"{name}.npy", answer(model, x))


def read(name, folder):
    if name.startswith("trained_"):
        read_trained(folder / name, name.removeprefix("trained_"))
    else:
        with warnings.catch_warnings(action="error"):
            # see pyproject.toml
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy")
            warnings.filterwarnings("ignore", "Error .* persistent compilation cache entry")
            model = keras.saving.load_model(folder / f"{name}.keras")
        expected = np.load(folder / f"{name}.npz")
        for i, weight in enumerate(model.get_weights()):
            np.testing.assert_array_equal(weight, expected[f"arr_{i}"])
        error = relative(answer(model, data()[0]), expected["answers"])
        assert error < TOLERANCES[name], (name, error)


def optimizer_of(model):
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def read_trained(path, policy):
    x, y = data()
    expected = np.load(f"{path}.npy")
    model = keras.saving.load_model(f"{path}.keras")
    assert type(model).__name__ == "PortableModel" and model.dtype_policy.name == policy
    np.testing.assert_allclose(answer(model, x), expected, atol=POLICIES[policy])
    assert model.jit_compile == compiled(policy).jit_compile, "another backend's jit flag"
    optimizer = optimizer_of(model)
    assert int(optimizer.iterations) == 2
    # resumes: the moments are there, the drop path's draws go on, the loss is finite
    moments = [v for v in optimizer.variables if "momentum" in v.path]
    assert moments and any(np.abs(keras.ops.convert_to_numpy(v)).max() > 0 for v in moments)
    states = drop_path_states(model)
    assert states and all(state[1] > 0 for state in states), "the random state was lost"
    history = model.fit(x, y, batch_size=4, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert int(optimizer.iterations) == 4

    other = compiled(policy)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(f"{path}.weights.h5")
    np.testing.assert_allclose(answer(other, x), expected, atol=POLICIES[policy])
    assert int(optimizer_of(other).iterations) == 2

    by_name = keras_smlp.SMLPNet(**SMALL, weights=f"{path}.keras")
    np.testing.assert_allclose(answer(by_name, x), expected, atol=POLICIES[policy])


def main(names, read_from, write_to):
    """Reads and checks the networks of these names in some folders, then writes them to others."""
    for do, folders in ((read, read_from), (write, write_to)):
        for folder in folders:
            for name in names:
                do(name, Path(folder))
