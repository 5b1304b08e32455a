"""Several labels an image: the cell of a CSV file that names them, and a row of zeros and ones."""

import numpy as np

from keras_smlp.checks import shown

SEPARATOR = ";"  # of the labels in a cell


def of_cell(cell):
    """The labels in the cell of a CSV file, none in an empty one; `ValueError` if one is empty."""
    found = tuple(part.strip() for part in cell.split(SEPARATOR)) if cell else ()
    if not all(found):
        raise ValueError(f"the label {shown(cell)}, allowed: names separated by {SEPARATOR}")
    return found


def rows_of(found, class_names):
    """Labels as the network learns them.

    Args:
        found: List with the labels of each image, a sequence of names from `class_names`.
        class_names: Sequence of strings.

    Returns:
        uint8 array `(images, classes)`, 1 where an image is of a class.
    """
    numbers = {name: k for k, name in enumerate(class_names)}
    rows = np.zeros((len(found), len(numbers)), "uint8")
    for row, names in zip(rows, found, strict=True):
        row[[numbers[name] for name in names]] = 1
    return rows


def in_words(classes, class_names):
    """The names of some classes, a sequence of integers, as one cell."""
    return SEPARATOR.join(class_names[k] for k in classes)
