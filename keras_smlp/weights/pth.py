"""PyTorch's `.pth` files, read and written without PyTorch.

Such a file is a zip archive whose entries are stored, not compressed, below one folder:

    <stem>/data.pkl     a pickle of the saved object; every tensor in it names a storage
    <stem>/data/<key>   the raw values of one storage; several tensors may share it
    <stem>/byteorder    "little" or "big"; absent in older files, which are little-endian
    <stem>/version      the version of this layout

The pickle is read by `pickle_machine`, which executes nothing in it, and understood by
`state_dict`; the archive is read by `archive`; here are the values.
"""

import contextlib
import pathlib
import zipfile

import numpy as np

from keras_smlp.saving import replacing
from keras_smlp.weights.archive import Archive
from keras_smlp.weights.pickle_machine import STORAGES, Decoder
from keras_smlp.weights.state_dict import WRITABLE, choose, encode, reach_of, view_of
from keras_smlp.weights.stored import Refused, Stored, one_sentence, show, widen_bfloat16

MAX_PICKLE = 64 << 20  # bytes of data.pkl
# values between those of the tensors that are read with them: tensors may be slices of larger ones
MOST_BETWEEN = 1 << 20
MOST_TIMES = 16  # and this many times those values

# how a file from before PyTorch 1.6 starts: the pickle of a magic number
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


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
    with opened(path, key) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


@contextlib.contextmanager
def opened(path, key="model", called=None):
    """The state dict in a `.pth` file, whose tensors can be read while the file is open.

    Args:
        path: Path of the file.
        key: As for `read`.
        called: What the file is called in messages. Defaults to its path.

    Yields:
        A dict from names to `stored.Stored`.
    """
    called = path if called is None else called
    with contextlib.ExitStack() as stack:
        with one_sentence(called):
            archive = stack.enter_context(Archive(path, check_start, folder_of))
            tensors = describe(archive, key, called)
        yield tensors


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
    if start.startswith(LEGACY_MAGIC):
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


# ---- the values ---------------------------------------------------------------------------------
def describe(archive, key, called):
    """The state dict under `key`, as `Stored` tensors by name."""
    entries = archive.entries
    folder = folder_of(entries)
    if entries[f"{folder}data.pkl"].file_size > MAX_PICKLE:
        raise Refused(f"has a data.pkl of more than {MAX_PICKLE} bytes.")
    order = b"little"
    if f"{folder}byteorder" in entries:
        info = entries[f"{folder}byteorder"]
        order = bytes(archive.read(info)) if info.file_size < 10 else b"?"
    if order not in (b"little", b"big"):
        raise Refused(f"has the unknown byteorder {show(order.decode('latin-1'))}.")
    content = Decoder().run(archive.read(entries[f"{folder}data.pkl"]))
    views = {name: view_of(name, tensor) for name, tensor in choose(content, key).items()}
    storages = {}
    for name, view in views.items():
        storage = view.storage
        if storage not in storages:
            who = f"storage {show(storage.key)} of tensor {show(name)}"
            info = entries.get(f"{folder}data/{storage.key}")
            storages[storage] = Values(archive, info, storage, order, who)
        storages[storage].add(view)

    def reading(view):
        def read():
            with one_sentence(called):
                return strided(storages[view.storage].read(), view)

        return read

    return {
        name: Stored(view.sizes, storages[view.storage].type_read, reading(view))
        for name, view in views.items()
    }


class Values:
    """The values of a storage, from the first to the last that its tensors use; read once.

    Args:
        archive: The open `Archive`.
        info: The storage's entry in it, `None` if there is none.
        storage: A `state_dict.Storage`.
        order: `b"little"` or `b"big"`.
        who: What to call it in messages.

    Attributes:
        type_read: NumPy type of the values that `read` returns.
    """

    def __init__(self, archive, info, storage, order, who):
        stored = np.dtype(STORAGES[storage.kind])
        if info is None:
            raise Refused(f"is damaged: it lacks {who}.")
        if storage.length * stored.itemsize != info.file_size:
            raise Refused(
                f"is damaged: {who} has {info.file_size} bytes for {storage.length} values."
            )
        self.archive, self.info, self.kind, self.who = archive, info, storage.kind, who
        self.stored = stored.newbyteorder("<" if order == b"little" else ">")
        self.type_read = np.dtype("float32") if self.is_bfloat16 else stored
        self.begin, self.end, self.used, self.values = storage.length, 0, 0, None

    @property
    def is_bfloat16(self):
        return self.kind == "torch BFloat16Storage"

    def add(self, view):
        """Counts a tensor among those that the values are for."""
        count, end = reach_of(view)
        if count:
            self.begin, self.end = min(self.begin, view.offset), max(self.end, end)
            self.used += count

    def read(self):
        """The index of the first of the values in the storage, and the values."""
        if self.values is None:
            begin, end = min(self.begin, self.end), self.end
            if end - begin > MOST_TIMES * self.used + MOST_BETWEEN:
                raise Refused(f"is refused: of {self.who} it uses {self.used} scattered values.")
            width = self.stored.itemsize
            data = self.archive.read(self.info, begin * width, end * width)
            values = np.ndarray(end - begin, self.stored, data)
            values = values.astype(self.stored.newbyteorder("="), copy=False)
            if self.is_bfloat16:
                values = widen_bfloat16(values)
            elif self.kind == "torch BoolStorage":  # a byte other than 0 and 1 is no valid bool
                values = values.view(np.uint8) != 0
            self.values = begin, values
        return self.values


def strided(stored, view):
    """The tensor that a view makes of a storage's values, which it shares."""
    begin, values = stored
    if 0 in view.sizes:
        return np.empty(view.sizes, values.dtype)
    width = values.itemsize
    # the stride of a dimension of one element is never used, and may be anything
    steps = [width * (s if n > 1 else 1) for n, s in zip(view.sizes, view.strides, strict=True)]
    return np.ndarray(view.sizes, values.dtype, values, (view.offset - begin) * width, steps)
