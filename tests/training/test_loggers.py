"""MLflow with its file store and Weights & Biases offline; a service that fails, by a stand-in."""

import io
import json
import signal
import sys
from types import SimpleNamespace

import pytest
from helpers.training import SMALL, Run, refused
from tqdm import tqdm

from keras_smlp.training import files, loggers, report
from keras_smlp.training.callbacks import Interrupted
from keras_smlp.training.loggers import Logger
from keras_smlp.training.parsing import parse

pytestmark = pytest.mark.once

ROWS = [{"epoch": i, "loss": 1 / i, "val_accuracy": i / 10} for i in (1, 2, 3)]


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """MLflow, which keeps its runs in a folder here."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    mlflow = pytest.importorskip("mlflow", reason="train.logger: mlflow needs it")
    yield mlflow
    mlflow.end_run()


def configured(folder, kind, *arguments):
    return parse([*SMALL, f"--output_dir={folder}", f"--train.logger={kind}", *arguments])


def files_of(run):
    client = loggers.importlib.import_module("mlflow").MlflowClient()
    return {file.path for file in client.list_artifacts(run.info.run_id)}


def values_of(mlflow, run, key):
    """(step, value) of all that was sent of a metric."""
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, key)
    return [(metric.step, metric.value) for metric in history]


def test_a_killed_run_goes_on_in_the_same_one(mlflow, tmp_path):
    config = configured(tmp_path / "out", "mlflow", "--train.seed=7")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.md").write_text("# Summary")
    killed = Logger(config)
    killed.start(resumed=False)
    killed.log(ROWS[:1])
    mlflow.end_run("RUNNING")  # what a kill leaves
    with Logger(config) as logger:
        logger.start(resumed=True)
        logger.log(ROWS[:1])  # trained again: the same
        logger.log(ROWS[:2])
        logger.end(ROWS, [tmp_path / "out" / x for x in ("summary.md", "missing.png")])
    [run] = mlflow.search_runs(output_format="list")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "out")
    assert values_of(mlflow, run, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert values_of(mlflow, run, "val_accuracy") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert set(run.data.metrics) == {"loss", "val_accuracy"}
    assert run.data.params["train.seed"] == "7" and run.data.params["model.depths"] == "[1, 1]"
    assert set(run.data.params) == set(loggers.flat(config.to_dict()))
    assert files_of(run) == {"summary.md"}


@pytest.mark.parametrize(
    ("epochs", "arguments", "runs"), [(0, (), 1), (1, (), 2), (0, ("--train.seed=8",), 2)]
)
def test_a_run_begun_anew_has_one_of_its_own(mlflow, tmp_path, epochs, arguments, runs):
    """But for one that was killed before there was anything to see."""
    (tmp_path / "out").mkdir()
    killed = Logger(configured(tmp_path / "out", "mlflow"))
    killed.start(resumed=False)
    killed.log(ROWS[:epochs])
    mlflow.end_run("RUNNING")
    with Logger(configured(tmp_path / "out", "mlflow", *arguments)) as logger:
        logger.start(resumed=False)
    assert len(mlflow.search_runs(output_format="list")) == runs


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Interrupted(signal.SIGTERM), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "FAILED"),
    ],
)
def test_how_it_ended(mlflow, tmp_path, error, status):
    with pytest.raises(type(error)), Logger(configured(tmp_path, "mlflow")) as logger:
        logger.start(resumed=False)
        raise error
    [run] = mlflow.search_runs(output_format="list")
    assert run.info.status == status


def test_a_run_that_is_gone_is_said_and_no_error(mlflow, tmp_path):
    (tmp_path / loggers.FILE).write_text('{"mlflow": {"id": "0" , "epochs": 1}}')
    said = []
    with Logger(configured(tmp_path, "mlflow"), say=said.append) as logger:
        logger.start(resumed=True)
        logger.log(ROWS)
        logger.end(ROWS, [])
    assert said == [
        "train.logger: mlflow cannot go on in the run 0 (Run '0' not found); the training goes on "
        "without it (logger.json removed: in a new run)"
    ]
    assert json.loads((tmp_path / loggers.FILE).read_text())["mlflow"]["id"] == "0"


@pytest.mark.deep
def test_a_training_that_is_interrupted_and_goes_on(mlflow, tmp_path, monkeypatch, capsys):
    arguments = ("--train.logger=mlflow", f"--output_dir={tmp_path / 'out'}")
    write = report.Results.write

    def interrupted(results):
        signal.raise_signal(signal.SIGTERM)
        write(results)

    with monkeypatch.context() as patch:
        patch.setattr(report.Results, "write", interrupted)
        error = refused(capsys, *SMALL, *arguments, code=143, began=True)
    assert error == "train.py: error: interrupted by SIGTERM\n"
    [run] = mlflow.search_runs(output_format="list")
    assert run.info.status == "KILLED" and len(values_of(mlflow, run, "loss")) == 1
    done = Run(tmp_path / "out", *arguments)
    assert "\ngoes on     after epoch 1; 17 steps are left\n" in done.out
    [run] = mlflow.search_runs(output_format="list")
    assert run.info.status == "FINISHED"
    head, *rows = (tmp_path / "out" / "history.csv").read_text().splitlines()
    for name, *column in zip(head.split(","), *(x.split(",") for x in rows), strict=True):
        if name != "epoch":
            assert values_of(mlflow, run, name) == [(1, float(column[0])), (2, float(column[1]))]
    others = {"best.keras", "ema.keras", "last.keras", "calibrated.keras", "example.tif"}
    expected = files.FILES - others - {files.SPLIT}
    assert files_of(run) == expected


# ---- a stand-in ---------------------------------------------------------------------------------


class Service:
    """A service that can be gone."""

    is_gone = False

    def __init__(self, folder):
        self.did = []

    def start(self, identity, parameters):
        return self.do("start", identity) or "an id"

    def log(self, metrics, step):
        self.do("log", step)

    def attach(self, files):
        self.do("attach", *files)

    def finish(self, status):
        self.do("finish", status)

    def do(self, *what):
        if self.is_gone:
            raise ConnectionError("no server\nat this address")
        self.did.append(what)


@pytest.fixture
def logger(monkeypatch, tmp_path):
    """A logger of the stand-in that has started, and the lines that it says."""
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setitem(loggers.SERVICES, "mlflow", Service)
    said = []
    logger = Logger(configured(tmp_path, "mlflow"), say=said.append)
    logger.said = said
    return logger


def test_a_service_that_fails_is_said_once_and_gets_the_rest_at_the_end(logger):
    with logger:
        logger.start(resumed=False)
        logger.log(ROWS[:1])
        logger.service.is_gone = True
        logger.log(ROWS[:2])
        logger.log(ROWS)
        assert logger.said == [
            "train.logger: mlflow failed (no server); the training goes on, and what is missing is "
            "sent at its end, or when it is started again"
        ]
        logger.service.is_gone = False
        logger.end(ROWS, [])
    did = [("start", None), ("log", 1), ("log", 2), ("log", 3), ("attach",), ("finish", "FINISHED")]
    assert logger.service.did == did and len(logger.said) == 1


def test_a_service_that_stays_away_is_said_and_no_error(logger, tmp_path):
    with logger:
        logger.start(resumed=False)
        logger.log(ROWS[:1])
        logger.service.is_gone = True
        logger.end(ROWS, [])
    assert logger.said == [
        "train.logger: mlflow failed (no server); what is missing is sent when the training is "
        "started again"
    ]
    with Logger(logger.config) as again:  # which sends what is missing
        again.start(resumed=True)
        again.end(ROWS, [])
    assert again.service.did[:3] == [("start", "an id"), ("log", 2), ("log", 3)]


def test_a_service_that_is_gone_when_the_run_ends_is_said(logger):
    with logger:
        logger.start(resumed=False)
        logger.end(ROWS, [])
        logger.service.is_gone = True
    assert logger.said == [
        "train.logger: mlflow failed (no server); it does not know that the run has ended"
    ]


def test_on_a_terminal_a_line_is_written_above_the_bar(logger, monkeypatch):
    screen = io.StringIO()
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, screen)
    with tqdm(total=2, file=screen), Logger(logger.config) as own:
        own.start(resumed=False)
        own.service.is_gone = True
        own.log(ROWS)
    [line] = [x for x in screen.getvalue().splitlines() if x.startswith("train.logger: mlflow")]
    assert line.endswith("or when it is started again")


def test_a_service_that_cannot_begin_is_refused(logger, tmp_path):
    logger.service.is_gone = True
    line = "train.logger: mlflow cannot begin a run (no server), allowed: where it can, or none"
    with pytest.raises(ValueError) as stop, logger:
        logger.start(resumed=False)
    assert str(stop.value) == line and list(tmp_path.iterdir()) == []


def test_other_processes_send_nothing(logger):
    other = Logger(logger.config, is_main=False)
    with other:
        other.start(resumed=False)
        other.log(ROWS)
        other.end(ROWS, [])
    assert other.service is None


def test_none_is_the_default(tmp_path):
    config = parse([*SMALL, f"--output_dir={tmp_path}"])
    with Logger(config) as logger:
        logger.start(resumed=False)
        logger.log(ROWS)
        logger.end(ROWS, [])
    assert config.train.logger == "none" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["mlflow", "wandb"])
def test_a_missing_package_is_a_hint(kind, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, kind, None)
    error = refused(capsys, *SMALL, f"--output_dir={tmp_path}", f"--train.logger={kind}")
    line = f'{kind} is not installed: pip install "keras-smlp[{kind},train]"'
    assert error == f"train.py: error: {line}\n"


def test_a_state_that_is_damaged_counts_as_none(logger, tmp_path):
    for text in ("", "[]", '{"mlflow": 3}', '{"mlflow": {"id": 3, "epochs": 1}}', '{"mlflow": {}}'):
        (tmp_path / loggers.FILE).write_text(text)
        assert logger.read() == {}
    (tmp_path / loggers.FILE).write_text('{"wandb": {"id": "x", "epochs": 1}}')
    logger.start(resumed=True)
    assert set(logger.read()) == {"mlflow", "wandb"}


# ---- Weights & Biases ---------------------------------------------------------------------------


@pytest.mark.deep
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    pytest.importorskip("wandb", reason="train.logger: wandb needs it")
    (tmp_path / "summary.md").write_text("# Summary")
    for resumed, rows in ((False, ROWS[:1]), (True, ROWS)):
        with Logger(configured(tmp_path, "wandb")) as logger:
            logger.start(resumed)
            logger.log(rows)
            logger.end(rows, [tmp_path / "summary.md"])
            assert logger.service.run.summary["loss"] == rows[-1]["loss"]
    state = json.loads((tmp_path / loggers.FILE).read_text())["wandb"]
    assert state["epochs"] == 3
    folders = sorted(x.name for x in (tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(x.endswith(state["id"]) for x in folders)
