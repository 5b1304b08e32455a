"""Weights out of Keras' own files (`.weights.h5`, `.keras`), by the names of the layers.

Keras stores a layer under its class name and a counter, so that its own `load_weights` pairs layers
by their order, and does not say what of the file it did not read. Each group also carries the
layer's name; reading by name lets a network with or without its head, alone or inside another
model, take exactly its own, and tells what is missing or left over.
"""

import collections
import contextlib
import json
import math

import h5py
import numpy as np

from keras_smlp import naming
from keras_smlp.weights.archive import Archive
from keras_smlp.weights.stored import (
    Refused,
    Stored,
    one_sentence,
    open_regular,
    show,
    widen_bfloat16,
)

ENDINGS = (".weights.h5", ".keras")
# entries of a `.keras` file
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
# the names of the classes, which a training leaves beside its models
CLASSES = "classes.json"
# how the names of the classifier's tensors begin
CLASSIFIER = f"{naming.HEAD}/"

MAX_CONFIG = 16 << 20  # bytes of config.json; the largest published network needs 0.1
MAX_OBJECTS = 20_000  # groups and datasets in an HDF5 file; the largest published network has 2000
MAX_DEPTH = 100
MAX_NAME = 1000  # bytes of a layer's name


@contextlib.contextmanager
def opened(path, called=None):
    """The weights in a `.weights.h5` or `.keras` file, to be read while it is open.

    Args:
        path: Path of a file that `save_weights` or `save` of a functional model wrote.
        called: What the file is called in messages. Defaults to its path.

    Yields:
        A dict of `stored.Stored` by `layer/sublayer/.../index`, the index counting the variables of
        one layer. The optimizer's and random generators' states are left out.

    Raises:
        ValueError: If the file is damaged or of another kind.
        FileNotFoundError: If there is none.
    """
    called = path if called is None else called
    with contextlib.ExitStack() as stack:
        with one_sentence(called):
            if str(path).endswith(".keras"):
                archive = stack.enter_context(open_archive(path))
                source = stack.enter_context(archive.open(archive.entries[WEIGHTS]))
                verify = Once(lambda: archive.verify(archive.entries[WEIGHTS]))
            else:
                source = stack.enter_context(open_regular(path))
                verify = Once(lambda: None)
            h5 = stack.enter_context(open_h5(source))
            tensors = {}
            layers = Objects(source).below(h5, "layers")
            if isinstance(layers, h5py.Dataset):
                raise Refused("is damaged: its 'layers' is a dataset instead of a group.")
            for name, dataset in variables(layers):
                if name in tensors:
                    raise Refused(f"has two variables of the name {show(name)}.")
                tensors[name] = described(dataset, verify, called)
        yield tensors


def check(path):
    """Refuses a `.keras` file that is damaged, or that holds more than a Keras model.

    Keras' own loader is bounded by what the archive and its HDF5 file claim; here these claims are
    compared with the size of the file, and every checksum with the bytes.

    Args:
        path: Path of the file.

    Raises:
        ValueError: If anything is wrong, one sentence.
    """
    with one_sentence(path), open_archive(path) as archive:
        for info in archive.entries.values():
            archive.verify(info)
        info = archive.entries[CONFIG]
        if info.file_size > MAX_CONFIG:
            raise Refused(f"has a {CONFIG} of more than {MAX_CONFIG} bytes.")
        if type(json.loads(archive.read(info))) is not dict:
            raise Refused(f"has a {CONFIG} that describes no model.")
        with archive.open(archive.entries[WEIGHTS]) as source, open_h5(source) as h5:
            Objects(source).visit(h5, "", 0)


class Once:
    """A function without arguments that is called once, however often it is asked for."""

    def __init__(self, function):
        self.function = function

    def __call__(self):
        function, self.function = self.function, lambda: None
        function()


# ---- the archive --------------------------------------------------------------------------------
def open_archive(path):
    """The checked zip archive that a `.keras` file is."""
    return Archive(path, check_start, check_names, compressed=True)


def check_start(start):
    """Refuses a file that is no zip archive, by its first bytes."""
    if start[:4] != b"PK\x03\x04":
        raise Refused("is damaged or no Keras file: it is not a zip archive.")


def check_names(names):
    """Refuses an archive that lacks what a model consists of."""
    for name in (CONFIG, WEIGHTS):
        if name not in names:
            raise Refused(f"is damaged or no Keras file: it has no entry {name}.")


# ---- HDF5 ---------------------------------------------------------------------------------------
def open_h5(source):
    """The HDF5 file in an open file; h5py opens nothing itself."""
    return h5py.File(source, "r")


