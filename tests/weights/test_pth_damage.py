"""Damaged `.pth` files, and those that hold something else: each is refused in one sentence."""

import os
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest
from helpers.pth_files import (
    GOOD,
    Raw,
    assemble,
    find,
    persistent,
    pickled,
    plant,
    reduce,
    refused,
    storage,
    tensor,
)

from keras_smlp.weights import archive, pickle_machine, pth

pytestmark = pytest.mark.once


@pytest.fixture
def path(tmp_path):
    return plant(tmp_path / "m.pth", GOOD)


# ---- the archive --------------------------------------------------------------------------------

ARCHIVES = {
    "no data.pkl": ({"data.pkl": None}, ["no data.pkl"]),
    "two data.pkl": ({"x/data.pkl": GOOD}, ["2 entries named data.pkl"]),
    "TorchScript constants": ({"constants.pkl": b""}, ["TorchScript", "state_dict()"]),
    "TorchScript code": ({"code/__torch__.py": b""}, ["TorchScript", "state_dict()"]),
    "byteorder": ({"byteorder": b"middle"}, ["byteorder", "middle"]),
    "storage missing": ({"data/0": None}, ["lacks storage '0' of tensor 'w'"]),
    "storage short": ({"data/0": bytes(23)}, ["storage '0' of tensor 'w'", "23 bytes for 6"]),
    "storage long": ({"data/0": bytes(28)}, ["storage '0' of tensor 'w'", "28 bytes for 6"]),
}


@pytest.mark.parametrize(("extra", "words"), ARCHIVES.values(), ids=ARCHIVES)
def test_archive(path, extra, words):
    refused(plant(path, GOOD, extra), *words)


def test_legacy(path):
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + bytes(100))
    refused(path, "before PyTorch 1.6", "torch.save(torch.load(old), new)")


@pytest.mark.parametrize("data", [b"", b"PK", b"hello" * 10, b"\x89HDF\r\n\x1a\n", GOOD])
def test_not_a_zip(path, data):
    path.write_bytes(data)
    refused(path, "is not a PyTorch file")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_compressed(path, compression):
    refused(plant(path, GOOD, compression=compression), "compressed entry 'm/data.pkl'")


# where the fields of an entry are in its record in the zip directory
FLAGS, METHOD, CRC, SIZE, OFFSET = 8, 10, 16, 20, 42


def record_of(path, entry):
    """Where an entry's record in the zip directory begins, in the file."""
    return path.read_bytes().rindex(entry) - 46


def patch(path, at, form, *values):
    """Writes numbers into the file."""
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack(form, *values))


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        *((METHOD, method, "compressed") for method in (8, 9, 12, 14, 93, 99)),
        *((FLAGS, flag, "encrypted") for flag in (0x1, 0x20, 0x40)),
        (SIZE, len(GOOD) - 1, "compressed"),
    ],
)
def test_compressed_or_encrypted_by_its_record(path, field, value, what):
    patch(path, record_of(path, b"m/data.pkl") + field, "<H", value)
    refused(path, f"{what} entry 'm/data.pkl'")


@pytest.mark.parametrize(
    ("name", "words"),
    [("m/data.pkl", "2 entries named data.pkl"), ("m/data/0", "two entries 'm/data/0'")],
)
def test_repeated_entry(path, name, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, GOOD)
    refused(path, words)


@pytest.mark.parametrize(("entry", "after"), [("m/data.pkl", 10), ("m/data/0", 1)])
def test_checksum(path, entry, after):
    data = path.read_bytes()
    at = data.index(entry.encode()) + len(entry) + after
    patch(path, at, "B", data[at] ^ 1)
    refused(path, "damaged", "CRC", entry)


def test_checksum_of_empty_entry(path):
    none = tensor(storage(length=0), sizes=(0,), strides=(1,))
    plant(path, pickled({"model": {"w": none}}), {"data/0": b""})
    assert pth.read(path)["w"].shape == (0,)
    patch(path, record_of(path, b"m/data/0") + CRC, "B", 1)
    refused(path, "damaged", "CRC", "m/data/0")


