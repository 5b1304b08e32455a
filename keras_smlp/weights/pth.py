"""PyTorch's `.pth` files, read and written without PyTorch.

Such a file is a zip archive whose entries are stored, not compressed, below one folder:

    <stem>/data.pkl     a pickle of the saved object; every tensor in it names a storage
    <stem>/data/<key>   the raw values of one storage; several tensors may share it
    <stem>/byteorder    "little" or "big"; absent in older files, which are little-endian
    <stem>/version      the version of this layout

The pickle is read by `pickle_machine`, which executes nothing in it, and understood by
`state_dict`; here are the archive and the values.
"""

import errno
import io
import os
import pathlib
import struct
import zipfile

import numpy as np

from keras_smlp.saving import replacing
from keras_smlp.weights.pickle_machine import STORAGES, Decoder, Refused, show
from keras_smlp.weights.state_dict import WRITABLE, choose, encode, view_of

MAX_PICKLE = 64 << 20  # bytes of data.pkl
MAX_ENTRIES = 100_000
CHUNK = 8 << 20  # bytes asked of the disk at once, the zip directory included

# how a file from before PyTorch 1.6 starts: the pickle of a magic number
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

# What the standard library raises on a damaged file, beside our own refusals. RuntimeError
# covers NotImplementedError and RecursionError, ValueError covers UnicodeDecodeError; an
# escape in a string opcode warns, which is an exception under `-W error`.
LOW_LEVEL = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    MemoryError,
    DeprecationWarning,
)


class BoundedFile(io.BufferedReader):
    """A file that never allocates what a number inside it asks for."""

    def read(self, size=-1, /):
        bounded = size is not None and 0 <= size <= CHUNK
        data = super().read(size if bounded else CHUNK + 1)
        if len(data) > CHUNK:
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
        with BoundedFile(io.FileIO(path)) as file:
            check_start(file.read(len(LEGACY_MAGIC)))
            with zipfile.ZipFile(file) as archive:
                return read_tensors(archive, os.fstat(file.fileno()).st_size, key)
    except Refused as reason:
        raise ValueError(f"{path} {reason}") from None
    except LOW_LEVEL as error:
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
        if arrays[name].dtype.name not in WRITABLE:
            raise TypeError(f"Tensor {name!r} has dtype {arrays[name].dtype}: cannot write it.")
    stem = path.stem if path.stem.isascii() else "archive"
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "x") as archive:

        def add(name, content):
            # a bare ZipInfo has a fixed date and no compression: equal tensors, equal bytes
            archive.writestr(zipfile.ZipInfo(f"{stem}/{name}"), content)

        add("data.pkl", encode(arrays))
        add("byteorder", b"little")
        for i, array in enumerate(arrays.values()):
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            add(f"data/{i}", little.tobytes())
        add("version", b"3\n")


# ---- the archive --------------------------------------------------------------------------------
def check_start(start):
    """Refuses a file that is no zip archive, by its first bytes."""
    if start == LEGACY_MAGIC:
        raise Refused(
            "is in the format from before PyTorch 1.6: convert it with a recent PyTorch, "
            "torch.save(torch.load(old), new)."
        )
    if start[:4] != b"PK\x03\x04":
        raise Refused("is not a PyTorch file: it is not a zip archive.")


def folder_of(names):
    """The one folder, `"<stem>/"`, that an archive's entries are in."""
    folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if not folders:
        raise Refused("is not a PyTorch file: it has no data.pkl.")
    if any(name.startswith((f"{folders[0]}constants.pkl", f"{folders[0]}code/")) for name in names):
        raise Refused("is a TorchScript archive: save the module's state_dict() instead.")
    if len(folders) > 1:
        raise Refused(f"has {len(folders)} entries named data.pkl.")
    return folders[0]


def entries_of(archive, file_size):
    """The archive's entries by name, none of which claims more than the file can hold."""
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise Refused(f"has more than {MAX_ENTRIES} entries.")
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


def read_entry(archive, info):
    """The bytes of an entry."""
    data = bytearray(info.file_size)
    with archive.open(info) as entry:
        for start in range(0, len(data), CHUNK):
            data[start : start + CHUNK] = entry.read(min(CHUNK, len(data) - start))
        entry.read(1)  # an empty entry's checksum, too, is compared at its end
    return data


# ---- the values ---------------------------------------------------------------------------------
def read_tensors(archive, file_size, key):
    """The state dict under `key`, as NumPy arrays by name."""
    folder, entries = folder_of(archive.namelist()), entries_of(archive, file_size)
    if entries[f"{folder}data.pkl"].file_size > MAX_PICKLE:
        raise Refused(f"has a data.pkl of more than {MAX_PICKLE} bytes.")
    order = b"little"
    if f"{folder}byteorder" in entries:
        order = read_entry(archive, entries[f"{folder}byteorder"])
    if order not in (b"little", b"big"):
        raise Refused(f"has the unknown byteorder {show(bytes(order))}.")
    content = Decoder().run(read_entry(archive, entries[f"{folder}data.pkl"]))
    storages, arrays = {}, {}
    for name, tensor in choose(content, key).items():
        view = view_of(name, tensor)
        storage = view.storage
        if storage not in storages:
            who = f"storage {show(storage.key)} of tensor {show(name)}"
            info = entries.get(f"{folder}data/{storage.key}")
            if info is None:
                raise Refused(f"is damaged: it lacks {who}.")
            storages[storage] = read_storage(archive, info, storage, order, who)
        arrays[name] = strided(storages[storage], view)
    return arrays


def read_storage(archive, info, storage, order, who):
    """All values of a storage, in the machine's byte order; `who` is for the message."""
    dtype = np.dtype(STORAGES[storage.kind])
    if storage.length * dtype.itemsize != info.file_size:
        raise Refused(f"is damaged: {who} has {info.file_size} bytes for {storage.length} values.")
    stored = dtype.newbyteorder("<" if order == b"little" else ">")
    values = np.ndarray(storage.length, stored, read_entry(archive, info)).astype(dtype, copy=False)
    if storage.kind == "torch BFloat16Storage":
        return widen_bfloat16(values)
    if storage.kind == "torch BoolStorage":  # a byte other than 0 and 1 is no valid bool
        return values.view(np.uint8) != 0
    return values


def widen_bfloat16(bits):
    """bfloat16 values, given as their 16 bits, in float32: they are its upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def strided(values, view):
    """The tensor that a view makes of a storage's values, which it shares."""
    if 0 in view.sizes:
        return np.empty(view.sizes, values.dtype)
    width = values.itemsize
    # the stride of a dimension of one element is never used, and may be anything
    steps = [width * (s if n > 1 else 1) for n, s in zip(view.sizes, view.strides, strict=True)]
    return np.ndarray(view.sizes, values.dtype, values, view.offset * width, steps)
