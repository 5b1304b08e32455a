"""train.py: one short run looked at from all sides, what it refuses, and (slow) the digits."""

# ruff: noqa: E402 - what may be missing is asked for before it is imported

import contextlib
import csv
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

for package in ("tensorflow", "jsonargparse", "matplotlib", "sklearn", "tqdm"):
    pytest.importorskip(package, reason=f"train.py needs {package}")

from keras_smlp.data import pipeline, sources
from keras_smlp.portable import PortableModel
from keras_smlp.training.callbacks import Interruptible, Results
from keras_smlp.training.config import parse

ROOT = Path(__file__).parents[1]
SMALL = [
    "--model.dim=8",
    "--model.depths=[1,1]",
    "--model.input_size=16",
    "--model.patch_size=2",
    "--train.batch_size=80",
    "--train.epochs=2",
]
LINE = re.compile(r"^\* Acc@1 (\d+\.\d{3}) Acc@5 (\d+\.\d{3}) loss (\d+\.\d{3})$", re.MULTILINE)


@pytest.fixture
def train(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import train

    return train


class Run:
    """A small run in this process: its folder, what it printed, the network that it trained."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        self.argv = [f"--output_dir={folder}", *SMALL, *arguments]
        out, err = io.StringIO(), io.StringIO()
        fit = keras.Model.fit

        def noting(network, *args, **kwargs):
            self.network = network
            return fit(network, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(ROOT)
            patch.setattr(keras.Model, "fit", noting)
            import train

            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                train.main(self.argv)
        self.out, self.err = out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"), "--optimizer.label_smoothing=0.1")


@pytest.fixture(scope="module")
def validation():
    split = sources.load("digits").validation
    images, _ = zip(*pipeline.validation_batches(split, 16, 80).as_numpy_iterator(), strict=True)
    return np.concatenate(images), split.labels


def cross_entropy(probabilities, labels, smoothing=0.0):
    """Mean loss in float64."""
    targets = np.eye(10)[labels] * (1 - smoothing) + smoothing / 10
    return -(targets * np.log(probabilities.astype("float64"))).sum(axis=1).mean()


# ---- what it leaves behind ----------------------------------------------------------------------


def test_it_leaves_its_files_and_no_others(run):
    names = ["best.keras", "config.yaml", "curves.png", "history.csv", "last.keras"]
    assert sorted(path.name for path in run.folder.iterdir()) == names
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_the_config_is_the_one_that_was_used(run):
    assert parse(["--config", str(run.folder / "config.yaml")]) == parse(run.argv)


def test_the_history_is_that_of_the_saved_models(run, validation):
    with open(run.folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    images, labels = validation
    last = keras.models.load_model(run.folder / "last.keras")
    probabilities = last.predict(images, verbose=0)
    row = {name: float(value) for name, value in rows[-1].items()}
    assert row["val_accuracy"] == pytest.approx((probabilities.argmax(1) == labels).mean())
    # the loss is smoothed, the metric beside it is not
    smoothed = cross_entropy(probabilities, labels, smoothing=0.1)
    assert row["val_loss"] == pytest.approx(smoothed, rel=1e-4)
    plain = cross_entropy(probabilities, labels)
    assert row["val_cross_entropy"] == pytest.approx(plain, rel=1e-4)
    assert abs(smoothed - plain) > 0.005 * plain
    assert row["loss"] < float(rows[0]["loss"])


def test_the_last_lines_are_those_of_the_best_model(run, validation):
    images, labels = validation
    best = keras.models.load_model(run.folder / "best.keras")
    assert not best.compiled
    probabilities = best.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    ranks = (probabilities > probabilities[np.arange(360), labels, None]).sum(axis=1)
    top1, top5, loss = map(float, LINE.search(run.out).groups())
    assert top1 == pytest.approx(100 * (ranks < 1).mean(), abs=1e-3)
    assert top5 == pytest.approx(100 * (ranks < 5).mean(), abs=1e-3)
    assert loss == pytest.approx(cross_entropy(probabilities, labels), abs=1e-3)
    assert f"{run.folder}/best.keras, of epoch" in run.out and "on 360 images:" in run.out


def test_without_a_terminal_an_epoch_is_one_line(run):
    epochs = re.findall(r"^epoch \d/2: .*$", run.out, re.MULTILINE)
    number = r"\d+\.\d{4}"
    assert len(epochs) == 2 and re.fullmatch(
        rf"epoch 1/2: loss {number}, accuracy {number}, val_loss {number}, val_accuracy {number}, "
        r"\d+ images/s, \d+ s left",
        epochs[0],
    )
    assert "\r" not in run.out + run.err and "\x1b" not in run.out + run.err
    assert len(run.out.splitlines()) == 5


def test_the_optimizer_is_the_configured_one(run):
    optimizer, config = run.network.optimizer, parse(run.argv)
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert (optimizer.epsilon, optimizer.weight_decay) == (1e-8, config.optimizer.weight_decay)
    assert int(optimizer.iterations) == 34
    variables, numpy = run.network.trainable_variables, keras.ops.convert_to_numpy
    kept = [[numpy(v) for v in some] for some in (variables, optimizer.variables)]
    try:
        rates = []
        for step in (0, 17, 34):
            optimizer.iterations.assign(step)
            rates.append(float(optimizer.learning_rate))
        # 17 steps an epoch: one of warm-up, then a cosine down to nothing
        assert rates == pytest.approx([0, config.optimizer.learning_rate, 0], abs=1e-9)
        # without gradient and momentum a step is the decay alone
        for variable in optimizer.variables:
            variable.assign(0 * numpy(variable))
        optimizer.iterations.assign(17)
        optimizer.apply([keras.ops.zeros(v.shape) for v in variables], variables)
        still = {
            v.path
            for v, old in zip(variables, kept[0], strict=True)
            if np.array_equal(numpy(v), old)
        }
    finally:
        for some, values in zip((variables, optimizer.variables), kept, strict=True):
            for variable, value in zip(some, values, strict=True):
                variable.assign(value)
    assert still == {v.path for v in variables if v.name in ("bias", "gamma", "beta")}
    assert 0 < len(still) < len(variables)


@pytest.mark.slow
def test_the_printed_command_predicts(run):
    command = run.out.splitlines()[-1].removeprefix("Use it: ")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert re.fullmatch(r"predicted \d label 7\n", done.stdout), done.stderr


def test_mixed_precision_a_model_to_start_from_and_the_best_that_is_not_the_last(
    run, validation, monkeypatch, tmp_path
):
    on_epoch_end = Results.on_epoch_end

    def worse_and_worse(results, epoch, logs):
        on_epoch_end(results, epoch, {**logs, "val_accuracy": -float(epoch)})

    monkeypatch.setattr(Results, "on_epoch_end", worse_and_worse)
    start = f"--model.weights={run.folder / 'best.keras'}"
    again = Run(tmp_path, start, "--train.precision=mixed_bfloat16", "--optimizer.warmup_epochs=0")
    assert again.network.get_layer("stage2_block1_token_mixing").compute_dtype == "bfloat16"
    assert "best.keras, of epoch 1, " in again.out
    images, labels = validation
    best, last = (
        keras.models.load_model(tmp_path / f"{name}.keras").predict(images, verbose=0)
        for name in ("best", "last")
    )
    assert best.dtype == "float32"
    printed = float(LINE.search(again.out)[3])
    assert printed == pytest.approx(cross_entropy(best, labels), rel=0.01)
    assert printed > 1.05 * cross_entropy(last, labels)
    assert printed < float(LINE.search(run.out)[3])


# ---- callbacks ----------------------------------------------------------------------------------


def linear():
    inputs = keras.Input((1,))
    return PortableModel(inputs, keras.layers.Dense(1, use_bias=False)(inputs))


def test_the_best_is_the_most_accurate_then_the_one_of_lower_loss(tmp_path):
    model = linear()
    results = Results(model, tmp_path)
    history = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.7, 0.85), (0.6, 0.1)]
    for epoch, (accuracy, loss) in enumerate(history):
        model.set_weights([np.full((1, 1), epoch + 1.0)])
        results.on_epoch_end(epoch, {"val_accuracy": accuracy, "val_loss": loss})
    assert results.best_epoch == 3
    for name, epoch in (("best", 3.0), ("last", 5.0)):
        saved = keras.models.load_model(tmp_path / f"{name}.keras")
        assert saved.get_weights()[0].item() == epoch
    assert (tmp_path / "history.csv").read_text().splitlines()[:2] == [
        "epoch,val_accuracy,val_loss",
        "1,0.5,1.0",
    ]


def test_ctrl_c_ends_the_run_after_the_step():
    before = signal.getsignal(signal.SIGINT)
    steps = []

    class Press(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            steps.append(batch)
            if batch == 1:
                signal.raise_signal(signal.SIGINT)

    model = linear()
    model.compile("sgd", "mse")
    ones = np.ones((8, 1), "float32")
    with pytest.raises(KeyboardInterrupt):
        model.fit(ones, ones, batch_size=2, verbose=0, callbacks=[Press(), Interruptible()])
    assert steps == [0, 1]
    assert signal.getsignal(signal.SIGINT) is before
    model.fit(ones[:2], ones[:2], verbose=0, callbacks=[Interruptible()])
    assert signal.getsignal(signal.SIGINT) is before


# ---- what it refuses ----------------------------------------------------------------------------


def refused(train, capsys, *arguments):
    """The one line of a run that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        train.main([*SMALL, *arguments])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and err.count("\n") == 1
    return err


def test_what_only_data_and_network_can_tell(train, capsys, tmp_path):
    folder = f"--output_dir={tmp_path}"
    assert refused(train, capsys, folder, "--train.batch_size=1438") == (
        "train.py: error: train.batch_size: 1438, allowed: at most 1437, all images\n"
    )
    assert list(tmp_path.iterdir()) == [], "a run that was refused left its configuration"
    file = tmp_path / "weights.pth"
    file.touch()
    error = refused(train, capsys, folder, f"--model.weights={file}")
    assert error.startswith(f"train.py: error: model: {file} is not a PyTorch file")
    error = refused(train, capsys, f"--output_dir={file}")
    assert error.startswith("train.py: error: output_dir: ") and str(file) in error


def test_a_backend_that_is_none_is_refused(train, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    assert refused(train, capsys) == (
        "train.py: error: KERAS_BACKEND: theano, allowed: tensorflow, jax, torch\n"
    )


@pytest.mark.parametrize(
    ("module", "extras"), [("sklearn.datasets", "train"), ("jsonargparse", "train")]
)
def test_a_missing_package_names_the_extra(train, capsys, monkeypatch, tmp_path, module, extras):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "keras_smlp.training.config")
    package = module.partition(".")[0]
    assert refused(train, capsys, f"--output_dir={tmp_path}") == (
        f'train.py: error: {package} is not installed: pip install -e ".[{extras}]"\n'
    )


@pytest.mark.parametrize(("backend", "extras"), [("jax", "jax,train"), ("tensorflow", "train")])
def test_a_missing_backend_names_the_extra(tmp_path, backend, extras):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules[{backend!r}] = None; "
        "import train; train.main([])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    line = f'train.py: error: {backend} is not installed: pip install -e ".[{extras}]"'
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == line
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_one_line(train, capsys, monkeypatch, tmp_path):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupted)
    with pytest.raises(SystemExit) as stop:
        train.main([f"--output_dir={tmp_path}"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "train.py: interrupted; what was saved is whole\n"


# ---- slow: the real thing -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_digits_are_learned(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "train.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(LINE.search(done.stdout)[1]) >= 97
    results = tmp_path / "runs" / "digits"
    names = ["best.keras", "config.yaml", "curves.png", "history.csv", "last.keras"]
    assert sorted(path.name for path in results.iterdir()) == names


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files(tmp_path):
    # what is started in the background, as tests may be, has Ctrl-C switched off
    code = (
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = [ROOT / "train.py", "--output_dir=.", "--train.epochs=50"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGINT)
                break
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.endswith("train.py: interrupted; what was saved is whole\n")
    assert "Traceback" not in err
    names = ["best.keras", "config.yaml", "history.csv", "last.keras"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    keras.models.load_model(tmp_path / "last.keras")
