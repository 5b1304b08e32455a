"""What weights know: architecture and size for the configuration, classes for an evaluation."""

import json
import re

import keras
import numpy as np
import pytest
import yaml
from helpers.processes import TESTS
from helpers.training import SMALL, Run, refused

import keras_smlp
from keras_smlp.data.splits import Arrays, Files, Source
from keras_smlp.inference.classes import imagenet_classes
from keras_smlp.training import known, network
from keras_smlp.training.config import ModelConfig
from keras_smlp.training.parsing import parse
from keras_smlp.variants import VARIANTS
from keras_smlp.weights import identify

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The path of a small network of ten classes, the digits, in a folder like that of a run."""
    path = tmp_path_factory.mktemp("weights") / "w.keras"
    shape = {"input_shape": (16, 16, 3), "patch_size": 2, "expansion": 2}
    keras.utils.set_random_seed(0)
    keras_smlp.SMLPNet(8, (1, 1), classes=10, **shape).save(path)
    (path.parent / "classes.json").write_text(json.dumps(list("0123456789")))
    return path


@pytest.fixture
def bare(tmp_path):
    """The option of a configuration that says nothing of the network."""
    (tmp_path / "bare.yaml").write_text("data: {name: digits, resize_size: 32}\n")
    return f"--config={tmp_path / 'bare.yaml'}"


# ---- architecture -------------------------------------------------------------------------------


def test_what_is_not_said_is_taken_from_the_file(weights, bare, tmp_path, capsys):
    argv = [bare, f"--model.weights={weights}"]
    config = parse(argv)
    model = config.model
    assert (model.variant, model.dim, model.depths) == (None, 8, (1, 1))
    assert (model.expansion, model.patch_size, model.input_size) == (2, 2, 16)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert yaml.safe_load(config.to_yaml())["model"]["dim"] == 8
    assert parse([f"--config={tmp_path / 'config.yaml'}"]) == config
    with pytest.raises(SystemExit):
        parse([*argv, "--help"])
    assert "default: 8)" in " ".join(capsys.readouterr().out.split())


def test_a_file_is_looked_at_again_when_it_has_changed(weights, tmp_path, monkeypatch):
    path, opened, infer = tmp_path / "w.keras", [], identify.infer
    monkeypatch.setattr(identify, "infer", lambda path: opened.append(path) or infer(path))
    path.write_bytes(weights.read_bytes())
    assert known.inferred(path) == known.inferred(str(path)) and len(opened) == 1
    assert known.in_words(path).endswith("(dim 8, depths 1, 1, 16 px, 10 classes)")
    assert len(opened) == 1
    keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3).save(path)
    assert known.in_words(path).endswith("(dim 8, depths 1, 1, 32 px, 3 classes)")
    assert len(opened) == 2


def test_other_channels_are_taken_too(bare, tmp_path):
    for channels in (3, 5):
        path = tmp_path / f"{channels}.keras"
        keras_smlp.SMLPNet(8, (1, 1), classes=3, input_shape=(32, 32, channels)).save(path)
        argv = ["--data.name=folder", "--data.dir=x", "--data.augment=none", bare]
        argv += [f"--model.weights={path}"]
        assert parse(argv).data.channels == channels
        assert parse([*argv, "--data.channels=1"]).data.channels == 1
    assert known.in_words(path).endswith("(dim 8, depths 1, 1, 32 px, 5 channels, 3 classes)")


def test_gray_weights_are_of_gray_images(tmp_path):
    path = tmp_path / "gray.keras"
    keras_smlp.SMLPNet(8, (1, 1), classes=10, input_shape=(32, 32, 1)).save(path)
    argv = [f"--model.weights={path}", "--data.augment=none"]
    assert parse([*argv, "--eval"]).data.channels == parse(argv).data.channels == 1
    assert parse([*argv, "--data.channels=3"]).data.channels == 3
    assert known.in_words(path).endswith("(dim 8, depths 1, 1, 32 px, gray, 10 classes)")


def test_what_is_said_stays(weights, bare):
    argv = [bare, f"--model.weights={weights}"]
    assert parse([*argv, "--model.input_size=32"]).model.input_size == 32
    assert parse([*argv, "--model.dim=16"]).model.dim == 16
    assert parse([*argv, "--model.dim=null"]).model.dim == 8
    with_variant = parse([*argv, "--model.variant=tiny", "--model.input_size=32"]).model
    assert (with_variant.variant, with_variant.dim, with_variant.expansion) == ("tiny", None, 3)


def test_a_published_architecture_is_called_by_its_name(weights, bare, monkeypatch):
    small = identify.published(VARIANTS["small"])
    monkeypatch.setattr(known, "inferred", lambda path: small)
    argv = [bare, f"--model.weights={weights}", "--data.resize_size=null"]
    model = parse(argv).model
    assert (model.variant, model.dim, model.input_size) == ("small", None, 224)
    assert model.architecture()["drop_path_rate"] == 0.2
    assert known.in_words("smlp_s.pth") == (
        "smlp_s.pth is small (dim 96, depths 2, 10, 24, 2, 224 px, 1000 classes)"
    )


def test_named_configurations_give_way(weights, tmp_path):
    own = f"--model.weights={weights}"
    sizes = (8, (1, 1), 2, 2, 16)

    def read(*argv):
        config = parse([own, "--data.channels=3", *argv])
        model = config.model
        found = (model.dim, model.depths, model.expansion, model.patch_size, model.input_size)
        assert model.variant is None
        return found, config.data.resize_size

    assert read() == read("--eval") == read("--config=digits") == (sizes, None)
    assert read("--config=finetune") == (sizes, None)
    assert read("--data.resize_size=20") == (sizes, 20)
    assert read("--model.input_size=32") == ((*sizes[:4], 32), 32)
    assert read("--model.dim=16")[0] == (16, *sizes[1:])
    # a file of the user's does not
    (tmp_path / "own.yaml").write_text("model: {dim: 32, input_size: 32}\n")
    mine = f"--config={tmp_path / 'own.yaml'}"
    assert read("--config=digits", mine) == ((32, *sizes[1:4], 32), 32)
    assert read(mine, "--config=digits") == (sizes, None)
    assert parse(["--config=digits", mine]).model.depths == (2, 2)


def test_images_of_the_same_size_are_resized_as_before(tmp_path):
    def resized(*shape):
        path = tmp_path / "w.keras"
        keras_smlp.SMLPNet(8, (1, 1), classes=3, input_shape=(*shape, 3)).save(path)
        config = parse([f"--model.weights={path}"])
        return config.model.input_size, config.data.resize_size

    assert resized(32, 32) == (32, 32)
    assert resized(16, 16) == (16, None)
    assert resized(16, 24) == (32, 32)


def test_a_file_that_cannot_be_read(bare, tmp_path):
    path = tmp_path / "w.pth"
    path.write_text("no weights")
    with pytest.raises(ValueError, match=f"^model.weights: {re.escape(str(path))} is not a PyTo"):
        parse([bare, f"--model.weights={path}"])
    # the network that reads it says so, once data are there
    shape = ["--model.dim=8", "--model.depths=[1,1]", "--model.input_size=32"]
    assert parse([bare, f"--model.weights={path}", *shape]).model.dim == 8


# ---- loss ---------------------------------------------------------------------------------------


def test_an_evaluation_takes_the_loss_of_the_weights(tmp_path):
    body = keras_smlp.SMLPNet(
        8, (1, 1), classes=4, input_shape=(32, 32, 3), classifier_activation=None
    )
    for loss, other in (("softmax", "sigmoid"), ("sigmoid", "softmax")):
        path = tmp_path / f"{loss}.keras"
        network.with_probabilities(body, loss).save(path)
        argv = ["--eval", f"--model.weights={path}"]
        assert parse(argv).train.loss == parse([*argv, f"--train.loss={loss}"]).train.loss == loss
        message = f"train.loss: {other} with --eval, allowed: {loss}, as in {path}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            parse([*argv, f"--train.loss={other}"])
        assert parse([*argv, "--eval.probe=true"]).train.loss == "softmax"
        assert parse([*argv, "--eval.probe=true", f"--train.loss={other}"]).train.loss == other
        assert parse([f"--model.weights={path}"]).train.loss == "softmax"
        assert known.in_words(path).endswith(", sigmoid)") == (loss == "sigmoid")
    body.save(tmp_path / "logits.keras")
    argv = ["--eval", f"--model.weights={tmp_path / 'logits.keras'}"]
    assert parse([*argv, "--train.loss=sigmoid"]).train.loss == "sigmoid"
    assert parse(argv).train.loss == "softmax"


# ---- weights of another head, or stem -----------------------------------------------------------


@pytest.mark.deep
def test_weights_without_a_head_fill_the_body(tmp_path, capsys):
    path = tmp_path / "body.keras"
    body = keras_smlp.SMLPNet(
        8, (1, 1), patch_size=2, input_shape=(16, 16, 3), include_top=False, pooling="avg"
    )
    body.save(path)
    config = ModelConfig(dim=8, depths=(1, 1), patch_size=2, input_size=16, weights=str(path))
    net, left_out, trained_at = network.build(config, 10, "float32")
    assert (net.output_shape, left_out, trained_at) == ((None, 10), 0, None)
    for mine, theirs in zip(net.weights, body.weights, strict=False):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (mine, theirs)), mine.path)
    weights = f"--model.weights={path}"
    line = [*SMALL, weights, f"--output_dir={tmp_path / 'out'}", "--eval"]
    message = "model.weights: no head, allowed: a head for 10 classes, as the data"
    assert refused(capsys, *line, began=True) == f"train.py: error: {message}\n"
    probe = Run(tmp_path / "probe", weights, "--eval", "--eval.probe=true")
    assert "k-NN" in probe.out and "head for" not in probe.out
    run = Run(tmp_path / "run", weights, "--train.epochs=1")
    assert "model.weights: a new head for 10 classes\n" in run.out


def test_the_stem_in_words(tmp_path):
    body = {"dim": 8, "depths": (1, 1), "patch_size": 2}
    path = str(tmp_path / "w.weights.h5")
    gray = {"input_shape": (16, 16, 1), "include_preprocessing": False}
    keras_smlp.SMLPNet(**body, **gray, classes=3).save_weights(path)
    config = ModelConfig(**body, input_size=16, weights=path)
    net, _, trained_at = network.build(config, 3, "float32", channels=1)
    assert trained_at == (16, 16, 1)
    words = "a stem for 3 channels, which 1 is repeated to, made of that for 1"
    assert network.fitted_in_words(trained_at, net) == words


def test_a_file_is_named_so_that_it_cannot_move_the_terminal(tmp_path):
    path = tmp_path / "a\x1b[2J.keras"
    path.write_bytes((TESTS / "files_of_0_1_0" / "trained.keras").read_bytes())
    assert known.in_words(path).startswith(f"{tmp_path}/a\\x1b[2J.keras is an sMLPNet (dim 8")


def test_a_file_that_goes_while_it_is_read(weights, tmp_path, monkeypatch, capsys):
    def gone(path):
        raise FileNotFoundError("it is gone")

    monkeypatch.setattr(known, "in_words", gone)
    line = [*SMALL, "--model.expansion=2", f"--model.weights={weights}", "--eval"]
    error = refused(capsys, *line, f"--output_dir={tmp_path}")
    assert error == "train.py: error: model.weights: it is gone\n"


# ---- classes ------------------------------------------------------------------------------------


def source_of(names, labels):
    labels = np.asarray(labels)
    images = np.zeros((len(labels), 2, 2, 3), "uint8")
    names_of = [f"{i}.jpg" for i in range(len(labels))]
    files = Files(len(labels), lambda i: ([b""] * len(i), labels[i], [names_of[k] for k in i]))
    return Source(tuple(names), Arrays(images, labels), files)


def test_data_of_some_classes_in_another_order(weights):
    source = source_of(["7", "0"], np.array([0, 1, 1], "int32"))
    found, note = known.with_classes(source, str(weights))
    assert found.class_names == tuple("0123456789")
    assert found.train.labels.tolist() == [7, 0, 0]
    assert found.validation.read(np.array([2, 0]))[1].tolist() == [0, 7]
    assert found.validation.labels is None
    assert note == "the 10 classes are those of classes.json, the data have 2"
    several, _ = known.with_classes(source_of(["7", "0"], [[1, 0], [1, 1]]), str(weights))
    assert several.train.labels.tolist() == [[0] * 7 + [1, 0, 0], [1] + [0] * 6 + [1, 0, 0]]
    assert several.validation.read(np.array([0]))[1].tolist() == [[0] * 7 + [1, 0, 0]]


def test_other_names_are_left_alone(weights):
    same = source_of("0123456789", np.array([3]))
    assert known.with_classes(same, str(weights)) == (same, "")
    others = source_of(["cat", "dog"], np.array([0]))
    assert known.with_classes(others, str(weights)) == (others, "")
    ten = source_of("012345678x", np.array([3]))
    note = "classes.json does not name x; the classes go by their numbers"
    assert known.with_classes(ten, str(weights)) == (ten, note)


def test_official_weights_have_the_classes_of_imagenet():
    source = source_of(["n01440764", "n15075141"], np.array([0, 1]))
    found, note = known.with_classes(source, "imagenet")
    assert found.class_names == tuple(wnid for wnid, _ in imagenet_classes())
    assert found.train.labels.tolist() == [0, 999]
    assert note == "the 1000 classes are those of ImageNet, the data have 2"


def test_an_evaluation_on_some_of_the_classes(weights, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 16, 16, 3), "uint8"), rng.integers(0, 2, 40)
    content = {"train_images": images[:1], "train_labels": labels[:1]}
    content |= {"validation_images": images, "validation_labels": labels}
    probabilities = keras.models.load_model(weights).predict(images, verbose=0)
    names = [str(k) for k in np.argsort(-probabilities.sum(axis=0))[:2]]  # likely ones
    np.savez(tmp_path / "a.npz", **content, class_names=names)
    data = ["--data.name=npz", f"--data.dir={tmp_path / 'a.npz'}", "--model.expansion=2"]
    run = Run(tmp_path, *data, "--eval", f"--model.weights={weights}")
    right = probabilities.argmax(axis=1) == np.array(names, int)[labels]
    assert 0 < right.mean() < 1
    assert f"* Acc@1 {100 * right.mean():.3f} " in run.out
    assert "model.weights: the 10 classes are those of classes.json, the data have 2\n" in run.out
    words = "w.keras is an sMLPNet (dim 8, depths 1, 1, 16 px, 10 classes)\n"
    assert f"model.weights: {weights.parent}/{words}" in run.out
