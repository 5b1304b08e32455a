"""What a user names on a command line -> a model and the names of its classes."""

import json
from pathlib import Path

import keras

from keras_smlp.classes import imagenet_classes


def open_model(weights, variant=None, classes=None):
    """Opens a `.keras` file, or builds a published network with weights.

    Args:
        weights: String: `"imagenet"`, or the path of a file of weights; a `.keras` file is loaded
            as it was saved, not compiled.
        variant: Name of the published network that other weights are for; `None` is small.
        classes: Number of classes of other weights; `None` is ImageNet's 1000.

    Returns:
        A Keras model.

    Raises:
        ValueError: If the file cannot be read, the weights cannot be had or do not fit.
        FileNotFoundError: If there is no such `.keras` file.
    """
    import keras_smlp

    if not weights.endswith(".keras"):
        constructor = getattr(keras_smlp, f"SMLPNet{(variant or 'small').capitalize()}")
        try:
            return constructor(weights=weights, classes=classes or len(imagenet_classes()))
        except RuntimeError as error:  # neither found nor downloaded
            raise ValueError(f"{weights}: {error}") from error
    if variant:
        raise ValueError("--variant must not stand with a .keras file, which says it itself")
    if not Path(weights).is_file():
        raise FileNotFoundError(f"{weights} is no file")
    return keras.models.load_model(weights, compile=False)


def read_names(weights, path=None):
    """The names of the classes, in a file that says them.

    Args:
        weights: What `open_model` takes.
        path: Path of a JSON list of names. `None` is the `classes.json` beside a `.keras` file, if
            there is one, as train.py leaves it.

    Returns:
        A list of strings, or `None` if no file says them.

    Raises:
        ValueError: If the file is no JSON list of strings.
        OSError: If it cannot be read.
    """
    beside = Path(weights).with_name("classes.json")
    if not path and weights.endswith(".keras") and beside.is_file():
        path = beside
    if not path:
        return None
    try:
        names = json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"--classes must be a JSON file; {path}: {error}") from error
    if not isinstance(names, list) or not names or not all(isinstance(x, str) for x in names):
        raise ValueError(f"--classes must be a JSON list of names, which {path} is not")
    return names


def labels(names, classes):
    """The WordNet id and the name of each class of a model.

    Args:
        names: What `read_names` returned.
        classes: Integer, how many classes the model has.

    Returns:
        A list of pairs; the id is `None` for what is no class of ImageNet. ImageNet's own for 1000
        classes that no file names; `None` for any other number of them.

    Raises:
        ValueError: If there is another number of names.
    """
    known = imagenet_classes()
    if names is None:
        return known if classes == len(known) else None
    if len(names) != classes:
        raise ValueError(f"--classes must name the model's {classes} classes, not {len(names)}")
    known = dict(known)  # a folder of ImageNet's is named by the wnid
    return [(name, known[name]) if name in known else (None, name) for name in names]
