"""`.pth` files assembled byte by byte, so that their tests run where PyTorch is absent."""

import struct
import zipfile

import numpy as np
import pytest

from keras_smlp.weights import pth

ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


class Raw(bytes):
    """Opcodes to take as they are."""


def assemble(value):
    """The opcodes that push `value`, which may contain `Raw` opcodes anywhere."""
    if isinstance(value, Raw):
        return bytes(value)
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(assemble, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(assemble, value)) + b"e"
    pairs = value.items() if isinstance(value, dict) else value
    return b"}(" + b"".join(assemble(part) for pair in pairs for part in pair) + b"u"


def find(name):
    module, attribute = name.rsplit(".", 1)
    return Raw(f"c{module}\n{attribute}\n".encode())


def reduce(function, *args):
    return Raw(find(function) + assemble(args) + b"R")


def storage(kind="Float", key="0", length=6):
    return persistent(("storage", find(f"torch.{kind}Storage"), key, "cpu", length))


def persistent(identifier):
    """What `torch.save` puts outside the pickle: a storage, by a tuple that describes it."""
    return Raw(assemble(identifier) + b"Q")


def tensor(store=None, offset=0, sizes=(2, 3), strides=(3, 1)):
    rest = (offset, sizes, strides, False, Raw(ORDERED_DICT))
    return reduce("torch._utils._rebuild_tensor_v2", store or storage(), *rest)


def pickled(content):
    return b"\x80\x02" + assemble(content) + b"."


GOOD = pickled({"model": {"w": tensor()}})
VALUES = np.arange(6, dtype="<f4")


def plant(path, data, extra=None, compression=zipfile.ZIP_STORED, stem="m"):
    """Writes a zip archive with `data` as its data.pkl and six floats as storage 0."""
    entries = {"data.pkl": data, "byteorder": b"little", "data/0": VALUES.tobytes()}
    entries |= {"version": b"3\n"} | (extra or {})
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            if content is not None:
                archive.writestr(zipfile.ZipInfo(f"{stem}/{name}"), content, compression)
    return path


def refused(path, *words, key="model"):
    """Reads a file that must be refused in one sentence with its path and `words`."""
    with pytest.raises(ValueError) as caught:
        pth.read(path, key)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.isprintable()
    assert len(message) < len(str(path)) + 400
    for word in words:
        assert word in message
    return message
