"""The pickle in a `.pth` file: which tensors it describes, and how such a description is written.

PyTorch describes a tensor by a storage, the run of values that it lies in, and by where and with
which strides it lies there. The values themselves are other entries of the file.
"""

import math
import struct
from typing import NamedTuple

from keras_smlp.weights.pickle_machine import (
    ORDERED_DICT,
    STORAGES,
    TENSOR,
    Dict,
    is_kind,
    name_of,
)
from keras_smlp.weights.stored import Refused, show

MAX_DIMS = 32  # NumPy 1 has no more
MAX_SIZE = 1 << 48  # elements; keeps NumPy's own size arithmetic from overflowing

# NumPy type -> storage class, of what can be written
WRITABLE = {dtype: name for name, dtype in STORAGES.items() if dtype != "uint16"}


class Storage(NamedTuple):
    """A run of values in the file: PyTorch's class, the name of its entry, how many values."""

    kind: str
    key: str
    length: int


class View(NamedTuple):
    """A tensor: `sizes` values of a storage from `offset`, `strides` values apart."""

    storage: Storage
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


# ---- reading ------------------------------------------------------------------------------------
def choose(content, key):
    """The state dict under `key`: a dict from names to tensors that `view_of` has yet to check.

    Args:
        content: What `Decoder.run` returned.
        key: As for `pth.read`.
    """
    if type(content) is not Dict:
        raise Refused(f"does not hold a dictionary{name_of(content, ' but {}')}.")
    entries = mapping(content, "its dictionary")
    values = entries.values()
    if any(is_kind(v, "tensor") for v in values) and not any(type(v) is Dict for v in values):
        if key != "model":
            raise Refused(f"is a bare state dict: it has no entry {key!r}.")
        what, chosen = "its state dict", entries
    elif key not in entries:
        names = ", ".join(show(name) for name in list(entries)[:9]) or "nothing"
        raise Refused(f"has no entry {key!r}: it has {names}.")
    elif type(entries[key]) is not Dict:
        raise Refused(f"has an entry {key!r} that is not a state dict.")
    else:
        what = f"its entry {key!r}"
        chosen = mapping(entries[key], what)
    for name, value in chosen.items():
        if not is_kind(value, "tensor"):
            found = f"{show(name)}{name_of(value, ' ({})')}"
            raise Refused(f"has a value that is not a tensor in {what}: {found}.")
    return chosen


def mapping(pairs, what):
    """A dict of the pairs, whose keys must be different strings."""
    result = {}
    for name, value in pairs:
        if type(name) is not str:
            raise Refused(f"has a key of type {type(name).__name__} in {what}: not a string.")
        if name in result:
            raise Refused(f"has the key {show(name)} twice in {what}.")
        result[name] = value
    return result


def view_of(name, tensor):
    """The `View` that a tensor of the pickle is, all of it checked."""
    who = f"tensor {show(name)}"
    if len(tensor.value) not in (6, 7) or not is_kind(tensor.value[0], "storage"):
        raise Refused(f"is damaged: {who} is not made of a storage and five or six values.")
    storage = tensor.value[0].value
    offset, sizes, strides = tensor.value[1:4]
    if type(storage) is not tuple or len(storage) != 5 or storage[0] != "storage":
        raise Refused(f"is damaged: {who} has a storage that is not described as one.")
    _, kind, key, _, length = storage
    if not is_kind(kind, *STORAGES) or type(key) is not str or not are_counts((length,)):
        other = name_of(kind, " ({} is none)")
        raise Refused(f"is damaged: {who} has a storage without a type, a key or a length{other}.")
    if not (are_counts((offset,)) and are_counts(sizes) and are_counts(strides)):
        raise Refused(f"is damaged: {who} has an offset, size or stride that is not a count.")
    if len(sizes) != len(strides) or len(sizes) > MAX_DIMS:
        raise Refused(f"is damaged: {who} has {len(sizes)} sizes and {len(strides)} strides.")
    if max(length, math.prod(max(size, 1) for size in sizes)) > MAX_SIZE:
        raise Refused(f"is damaged: {who} is too large.")
    view = View(Storage(kind.kind, key, length), offset, sizes, strides)
    count, end = reach_of(view)
    # a small file must not describe a huge tensor by repeating its values
    repeats = any(n > 1 and not s for n, s in zip(sizes, strides, strict=True))
    if count and (count > length or repeats):
        raise Refused(f"is refused: {who} is larger than its storage or expanded.")
    if end > length:
        raise Refused(f"is damaged: {who} reaches outside its storage.")
    return view


def reach_of(view):
    """How many values a tensor has, and the index in its storage behind the last of them."""
    count, end = math.prod(view.sizes), view.offset
    if count:
        end += 1 + sum((n - 1) * s for n, s in zip(view.sizes, view.strides, strict=True))
    return count, end


def are_counts(values):
    """Whether it is a tuple of integers from 0."""
    return type(values) is tuple and all(type(v) is int and v >= 0 for v in values)


# ---- writing ------------------------------------------------------------------------------------
def encode(arrays):
    """The pickle of `{"model": arrays}` as `torch.save` would have it, without memo."""

    def text(value):
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data  # BINUNICODE

    def integers(*values):
        # LONG1 of eight bytes: a size may need more than BININT's 31 bits
        return b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values)

    def find(name):
        return b"c" + name.replace(" ", "\n").encode() + b"\n"  # GLOBAL

    parts = [b"\x80\x02}", text("model"), b"}("]
    for i, (name, array) in enumerate(arrays.items()):
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        kind = find(WRITABLE[array.dtype.name])
        parts += [text(name), find(TENSOR), b"(("]
        parts += [text("storage"), kind, text(str(i)), text("cpu"), integers(array.size), b"tQ"]
        parts += [integers(0), b"(", integers(*array.shape), b"t(", integers(*strides), b"t"]
        # requires_grad=False, backward_hooks=OrderedDict()
        parts += [b"\x89", find(ORDERED_DICT), b")RtR"]
    return b"".join([*parts, b"us."])
