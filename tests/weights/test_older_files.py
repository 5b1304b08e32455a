"""Files that version 0.1.0 wrote before its folders were rearranged: they load as they did.

`files_of_0_1_0` holds networks of 8 channels with drawn weights as they are, folded, in 8 bits, as
a pyramid, and compiled and trained; weights alone; what each of them answered; and a checkpoint in
the middle of the first epoch of a run of train.py.
"""

import shutil

import keras
import numpy as np
import pytest
from helpers.cross_backend import TOLERANCES
from helpers.nets import answer, pixels
from helpers.processes import TESTS

import keras_smlp
from reference.stand_in import relative

pytestmark = pytest.mark.quick_once

FILES = TESTS / "files_of_0_1_0"
ANSWERS = np.load(FILES / "answers.npz")
IMAGES = pixels(4, 32, 32, 3, dtype="float32")
SIZE = {"dim": 8, "depths": (1, 1), "input_shape": (32, 32, 3), "classes": 4}


def assert_answers(model, name):
    found = answer(model, IMAGES)
    found = found if isinstance(found, dict) else {"": found}
    for key, values in found.items():
        expected = ANSWERS[name + key]
        assert relative(values, expected) < TOLERANCES.get(name, 1e-5), (name, key)


EACH = pytest.param("trained", marks=pytest.mark.quick_each)


def test_a_keras_file_under_channels_first():
    """What Keras is set to is nothing to a network, though its normalization was by that then."""
    keras.config.set_image_data_format("channels_first")
    try:
        assert_answers(keras.saving.load_model(FILES / "plain.keras"), "plain")
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("name", ["plain", "folded", "int8", "pyramid", EACH])
def test_a_keras_file(name):
    assert_answers(keras.saving.load_model(FILES / f"{name}.keras"), name)


def test_a_compiled_file_goes_on_training():
    model = keras_smlp.load_model(FILES / "trained.keras")
    assert int(model.optimizer.iterations) == 2
    model.fit(IMAGES, np.arange(4, dtype="int32"), batch_size=2, verbose=0)
    assert int(model.optimizer.iterations) == 4


def test_weights_alone():
    size, path = {**SIZE, "classifier_activation": None}, FILES / "plain.weights.h5"
    model = keras_smlp.SMLPNet(**size)
    model.load_weights(path)
    assert_answers(model, "plain")
    assert_answers(keras_smlp.SMLPNet(**size, weights=path), "plain")
    assert_answers(keras_smlp.load_model(FILES / "trained.weights.h5"), "trained")


def test_a_checkpoint_goes_on(tmp_path):
    from helpers.training import Run

    shutil.copytree(FILES / "checkpoints", tmp_path / "checkpoints")
    arguments = ("--optimizer.ema_decay=0.9", "--model.drop_path_rate=0.3", "--train.epochs=1")
    out = Run(tmp_path, *arguments).out
    assert "going on from" in out and "00000-0000010" in out and "* Acc@1" in out
