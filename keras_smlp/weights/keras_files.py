"""Weights out of Keras' own files (`.weights.h5`, `.keras`), by the names of the layers.

Keras stores a layer under its class name and a counter, so that its own `load_weights` pairs layers
by their order, and leaves what it did not visit unsaid. Each group also carries the layer's name;
reading by name lets a network with or without its head, alone or inside another model, take exactly
its own, and tells what is missing or left over.
"""

import collections
import io
import zipfile
from typing import IO

import h5py

from keras_smlp import naming
from keras_smlp.weights.pth import widen_bfloat16

ENDINGS = (".weights.h5", ".keras")
# how the names of the classifier's tensors begin
CLASSIFIER = f"{naming.HEAD}/"


def read(path):
    """The weights in a `.weights.h5` or `.keras` file.

    Args:
        path: Path of a file that `save_weights` or `save` of a functional model wrote.

    Returns:
        A dict of NumPy arrays by `layer/sublayer/.../index`, the index counting the variables of
        one layer. The optimizer's and random generators' states are left out.

    Raises:
        ValueError: If the file is damaged or of another kind.
        FileNotFoundError: If there is none.
    """
    with open(path, "rb") as file:
        try:
            source: IO[bytes] = file
            if str(path).endswith(".keras"):
                with zipfile.ZipFile(file) as archive:
                    source = io.BytesIO(archive.read("model.weights.h5"))
            with h5py.File(source, "r") as h5:
                return dict(variables(h5["layers"], ""))
        except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a whole Keras weights file: {error}") from error


def variables(group, prefix):
    """The variables of the layers below a group, by the layers' names."""
    for key, child in group.items():
        if not isinstance(child, h5py.Group) or key == "vars":
            continue
        own = child.get("vars", {})
        # models inside the model and lists of layers have no variables, and so no name there
        path = f"{prefix}{own.attrs['name'] if own else key}/"
        for index, dataset in own.items():
            if index.isdigit():
                yield path + index, values(dataset)
        yield from variables(child, path)


def values(dataset):
    """A dataset as a NumPy array; bfloat16, which HDF5 has not, as float32."""
    array = dataset[()]
    if dataset.attrs.get("dtype") == "bfloat16":
        return widen_bfloat16(array.view("uint16"))
    return array


def targets(model):
    """The network's variables under the names that `read` gives them.

    Where a model has other layers before it (`input_tensor`), these are left out:
    `model.load_weights` does a whole model.

    Args:
        model: A model that `keras_smlp.SMLPNet` made.

    Returns:
        A dict from name to `(variable, None)`.
    """
    found = {}
    for layer in model.layers:
        if not naming.has_weights(layer.name):
            continue
        counts: collections.Counter[str] = collections.Counter()
        for variable in layer.weights:
            # from the layer's own name on: a model built inside another layer has longer paths
            parts = variable.path.split("/")
            place = "/".join(parts[parts.index(layer.name) : -1])
            found[f"{place}/{counts[place]}"] = (variable, None)
            counts[place] += 1
    return found
