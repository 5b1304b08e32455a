"""PyTorch's `.pth` files, read and written without PyTorch.

Such a file is a zip archive whose entries are stored, not compressed, below one folder:

    <stem>/data.pkl     a pickle of the saved object; every tensor in it names a storage
    <stem>/data/<key>   the raw values of one storage; several tensors may share it
    <stem>/byteorder    "little" or "big"; absent in older files, which are little-endian
    <stem>/version      the version of this layout

The pickle is read by `pickle_machine`, which executes nothing in it.
"""

import errno
import io
import math
import os
import pathlib
import struct
import zipfile

import numpy as np

from keras_smlp.saving import replacing
from keras_smlp.weights.pickle_machine import (
    ORDERED_DICT,
    STORAGES,
    TENSOR,
    Decoder,
    Dict,
    Refused,
    is_kind,
    show,
)

_MAX_PICKLE = 64 << 20  # bytes of data.pkl
_MAX_ENTRIES = 100_000
_MAX_DIMS = 32  # NumPy 1 has no more
_MAX_SIZE = 1 << 48  # elements; keeps NumPy's own size arithmetic from overflowing
_CHUNK = 8 << 20  # bytes asked of the disk at once, the zip directory included

# How a file from before PyTorch 1.6 starts: the pickle of a magic number.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_WRITABLE = {dtype: name for name, dtype in STORAGES.items() if dtype != "uint16"}


# What the standard library raises on a damaged file, beside our own refusals. RuntimeError
# covers NotImplementedError and RecursionError, ValueError covers UnicodeDecodeError; an
# escape in a string opcode warns, which is an exception under `-W error`.
_LOW_LEVEL = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    MemoryError,
    DeprecationWarning,
)


class _File(io.BufferedReader):
    """A file that never allocates what a number inside it asks for."""

    def read(self, size=-1, /):
        bounded = size is not None and 0 <= size <= _CHUNK
        data = super().read(size if bounded else _CHUNK + 1)
        if len(data) > _CHUNK:
            raise Refused("has a zip directory that is too large.")
        return data


def read(path, key="model"):
    """Reads the state dict in a `.pth` file, without PyTorch.

    The file holds either a training container such as `{"model": state_dict, "optimizer":
    ..., "model_ema": ...}` or a bare state dict. Only the storages of the chosen state dict
    are read from disk. No code in the file is run.

    Args:
        path: Path of the file.
        key: Entry of the container to take. A bare state dict answers to `"model"` only,
            and averaged weights are taken only when asked for with `"model_ema"`.

    Returns:
        A dict of tensor names to NumPy arrays, in the file's order. `bfloat16` values come
        as `float32`, the others in their own type. As in PyTorch, tensors that share a
        storage in the file share memory.

    Raises:
        ValueError: The file is not a zip `.pth` file, is damaged, holds anything but plain
            data, or has no state dict under `key`.
        OSError: The file cannot be opened or read.

    Example:

    ```python
    weights = pth.read("smlp_s.pth")
    weights["mlp_head.0.bias"].shape  # (1000,)
    ```
    """
    path = os.fspath(path)
    try:
        with _File(io.FileIO(path)) as file:
            return _read(file, key)
    except Refused as reason:
        raise ValueError(f"{path} {reason}") from None
    except _LOW_LEVEL as error:
        what = f"{type(error).__name__}: {show(str(error))[1:-1]}"
        raise ValueError(f"{path} is damaged: {what}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # which a seek to a nonsense offset gives
            raise
        raise ValueError(f"{path} is damaged: {error}") from error


def write(path, tensors):
    """Writes a `.pth` file that `torch.load(path, weights_only=True)` reads.

    The file holds `{"model": tensors}`. It is written under a temporary name beside `path`
    and then moved there, so that a failure leaves an existing file as it was.

    Args:
        path: Path of the file.
        tensors: Mapping of tensor names to NumPy arrays of type float16, float32, float64,
            int8, int16, int32, int64, uint8 or bool.

    Raises:
        TypeError: A name is not a string, or an array has another type.
        OSError: The file cannot be written.

    Example:

    ```python
    pth.write("smlp_s.pth", {"mlp_head.0.bias": np.zeros(1000, "float32")})
    torch.load("smlp_s.pth", weights_only=True)["model"]["mlp_head.0.bias"]
    ```
    """
    path = pathlib.Path(path)
    arrays = {}
    for name, value in tensors.items():
        arrays[name] = np.asarray(value)
        if not isinstance(name, str):
            raise TypeError(f"A tensor name must be a string, not {name!r}.")
        if arrays[name].dtype.name not in _WRITABLE:
            raise TypeError(f"Tensor {name!r} has dtype {arrays[name].dtype}: cannot write it.")
    stem = path.stem if path.stem.isascii() else "archive"
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "x") as archive:
        # A bare ZipInfo has a fixed date and no compression: equal tensors, equal bytes.
        archive.writestr(zipfile.ZipInfo(f"{stem}/data.pkl"), _encode(arrays))
        archive.writestr(zipfile.ZipInfo(f"{stem}/byteorder"), b"little")
        for i, array in enumerate(arrays.values()):
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            archive.writestr(zipfile.ZipInfo(f"{stem}/data/{i}"), little.tobytes())
        archive.writestr(zipfile.ZipInfo(f"{stem}/version"), b"3\n")


