"""Weights out of Keras' own files (`.weights.h5`, `.keras`), by the names of the layers.

Keras stores a layer under its class name and a counter, so that its own `load_weights` pairs layers
by their order, and leaves what it did not visit unsaid. Each group also carries the layer's name;
reading by name lets a network with or without its head, alone or inside another model, take exactly
its own, and tells what is missing or left over.
"""

import collections
import io
import zipfile

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
            if str(path).endswith(".keras"):
                with zipfile.ZipFile(file) as archive:
                    file = io.BytesIO(archive.read("model.weights.h5"))
            with h5py.File(file, "r") as h5:
                weights = {}
                collect(h5["layers"], "", weights)
                return weights
        except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a whole Keras weights file: {error}") from error


def collect(group, prefix, weights):
    """Gathers the variables under a group: the layers' `vars`, named by the layers."""
    for key, child in group.items():
        if not isinstance(child, h5py.Group) or key == "vars":
            continue
        variables = child.get("vars", {})
        # models inside the model and lists of layers have no variables, and so no name there
        path = f"{prefix}{variables.attrs['name'] if variables else key}/"
        for index, dataset in variables.items():
            if index.isdigit():
                weights[path + index] = values(dataset)
        collect(child, path, weights)


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
        counts = collections.Counter()
        for variable in layer.weights:
            # from the layer's own name on: a model built inside another layer has longer paths
            parts = variable.path.split("/")
            place = "/".join(parts[parts.index(layer.name) : -1])
            found[f"{place}/{counts[place]}"] = (variable, None)
            counts[place] += 1
    return found
