"""The sections of a report on images with several labels each: `page` of those."""

import numpy as np

from keras_smlp.analysis import charts, page
from keras_smlp.analysis.charts import text
from keras_smlp.analysis.findings import BINS, expected_calibration_error
from keras_smlp.analysis.several import THRESHOLD

NAMED = 5  # classes of a kind in the caption of a picture
F1 = f"F1 at {THRESHOLD:g}"
# words of `charts.calibration`
OF_CLASSES = ("probability of a class", "part with this label", "image-class pairs", "labeled so")
NO_MATRIX = (
    "There is no confusion matrix: an image may be of several classes, so that a wrong one is not "
    "taken for a certain other."
)


def classes(found, class_names):
    """The average precision of each class, the worst first.

    Args:
        found: The `several.Findings`.
        class_names: The name of each class.
    """
    images, precisions, f1, named = found.of_classes()
    known = np.flatnonzero(images)
    # of equally bad ones the larger first
    order = known[np.lexsort((known, -images[known], precisions[known]))]
    heads = ["class", "images", "named so", "average precision", F1]
    rows = [
        [
            text(class_names[k]),
            f"{images[k]:.0f}",
            f"{named[k]:.0f}",
            page.part_bar(precisions[k], f"{100 * precisions[k]:.1f}%"),
            f"{100 * f1[k]:.1f}%",
        ]
        for k in order.tolist()
    ]
    missing = [class_names[k] for k in np.flatnonzero(images == 0)]
    chart = charts.histogram(precisions[known], "average precision")
    return page.notes([NO_MATRIX]) + page.worst_first(heads, rows, missing, chart)


def calibration(found, fitted=None, hint=""):
    """How sure the network is of each class of each image; see `page.calibration`."""
    bins = found.reliability()
    counts, confidences, right = bins.sum(axis=1)
    said = (
        f"Over all {counts:,.0f} pairs of an image and a class, the network gives a probability of "
        f"{100 * confidences / counts:.1f}% on average, and {100 * right / counts:.1f}% of the "
        f"images have the label. Expected calibration error (ECE, {BINS} bins) of these "
        f"probabilities: {100 * expected_calibration_error(bins):.1f}%; most of them are usually "
        "small, and the error with them. On the diagonal a probability is as large as the part of "
        "the images that have the label."
    )
    return page.notes([said]) + page.reliability(bins, OF_CLASSES, fitted, hint)


def mistakes(worst, maps, class_names):
    """The worst errors: pictures, where the network looked, what it named wrongly and missed.

    Args:
        worst: List of `several.Mistake`.
        maps: See `page.mistakes`.
        class_names: The name of each class.
    """
    return page.cards(worst, maps, [caption(x, maps is not None, class_names) for x in worst])


def caption(found, has_map, class_names):
    """What was named rightly and wrongly in an image, and what was missed."""
    kinds = (
        ("rightly named", "", found.classes(True, True)),
        ("wrongly named", ' class="no"', found.classes(False, True)),
        ("missed", ' class="no"', found.classes(True, False)),
    )
    lines = []
    for words, kind, own in kinds:
        named = [
            f"<b{kind}>{text(class_names[k], 60)}</b> {page.percent(found.probabilities[k])}"
            for k in own[:NAMED]
        ]
        more = f" and {len(own) - NAMED} more" if len(own) > NAMED else ""
        lines += [f"{words}: {', '.join(named)}{more}"] if own else []
    of_map = f"<small>map: {text(class_names[found.shown_class], 60)}</small>" if has_map else ""
    return "<br>".join(lines) + of_map
