"""Exports a saved model on the running backend: what `writing.write_in_subprocess` starts."""

import importlib
import re
from pathlib import Path

import keras

from keras_smlp.deploy.export.meaning import Meaning
from keras_smlp.deploy.export.writing import write


def run(job):
    """Does a job, the arguments of `writing.write` with the path of the saved model; then exits."""
    saved, modules = job.pop("model"), job.pop("modules")
    try:
        for module in modules:
            importlib.import_module(module)
        model = keras.models.load_model(saved, compile=False)
    except Exception as error:  # of Keras, or of the module of a user's layer
        words = str(error) or type(error).__name__
        reason = (re.findall(r"Could not locate \w+ '[^']*'", words) or words.splitlines())[0]
        raise SystemExit(
            "the process that writes it cannot load `model`: it sees layers and functions of your "
            "own only in modules that can be imported, not those of a script, a notebook or a "
            f"module that was made at run time ({reason})"
        ) from error
    write(model, Path(job.pop("path")), means=Meaning(*job.pop("means")), **job)
