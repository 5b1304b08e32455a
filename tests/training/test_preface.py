"""What a run says before its first step."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import training  # noqa: F401 - skips this file where a package is missing
from helpers.nets import linear

from keras_smlp.data.splits import Arrays, Files, Source
from keras_smlp.training import preface
from keras_smlp.training.parsing import parse

pytestmark = pytest.mark.quick_once

SMALL = ["--model.variant=null", "--model.dim=8", "--model.depths=[1,2]", "--model.input_size=32"]
SMALL += ["--model.patch_size=4", "--train.batch_size=4", "--train.epochs=3", "--output_dir=out"]
SMALL += ["--optimizer.warmup_epochs=0", "--data.resize_size=null"]


def split(*counts):
    labels = np.repeat(np.arange(len(counts), dtype="int32"), counts)
    return Arrays(np.zeros((len(labels), 4, 4, 3), "uint8"), labels)


def source(train, validation=(1, 1), **options):
    names = tuple("abcdefgh"[: len(train)])
    return Source(names, split(*train), split(*validation), **options)


def lines(data, *arguments, place=(0, 0), steps=3, compiles=False):
    config = parse([*SMALL, *arguments])
    return preface.lines(config, data, steps, place, (1000, 1234), "a backend", compiles)


def test_all_of_it():
    notes = ("2 files or links are not used: 2 .heic (first a.heic)",)
    assert lines(source((6, 8), (2, 2), notes=notes), compiles=True) == [
        "data        digits: 2 classes",
        "training    14 images, 6 (a) to 8 (b) of a class",
        "validation  4 images, 2 of each class",
        "data.dir: 2 files or links are not used: 2 .heic (first a.heic)",
        "network     dim 8, depths 1, 2, images of 32 x 32; 1,234 parameters, 1,000 of them "
        "trained",
        "weights     random initial values, seed 0",
        "runs on     a backend, float32",
        "steps       9 in 3 epochs, 3 of 4 images in each; 2 images are left over in each epoch",
        "output      out",
        "The first step compiles: until it is done, which may take minutes, nothing is said.",
    ]


def test_published_weights_and_another_folder(tmp_path):
    (tmp_path / "w.keras").touch()
    options = ["--model.variant=tiny", "--model.dim=null", "--model.depths=null"]
    options += [f"--model.weights={tmp_path}/w.keras", f"--data.dir={tmp_path}", "--data.name=npz"]
    found = lines(source((6, 6)), *options, "--train.precision=mixed_bfloat16")
    assert found[0] == f"data        npz, {tmp_path}: 2 classes"
    assert found[3].startswith("network     tiny, dim 80, depths 2, 8, 14, 2, images of 32 x 32; ")
    assert found[4:7] == [
        f"weights     {tmp_path}/w.keras",
        "runs on     a backend, mixed_bfloat16",
        "steps       9 in 3 epochs, 3 of 4 images in each",
    ]


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ((1, 0), "after epoch 1; 6 steps are left"),
        ((1, 2), "after step 2 of epoch 2; 4 steps are left"),
        ((3, 0), "after epoch 3; 0 steps are left"),
    ],
)
def test_where_a_run_goes_on(place, where):
    found = lines(source((6, 6)), place=place, compiles=True)
    assert f"goes on     {where}" in found
    assert (preface.COMPILES in found) == (place[0] < 3)


def test_the_first_few_classes_are_named_and_escaped():
    labels = np.array([0, 0, 1, 2, 3, 4], "int32")
    names = ("a", "b\n", "c", "d", "e", "f")
    text = preface.in_classes(Arrays(np.zeros((6, 1, 1, 3), "uint8"), labels), names)
    assert text == "6 images, 0 (f) to 2 (a) of a class"
    text = preface.in_classes(Arrays(np.zeros((2, 1, 1, 3), "uint8"), labels[:2]), names)
    assert text == "2 images, 0 (b\\n, c, d, 2 more) to 2 (a) of a class"


def test_labels_that_are_not_known():
    files = Files(5, read=None)
    assert preface.class_counts(files, 2) is None
    text = preface.in_classes(files, ("a", "b"))
    assert text == "5 images; how many of a class is known only when they are read"
    found = preface.about_data(parse(SMALL), Source(("a", "b"), files, files))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("counts", "times"), [((2, 19), None), ((2, 20), 10), ((0, 9), None), ((0, 55), 55)]
)
def test_classes_of_very_different_size(counts, times):
    found = [x for x in lines(source(counts)) if x.startswith("data.balance: ")]
    assert found == [] if times is None else f" {times} times as many images" in found[0]
    assert not [x for x in lines(source(counts), "--data.balance=sampling") if "times" in x]


def test_of_several_labels_no_balance_is_proposed():
    rows = np.array([[1, 1]] + [[1, 0]] * 30, "uint8")
    several = Arrays(np.zeros((31, 1, 1, 3), "uint8"), rows)
    found = lines(Source(("a", "b"), several, several))
    assert found[1] == "training    31 images, 1 (b) to 31 (a) of a class"
    assert not [x for x in found if x.startswith("data.balance")]


def test_what_is_left_over_where_images_are_shown_more_than_once():
    for option in ("--data.repeats=2", "--data.balance=sampling"):
        found = lines(source((6, 8)), option, "--data.group_size=4")
        assert "steps       9 in 3 epochs, 3 of 4 images in each" in found


def test_the_hardware():
    engine = SimpleNamespace(devices=4, name="a strategy")
    text = preface.hardware(engine, linear())
    assert text.startswith(f"{keras.backend.backend()} ") and f"Keras {keras.__version__}" in text
    assert text.endswith(", a strategy (4 x CPU)")
