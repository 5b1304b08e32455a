"""The names of the files that a run leaves in its folder."""

from keras_smlp.inference.classes import CLASSES
from keras_smlp.inference.evaluated import CONFIG

BEST, LAST, EMA = "best.keras", "last.keras", "ema.keras"
BATCH, CURVES, HISTORY, SPLIT, SUMMARY = (
    *("batch.png", "curves.png", "history.csv"),
    *("split.csv", "summary.md"),
)
# of up to four channels, and of more
EXAMPLES = ("example.png", "example.tif")
CALIBRATED, PAGE = "calibrated.keras", "report.html"  # which `review` writes
# all that `saving.replacing` writes
FILES = {BEST, LAST, EMA, CALIBRATED, BATCH, CURVES, HISTORY, SPLIT, SUMMARY, PAGE}
FILES |= {CLASSES, CONFIG, *EXAMPLES}