def test_sizes_that_the_file_cannot_hold(path):
    patch(path, record_of(path, b"m/data/0") + SIZE, "<II", 0xFFFFFFF0, 0xFFFFFFF0)
    refused(path, "entries of 42949", f"in a file of {path.stat().st_size}")


def test_overlapping_entries(path):
    # many directory records for one stretch of the file: a bomb without compression
    names = [f"x{i:02}" for i in range(30)]
    plant(path, GOOD, {**dict.fromkeys(names, b""), "x00": bytes(4000)})
    target = path.read_bytes().index(b"m/x00") - 30
    for name in names:
        record = record_of(path, f"m/{name}".encode())
        patch(path, record + SIZE, "<II", 4000, 4000)
        patch(path, record + OFFSET, "<I", target)
    refused(path, "entries of", f"in a file of {path.stat().st_size}")


@pytest.mark.parametrize("length", [10, 100, 300, -1, -22, -60])
def test_truncated(path, length):
    path.write_bytes(path.read_bytes()[:length])
    refused(path)


@pytest.mark.parametrize("field", [12, 16])
@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_directory_position(path, field, value):
    patch(path, path.read_bytes().rindex(b"PK\x05\x06") + field, "<I", value)
    try:
        assert list(pth.read(path)) == ["w"]
    except ValueError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize(
    ("module", "limit", "value", "words"),
    [
        (pth, "MAX_PICKLE", 20, "data.pkl of more than 20 bytes"),
        (pickle_machine, "MAX_OPCODES", 20, "more than 20 opcodes"),
        (archive, "MAX_ENTRIES", 3, "more than 3 entries"),
        (archive, "CHUNK", 100, "zip directory that is too large"),
    ],
)
def test_limits(path, monkeypatch, module, limit, value, words):
    monkeypatch.setattr(module, limit, value)
    refused(path, words)


def test_storage_larger_than_a_chunk(path, monkeypatch):
    values = np.arange(100_000, dtype="float64")
    pth.write(path, {"a": values, "b": values[:0]})
    monkeypatch.setattr(archive, "CHUNK", 70_000)
    np.testing.assert_array_equal(pth.read(path)["a"], values)


@pytest.mark.parametrize(
    "error",
    [
        *(zipfile.BadZipFile, struct.error, EOFError, RuntimeError, NotImplementedError),
        *(RecursionError, ValueError, OverflowError, MemoryError, DeprecationWarning),
    ],
)
def test_low_level_errors(path, monkeypatch, error):
    def fail(archive):
        raise error("some reason")

    monkeypatch.setattr(archive.zipfile.ZipFile, "infolist", fail)
    refused(path, "damaged", error.__name__, "some reason")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        pth.read(tmp_path / "none.pth")
    with pytest.raises(IsADirectoryError):
        pth.read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_unreadable_file(path):
    path.chmod(0)
    with pytest.raises(PermissionError):
        pth.read(path)


def test_disk_errors_stay_what_they_are(path, monkeypatch):
    def fail(self, size=-1, /):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(archive.BoundedFile, "read", fail)
    with pytest.raises(OSError, match="Input/output"):
        pth.read(path)


# ---- its tensors and other content --------------------------------------------------------------

HUGE = 2**2000
# what else describes six float32 values
REST = ("0", "cpu", 6)

