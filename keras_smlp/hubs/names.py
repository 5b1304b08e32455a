"""The names of the files in a published folder."""

from keras_smlp.hubs import checker
from keras_smlp.training.files import CURVES
from keras_smlp.weights import hub
from keras_smlp.weights.keras_files import CLASSES

# format -> its file
MODELS = {"keras": hub.KERAS, "safetensors": hub.SAFETENSORS}
MODELS |= {name: file for name, (file, *_) in checker.RUNS.items()}
CHECKER, CONFIG, README = "check.py", "config.json", "README.md"
# all that such a folder may hold; an upload removes those of a former one
ALL = (*MODELS.values(), CLASSES, CONFIG, CURVES, README, CHECKER, checker.LIST, checker.VECTORS)
