"""Sends a run to MLflow or Weights & Biases: its configuration, its history, its report."""

import contextlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from keras_smlp.checks import read_text, shown
from keras_smlp.saving import replacing
from keras_smlp.training.callbacks import Interrupted

FILE = "logger.json"
MAX_FILE = 1 << 20  # bytes of it
AT_ONCE = 100  # parameters that MLflow's server takes in a request


class MLflow:
    """A run of MLflow; `MLFLOW_TRACKING_URI` and so on say where it is kept."""

    def __init__(self, folder: Path):
        import mlflow

        self.mlflow, self.folder = mlflow, folder

    def start(self, identity: str | None, parameters: Mapping[str, Any]) -> str:
        """Begins a run, or goes on in the one of this identity; its identity."""
        if identity is not None:
            return self.mlflow.start_run(run_id=identity).info.run_id
        run = self.mlflow.start_run(run_name=self.folder.name)
        pairs = list(parameters.items())
        for i in range(0, len(pairs), AT_ONCE):
            self.mlflow.log_params(dict(pairs[i : i + AT_ONCE]))
        return run.info.run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.mlflow.log_metrics(metrics, step=step)

    def attach(self, files: Sequence[Path]) -> None:
        for file in files:
            self.mlflow.log_artifact(str(file))

    def finish(self, status: str) -> None:
        self.mlflow.end_run(status)


class WeightsAndBiases:
    """A run of Weights & Biases; `WANDB_PROJECT`, `WANDB_MODE` and so on say where it is kept."""

    def __init__(self, folder: Path):
        import wandb

        self.wandb, self.folder = wandb, folder
        self.run: Any = None

    def start(self, identity: str | None, parameters: Mapping[str, Any]) -> str:
        """Begins a run, or goes on in the one of this identity; its identity."""
        self.run = self.wandb.init(
            id=identity,
            resume=None if identity is None else "allow",
            config=dict(parameters) if identity is None else None,
            # its own arguments go over the variables
            name=os.environ.get("WANDB_NAME", self.folder.name),
            dir=os.environ.get("WANDB_DIR", str(self.folder)),
        )
        return self.run.id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.run.log(dict(metrics), step=step, commit=True)  # a kill may come

    def attach(self, files: Sequence[Path]) -> None:
        artifact = self.wandb.Artifact(f"report-{self.run.id}", type="report")
        for file in files:
            artifact.add_file(str(file))
        self.run.log_artifact(artifact)

    def finish(self, status: str) -> None:
        if self.run is not None:
            self.run.finish(exit_code=int(status != "FINISHED"))


SERVICES = {"mlflow": MLflow, "wandb": WeightsAndBiases}


class Logger:
    """What `train.logger` asks for; only the main process sends anything.

    Which run it is and how much of its history was sent is in `logger.json` in `output_dir`: a
    process that goes on, after a kill too, goes on in the same run, and sends what is missing. If
    sending fails, a line says so and the training goes on; what is missing is sent at the end. Use
    it as a context manager, which tells the service how the run ended.

    Args:
        config: The `config.Config`.
        is_main: Boolean. Whether this is the main process.
        say: Function that prints a line. Defaults to one that prints it above a bar, if there is
            one.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """

    def __init__(self, config, is_main=True, say=tqdm.write):
        self.config, self.say = config, say
        self.kind = config.train.logger
        self.folder = Path(config.output_dir)
        self.service: Any = None
        self.state: dict = {}
        self.is_broken = False
        if self.kind != "none":
            importlib.import_module(self.kind)  # in every process: all of them end
            if is_main:
                self.service = SERVICES[self.kind](self.folder.resolve())

    def start(self, resumed: bool) -> None:
        """Begins the service's run, or goes on in it.

        Args:
            resumed: Boolean. Whether the training goes on from a checkpoint. If not, it goes on
                only in a run of this configuration without a history.

        Raises:
            ValueError: If the service's run cannot begin. That one cannot go on is only said.
        """
        if self.service is None:
            return
        parameters = flat(self.config.to_dict())
        state = self.read().get(self.kind, {})
        if not resumed and (state.get("epochs") or state.get("parameters") != parameters):
            state = {}
        try:
            identity = self.service.start(state.get("id"), parameters)
        except Exception as error:  # each service has its own kinds
            if not state:
                with contextlib.suppress(Exception):
                    self.service.finish("FAILED")
                raise ValueError(
                    f"train.logger: {self.kind} cannot begin a run ({line_of(error)}), allowed: "
                    "where it can, or none"
                ) from error
            self.say(
                f"train.logger: {self.kind} cannot go on in the run {shown(state['id'])} "
                f"({line_of(error)}); the training goes on without it ({FILE} removed: in a new "
                "run)"
            )
            self.service = None
            return
        self.state = state or {"id": identity, "epochs": 0, "parameters": parameters}
        self.write()

    def log(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Sends what was not sent yet of the history, a row for each epoch."""
        if self.service is not None and not self.is_broken:
            self.attempt(
                lambda: self.send(rows),
                "the training goes on, and what is missing is sent at its end, or when it is "
                "started again",
            )

    def end(self, rows: Sequence[Mapping[str, float]], files: Sequence[Path]) -> None:
        """Sends what is missing of the history, and files.

        Args:
            rows: The whole history.
            files: Paths; those that are not there are left out.
        """
        missing = "what is missing is sent when the training is started again"
        if self.service is not None and self.attempt(lambda: self.send(rows), missing):
            found = [x for x in files if x.is_file()]
            self.attempt(lambda: self.service.attach(found), missing)

    def send(self, rows):
        for row in rows[self.state["epochs"] :]:
            metrics = {key: float(value) for key, value in row.items() if key != "epoch"}
            self.service.log(metrics, int(row["epoch"]))
            self.state["epochs"] += 1
            self.write()

    def attempt(self, function, otherwise):
        """Calls a function; whether it succeeded. If not, says so, and what happens then."""
        try:
            function()
            self.is_broken = False
        except Exception as error:
            self.is_broken = True
            self.say(f"train.logger: {self.kind} failed ({line_of(error)}); {otherwise}")
        return not self.is_broken

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if self.service is not None and self.state:
            interrupted = isinstance(error, (Interrupted, KeyboardInterrupt))
            status = "FINISHED" if error is None else "KILLED" if interrupted else "FAILED"
            if self.is_broken:  # which was said
                with contextlib.suppress(Exception):
                    self.service.finish(status)
            else:
                self.attempt(
                    lambda: self.service.finish(status), "it does not know that the run has ended"
                )

    # ---- what a process that goes on must know --------------------------------------------------
    def read(self):
        """The state of each service that was used; what is no such file counts as none."""
        try:
            states = json.loads(read_text(self.folder / FILE, MAX_FILE))
            for state in states.values():
                if not (isinstance(state["id"], str) and type(state["epochs"]) is int):
                    raise ValueError("no state")
            return states
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
            return {}

    def write(self):
        with replacing(self.folder / FILE) as temporary:
            temporary.write_text(json.dumps({**self.read(), self.kind: self.state}), "utf-8")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one of whole keys: `{"train.epochs": 300}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def line_of(error: Exception) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shown(lines[0], 300)