def _read(file, key):
    head = file.read(len(_LEGACY_MAGIC))
    if head == _LEGACY_MAGIC:
        raise Refused(
            "is in the format from before PyTorch 1.6: convert it with a recent PyTorch, "
            "torch.save(torch.load(old), new)."
        )
    if head[:4] != b"PK\x03\x04":
        raise Refused("is not a PyTorch file: it is not a zip archive.")
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        stems = [name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl")]
        if not stems:
            raise Refused("is not a PyTorch file: it has no data.pkl.")
        stem = stems[0]
        if any(name.startswith((f"{stem}constants.pkl", f"{stem}code/")) for name in names):
            raise Refused("is a TorchScript archive: save the module's state_dict() instead.")
        if len(stems) > 1:
            raise Refused(f"has {len(stems)} entries named data.pkl.")
        entries = _entries(archive, os.fstat(file.fileno()).st_size)
        if entries[f"{stem}data.pkl"].file_size > _MAX_PICKLE:
            raise Refused(f"has a data.pkl of more than {_MAX_PICKLE} bytes.")
        order = b"little"
        if f"{stem}byteorder" in entries:
            order = bytes(_load(archive, entries[f"{stem}byteorder"]))
        if order not in (b"little", b"big"):
            raise Refused(f"has the unknown byteorder {show(order)}.")
        chosen = _choose(Decoder().run(bytes(_load(archive, entries[f"{stem}data.pkl"]))), key)
        flats, arrays = {}, {}
        for name, tensor in chosen.items():
            storage, *view = _check(name, tensor)
            if storage not in flats:
                flats[storage] = _flat(archive, entries, stem, order, name, storage)
            arrays[name] = _view(flats[storage], *view)
        return arrays


def _entries(archive, file_size):
    """The archive's entries by name, none of which claims more than the file can hold."""
    infos = archive.infolist()
    if len(infos) > _MAX_ENTRIES:
        raise Refused(f"has more than {_MAX_ENTRIES} entries.")
    entries, total = {}, 0
    for info in infos:
        name = show(info.filename)
        if info.flag_bits & 0x61:  # encrypted, a patch, strongly encrypted
            raise Refused(f"has the encrypted entry {name}.")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise Refused(f"has the compressed entry {name}: PyTorch compresses none.")
        if info.filename in entries:
            raise Refused(f"has two entries {name}.")
        entries[info.filename] = info
        total += info.file_size
    if total > file_size:  # overlapping entries, or invented sizes
        raise Refused(f"has entries of {total} bytes in a file of {file_size}.")
    return entries


def _load(archive, info):
    data = bytearray(info.file_size)
    with archive.open(info) as entry:
        for start in range(0, len(data), _CHUNK):
            data[start : start + _CHUNK] = entry.read(min(_CHUNK, len(data) - start))
        entry.read(1)  # an empty entry's checksum, too, is compared at its end
    return data


def _mapping(pairs, what):
    result = {}
    for name, value in pairs:
        if type(name) is not str:
            raise Refused(f"has a key of type {type(name).__name__} in {what}: not a string.")
        if name in result:
            raise Refused(f"has the key {show(name)} twice in {what}.")
        result[name] = value
    return result


def _choose(content, key):
    """The state dict under `key`: tensor names to unchecked tensors."""
    if type(content) is not Dict:
        raise Refused("does not hold a dictionary.")
    entries = _mapping(content, "its dictionary")
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
        chosen = _mapping(entries[key], what)
    for name, value in chosen.items():
        if not is_kind(value, "tensor"):
            raise Refused(f"has a value that is not a tensor in {what}: {show(name)}.")
    return chosen


def _check(name, tensor):
    """A tensor's storage (class, key, length), offset, sizes and strides, all checked."""
    who = f"tensor {show(name)}"

    def counts(values):
        return type(values) is tuple and all(type(v) is int and v >= 0 for v in values)

    args = tensor.value
    if len(args) not in (6, 7) or not is_kind(args[0], "storage"):
        raise Refused(f"is damaged: {who} is not made of a storage and five or six values.")
    storage = args[0].value
    offset, sizes, strides = args[1:4]
    if type(storage) is not tuple or len(storage) != 5 or storage[0] != "storage":
        raise Refused(f"is damaged: {who} has a storage that is not described as one.")
    _, kind, key, _, length = storage
    if not is_kind(kind, *STORAGES) or type(key) is not str or not counts((length,)):
        raise Refused(f"is damaged: {who} has a storage without a type, a key or a length.")
    if not (counts((offset,)) and counts(sizes) and counts(strides)):
        raise Refused(f"is damaged: {who} has an offset, size or stride that is not a count.")
    if len(sizes) != len(strides) or len(sizes) > _MAX_DIMS:
        raise Refused(f"is damaged: {who} has {len(sizes)} sizes and {len(strides)} strides.")
    if max(length, math.prod(max(size, 1) for size in sizes)) > _MAX_SIZE:
        raise Refused(f"is damaged: {who} is too large.")
    count, reach = math.prod(sizes), offset
    if count:
        # A small file must not describe a huge tensor by repeating its values.
        if count > length or any(n > 1 and not s for n, s in zip(sizes, strides, strict=True)):
            raise Refused(f"is refused: {who} is larger than its storage or expanded.")
        reach += 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if reach > length:
        raise Refused(f"is damaged: {who} reaches outside its storage.")
    return (kind.kind, key, length), offset, sizes, strides


def _flat(archive, entries, stem, order, name, storage):
    """All values of a storage, in the machine's byte order."""
    kind, key, length = storage
    dtype = np.dtype(STORAGES[kind])
    who = f"storage {show(key)} of tensor {show(name)}"
    info = entries.get(f"{stem}data/{key}")
    if info is None:
        raise Refused(f"is damaged: it lacks {who}.")
    if length * dtype.itemsize != info.file_size:
        raise Refused(f"is damaged: {who} has {info.file_size} bytes for {length} values.")
    stored = dtype.newbyteorder("<" if order == b"little" else ">")
    flat = np.ndarray(length, stored, buffer=_load(archive, info)).astype(dtype, copy=False)
    if kind == "torch BFloat16Storage":
        return widen_bfloat16(flat)
    if kind == "torch BoolStorage":  # a byte other than 0 and 1 is no valid bool
        return flat.view(np.uint8) != 0
    return flat


def widen_bfloat16(bits):
    """bfloat16 values, given as their 16 bits, in float32: they are its upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _view(flat, offset, sizes, strides):
    if 0 in sizes:
        return np.empty(sizes, flat.dtype)
    width = flat.itemsize
    # The stride of a dimension of one element is never used, and may be anything.
    steps = [width * (s if n > 1 else 1) for n, s in zip(sizes, strides, strict=True)]
    return np.ndarray(sizes, flat.dtype, flat, offset * width, steps)


def _encode(arrays):
    """The pickle of `{"model": arrays}` as `torch.save` would have it, without memo."""

    def text(value):
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data  # BINUNICODE

    def ints(*values):
        # LONG1 of eight bytes: a size may need more than BININT's 31 bits.
        return b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values)

    def find(name):
        return b"c" + name.replace(" ", "\n").encode() + b"\n"  # GLOBAL

    out = [b"\x80\x02}", text("model"), b"}("]
    for i, (name, array) in enumerate(arrays.items()):
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        storage = find(_WRITABLE[array.dtype.name]) + text(str(i)) + text("cpu") + ints(array.size)
        out += [text(name), find(TENSOR), b"((", text("storage"), storage, b"tQ", ints(0)]
        out += [b"(", ints(*array.shape), b"t(", ints(*strides), b"t"]
        # requires_grad=False, backward_hooks=OrderedDict()
        out += [b"\x89", find(ORDERED_DICT), b")RtR"]
    return b"".join([*out, b"us."])
