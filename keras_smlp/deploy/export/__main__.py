"""Exports a saved model on the running backend: what `api.write_in_subprocess` starts.

The arguments are a JSON object on the standard input.
"""

import json
import sys
from pathlib import Path

import keras

from keras_smlp.deploy.export.api import write

job = json.load(sys.stdin)
model = keras.models.load_model(job.pop("model"), compile=False)
write(model, Path(job.pop("path")), **job)