class Objects:
    """Visits the groups and datasets of an HDF5 file, each once.

    HDF5 can refer to other files, to what is elsewhere in the same one, and to data that nobody
    wrote. Keras' files have none of this: it is refused before anything is read.

    Args:
        source: The open file.
    """

    def __init__(self, source):
        self.bytes_left = source.seek(0, 2)
        self.seen = set()

    def below(self, group, name):
        """What `visit` returns for a member of a group."""
        if group.get(name, getlink=True) is None:  # `in` would follow a link into another file
            raise Refused(f"is damaged or no Keras weights file: it has no group {show(name)}.")
        return self.visit(self.member(group, name), f"/{name}", 0)

    def visit(self, node, place, depth):
        """A dataset; for a group a pair of it and the dict of what is in it, visited as well."""
        # the same object under two names: a few links could make endless paths
        address = h5py.h5o.get_info(node.id).addr
        if address in self.seen:
            raise Refused(f"is refused: what is at {show(place)} has another name, too.")
        self.seen.add(address)
        if len(self.seen) > MAX_OBJECTS or depth > MAX_DEPTH:
            raise Refused(
                f"is refused: it has more than {MAX_OBJECTS} objects, or {MAX_DEPTH} deep."
            )
        if isinstance(node, h5py.Dataset):
            self.check_dataset(node, place)
            return node
        members = {}
        if isinstance(node, h5py.Group):
            for name in node:
                inner = self.member(node, name)
                members[name] = self.visit(inner, f"{place}/{name}", depth + 1)
        return node, members

    def member(self, group, name):
        """What a group has under a name, if it is its own."""
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            what = f"{type(link).__name__} {show(f'{group.name}/{name}')}"
            raise Refused(f"is refused: its {what} refers to something elsewhere.")
        return group[name]

    def check_dataset(self, dataset, place):
        """Refuses a dataset whose values are not all in this file, as they are."""
        who = f"its dataset {show(place)}"
        plan = dataset.id.get_create_plist()
        if plan.get_external_count() or plan.get_layout() == h5py.h5d.VIRTUAL:
            raise Refused(f"is refused: {who} has its values in other files.")
        if plan.get_layout() == h5py.h5d.CHUNKED:
            raise Refused(f"is refused: {who} is divided or compressed, which Keras' are not.")
        if dataset.shape is None:
            raise Refused(f"is refused: {who} has no shape.")
        size = math.prod(dataset.shape) * dataset.id.get_type().get_size()
        self.bytes_left -= size
        if size > dataset.id.get_storage_size() or self.bytes_left < 0:
            raise Refused(f"is refused: {who} claims {size} bytes, which are not in the file.")


def variables(visited, prefix=""):
    """Names and datasets of the variables below a visited group, by the layers' names."""
    for key, child in visited[1].items():
        if isinstance(child, h5py.Dataset) or key == "vars":
            continue
        own = child[1].get("vars", (None, {}))
        if isinstance(own, h5py.Dataset):
            raise Refused(f"is damaged: {show(own.name)} is a dataset instead of a group.")
        # models inside the model and lists of layers have no variables, and so no name there
        path = f"{prefix}{text(own[0], 'name') if own[0] else key}/"
        for index, dataset in own[1].items():
            if not index.isdigit():
                continue
            if not isinstance(dataset, h5py.Dataset):
                raise Refused(f"is damaged: {show(path + index)} is no dataset.")
            yield path + index, dataset
        yield from variables(child, path)


def text(node, attribute):
    """A short text among the attributes of a group or dataset."""
    kind = node.attrs.get_id(attribute)
    is_text = h5py.check_string_dtype(kind.dtype)
    if kind.shape != () or not is_text or kind.dtype.itemsize > MAX_NAME:
        raise Refused(
            f"is refused: {show(node.name)} has an attribute {attribute} that is no text."
        )
    value = node.attrs[attribute]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def described(dataset, verify, called):
    """A dataset as a `Stored` tensor; bfloat16, which HDF5 has not, as float32."""
    is_bfloat16 = "dtype" in dataset.attrs and text(dataset, "dtype") == "bfloat16"

    def read():
        with one_sentence(called):
            verify()
            values = dataset[()]
            return widen_bfloat16(values.view("uint16")) if is_bfloat16 else values

    return Stored(dataset.shape, np.dtype("float32") if is_bfloat16 else dataset.dtype, read)


def targets(model):
    """The network's variables under the names that `opened` gives them.

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
