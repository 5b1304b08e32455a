"""Files that version 0.1.0 wrote before its folders were rearranged: they load as they did.

`files_of_0_1_0` holds networks of 8 channels with drawn weights as they are, folded, in 8 bits, as
a pyramid, and compiled and trained; weights alone; what each of them answered; and a checkpoint in
the middle of the first epoch of a run of train.py.
"""

import shutil

import keras
import numpy as np
import pytest
from helpers.nets import answer
from helpers.processes import TESTS

import keras_smlp
from reference.stand_in import relative

FILES = TESTS / "files_of_0_1_0"
ANSWERS = np.load(FILES / "answers.npz")
SIZE = {"dim": 8, "depths": (1, 1), "input_shape": (32, 32, 3), "classes": 4}
TOLERANCES = {"plain": 1e-5, "folded": 1e-5, "int8": 5e-3, "pyramid": 1e-5, "trained": 1e-5}


def images():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")


def assert_answers(model, name):
    found = answer(model, images())
    found = found if isinstance(found, dict) else {"": found}
    for key, values in found.items():
        expected = ANSWERS[name + key]
        assert relative(values, expected) < TOLERANCES[name], (name, key)


@pytest.mark.parametrize("name", TOLERANCES)
def test_a_keras_file(name):
    assert_answers(keras.saving.load_model(FILES / f"{name}.keras"), name)


def test_a_compiled_file_goes_on_training():
    model = keras_smlp.load_model(FILES / "trained.keras")
    assert int(model.optimizer.iterations) == 2
    model.fit(images(), np.arange(4), batch_size=2, verbose=0)
    assert int(model.optimizer.iterations) == 4


def test_weights_alone():
    model = keras_smlp.SMLPNet(**SIZE, classifier_activation=None)
    model.load_weights(FILES / "plain.weights.h5")
    assert_answers(model, "plain")
    by_name = keras_smlp.SMLPNet(
        **SIZE, classifier_activation=None, weights=FILES / "plain.weights.h5"
    )
    assert_answers(by_name, "plain")
    assert_answers(keras_smlp.load_model(FILES / "trained.weights.h5"), "trained")


@pytest.mark.quick_once
def test_a_checkpoint_goes_on(tmp_path):
    from helpers.training import Run

    shutil.copytree(FILES / "checkpoints", tmp_path / "checkpoints")
    arguments = ("--optimizer.ema_decay=0.9", "--model.drop_path_rate=0.3", "--train.epochs=1")
    out = Run(tmp_path, *arguments).out
    assert "going on from" in out and "00000-0000010" in out and "* Acc@1" in out