TENSORS = {
    "offset negative": (tensor(offset=-1), "not a count"),
    "offset float": (tensor(offset=1.0), "not a count"),
    "offset bool": (tensor(offset=True), "not a count"),
    "size negative": (tensor(sizes=(-2, -3)), "not a count"),
    "size string": (tensor(sizes=("2", 3)), "not a count"),
    "sizes list": (tensor(sizes=[2, 3]), "not a count"),
    "stride negative": (tensor(strides=(3, -1)), "not a count"),
    "strides none": (tensor(strides=None), "not a count"),
    "offset outside": (tensor(offset=1), "outside its storage"),
    "offset huge": (tensor(offset=HUGE), "outside its storage"),
    "offset of none": (tensor(offset=7, sizes=(0,), strides=(1,)), "outside its storage"),
    "stride outside": (tensor(strides=(4, 1)), "outside its storage"),
    "stride huge": (tensor(strides=(HUGE, 1)), "outside its storage"),
    "stride wraps": (tensor(sizes=(2,), strides=(2**62,)), "outside its storage"),
    "size outside": (tensor(sizes=(7,), strides=(1,)), "larger than its storage"),
    "size huge": (tensor(sizes=(2**47,), strides=(0,)), "larger than its storage or expanded"),
    "size overflows": (tensor(sizes=(HUGE, 1)), "too large"),
    "size of none": (tensor(sizes=(0, 2**62)), "too large"),
    "expanded": (tensor(sizes=(2, 3), strides=(0, 1)), "expanded"),
    "overlapping": (tensor(sizes=(4, 3), strides=(1, 1)), "larger than its storage"),
    "more sizes": (tensor(sizes=(1, 2, 3)), "3 sizes and 2 strides"),
    "dimensions": (tensor(sizes=(1,) * 33, strides=(1,) * 33), "33 sizes"),
    "arguments": (reduce("torch._utils._rebuild_tensor_v2", storage()), "five or six"),
    "storage none": (tensor(Raw(b"N")), "not made of a storage"),
    "storage text": (tensor(persistent("storage")), "not described as one"),
    "storage list": (
        tensor(persistent(["storage", find("torch.FloatStorage"), *REST])),
        "not described as one",
    ),
    "storage tuple": (tensor(persistent(())), "not described as one"),
    "storage kind": (tensor(persistent(("module", 1, *REST))), "described"),
    "storage class": (
        tensor(persistent(("storage", find("argparse.Namespace"), *REST))),
        "without a type",
    ),
    "storage class text": (
        tensor(persistent(("storage", "torch FloatStorage", *REST))),
        "without a type",
    ),
    "storage key": (tensor(storage(key=0)), "without a type, a key"),
    "storage key list": (tensor(storage(key=[])), "without a type, a key"),
    "storage key path": (tensor(storage(key="../../version")), "lacks storage"),
    "storage length": (tensor(storage(length=-1)), "or a length"),
    "storage length none": (tensor(storage(length=None)), "or a length"),
    "storage length huge": (tensor(storage(length=HUGE)), "too large"),
    "storage width": (tensor(storage("Double")), "24 bytes for 6 values"),
}


@pytest.mark.parametrize(("opcodes", "words"), TENSORS.values(), ids=TENSORS)
def test_tensor(path, opcodes, words):
    plant(path, pickled({"model": {"good": tensor(), "bad.weight": opcodes}}))
    refused(path, "tensor 'bad.weight'", words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "not hold a dictionary"),
        (None, "not hold a dictionary"),
        (tensor(), "not hold a dictionary"),
        ({}, "no entry 'model': it has nothing"),
        ({"epoch": 1}, "no entry 'model': it has 'epoch'"),
        ({"model": [tensor()]}, "entry 'model' that is not a state dict"),
        ({"model": {"w": tensor(), "n.a": 3}}, "not a tensor in its entry 'model': 'n.a'"),
        ({"model": {"w": tensor(), "n.b": None}}, "not a tensor in its entry 'model': 'n.b'"),
        ({"model": {"w": {"v": tensor()}}}, "not a tensor in its entry 'model': 'w'"),
        ({"model": {"w": storage()}}, "not a tensor in its entry 'model': 'w'"),
        ({"w": tensor(), "steps": 3}, "not a tensor in its state dict: 'steps'"),
        ({"model": {3: tensor()}}, "key of type int in its entry 'model'"),
        ({"model": [((), tensor())]}, "not a state dict"),
        ({"model": {(): tensor()}}, "key of type tuple in its entry 'model'"),
        ({"model": Raw(b"}(]" + tensor() + b"u")}, "key of type list in its entry 'model'"),
        ({None: 1, "model": {"w": tensor()}}, "key of type NoneType in its dictionary"),
        (Raw(b"}(" + (assemble("a") + tensor()) * 2 + b"u"), "key 'a' twice"),
    ],
)
def test_content(path, content, words):
    refused(plant(path, pickled(content)), words)
