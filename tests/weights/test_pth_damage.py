"""Hostile and damaged `.pth` files: each is refused in one sentence, and nothing in it is run."""

import ast
import collections
import os
import pickle
import random
import struct
import time
import warnings
import zipfile

import numpy as np
import pytest
from helpers.pth_files import (
    ORDERED_DICT,
    Raw,
    assemble,
    find,
    pickled,
    plant,
    reduce,
    refused,
    storage,
    tensor,
)

from keras_smlp.weights import pickle_machine, pth

pytestmark = pytest.mark.once


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.pth"


# Hostile pickles. Each of these creates the file `marker` when a real unpickler runs it.


def touch(marker):
    return f"touch {marker}"


def hostile(marker):
    """Name -> (opcodes, words of the refusal)."""
    command = assemble((touch(str(marker)),))
    call = assemble((f"__import__('pathlib').Path({str(marker)!r}).touch()",))
    strings = assemble("os") + assemble("system")
    renamed = assemble("torch") + assemble("_utils._rebuild_tensor_v2")
    return {
        "os.system": (b"cos\nsystem\n" + command + b"R", ["os.system"]),
        "posix.system": (b"cposix\nsystem\n" + command + b"R", ["posix.system"]),
        "eval": (b"cbuiltins\neval\n" + call + b"R", ["builtins.eval"]),
        "exec": (b"c__builtin__\nexec\n" + call + b"R", ["__builtin__.exec"]),
        "getattr": (b"cbuiltins\ngetattr\n" + call + b"R", ["builtins.getattr"]),
        "stack_global": (strings + b"\x93" + command + b"R", ["os.system"]),
        "stack_global_memo": (strings + b"\x94\x93" + command + b"R", ["os.system"]),
        "unused_global": (b"cos\nsystem\n", ["os.system"]),
        "dotted_global": (b"ctorch\nos.system\n" + command + b"R", ["torch.os.system"]),
        "torch_load": (b"ctorch\nload\n" + command + b"R", ["torch.load"]),
        "class_build": (b"csubprocess\nPopen\n)\x81}b", ["subprocess.Popen"]),
        "class_newobj": (b"csubprocess\nPopen\n" + command + b"\x81", ["subprocess.Popen"]),
        "newobj_ex": (b"csubprocess\nPopen\n" + command + b"}\x92", ["subprocess.Popen"]),
        "newobj_ex_inert": (b"cargparse\nNamespace\n)}\x92", ["NEWOBJ_EX"]),
        "inst": (b"(" + assemble(touch(str(marker))) + b"ios\nsystem\n", ["INST"]),
        "obj": (b"(cargparse\nNamespace\no", ["OBJ"]),
        "ext1": (b"\x82\x01", ["EXT1"]),
        "ext2": (b"\x83\x01\x00", ["EXT2"]),
        "ext4": (b"\x84\x01\x00\x00\x00", ["EXT4"]),
        "persid": (b"P0\n", ["PERSID"]),
        "pop": (b"N0N", ["POP"]),
        "dup": (b"N2", ["DUP"]),
        "long": (b"L5L\n", ["LONG"]),
        "long4": (b"\x8b\x01\x00\x00\x00\x01", ["LONG4"]),
        "string": (b"S'os'\n", ["STRING"]),
        "next_buffer": (b"\x97", ["NEXT_BUFFER"]),
        "unknown": (b"\xff", ["opcode", "unknown"]),
        # The attribute path is split differently: not the function of the list.
        "alias": (b"ctorch\n_utils._rebuild_tensor_v2\n", ["torch._utils._rebuild_tensor_v2"]),
        "alias_stack": (renamed + b"\x93", ["torch._utils._rebuild_tensor_v2"]),
        "alias_blank": (b"c torch\nFloatStorage\n", [".torch.FloatStorage"]),
        "call_tensor": (bytes(tensor()) + b")R", ["REDUCE", "tensor"]),
        "call_storage": (b"ctorch\nFloatStorage\n)R", ["REDUCE", "torch.FloatStorage"]),
        "call_string": (assemble("os.system") + command + b"R", ["REDUCE", "str"]),
        "call_result": (
            b"cargparse\nNamespace\n)R" + command + b"R",
            ["REDUCE", "inert"],
        ),
        "call_without_tuple": (b"ccollections\nOrderedDict\n]R", ["REDUCE", "OrderedDict"]),
        "ordered_dict_of_pairs": (
            b"ccollections\nOrderedDict\n" + assemble(([("a", 1)],)) + b"R",
            ["REDUCE", "collections.OrderedDict"],
        ),
        "newobj_function": (
            find("torch._utils._rebuild_tensor_v2") + b")\x81",
            ["NEWOBJ", "_rebuild_tensor_v2"],
        ),
        "parameter_of_string": (
            reduce("torch._utils._rebuild_parameter", "x", True, {}),
            ["REDUCE", "torch._utils._rebuild_parameter"],
        ),
        "build_on_global": (b"ctorch\nFloatStorage\n}b", ["BUILD", "torch.FloatStorage"]),
        "build_on_tensor": (bytes(tensor()) + b"}b", ["BUILD", "tensor"]),
        "build_on_list": (b"]}b", ["BUILD", "list"]),
        "append_to_dict": (b"}Na", ["APPEND", "Dict"]),
        "setitem_on_list": (b"]NNs", ["SETITEM", "list"]),
        "additems_on_list": (b"](N\x90", ["ADDITEMS", "list"]),
    }


@pytest.mark.parametrize("where", ["before", "value", "entry"])
@pytest.mark.parametrize("name", list(hostile("")))
def test_hostile(path, tmp_path, name, where):
    marker = tmp_path / "marker"
    opcodes, words = hostile(marker)[name]
    good = {"model": {"w": tensor()}}
    if where == "before":
        # Left below the result, as by an author who hides the call from the result.
        data = b"\x80\x02" + opcodes + pickled(good)[2:]
    elif where == "value":
        data = pickled({"model": {"w": Raw(opcodes)}})
    else:
        data = pickled(good | {"optimizer": Raw(opcodes)})
    refused(plant(path, data), *words)
    assert not marker.exists()


def test_hostile_pickles_are_live(tmp_path):
    # Otherwise the absent marker of the tests above would prove nothing.
    for name in ("os.system", "posix.system", "eval", "stack_global"):
        marker = tmp_path / "marker"
        pickle.loads(b"\x80\x04" + hostile(marker)[name][0] + b".")
        assert marker.exists()
        marker.unlink()


MALFORMED = {
    "odd_items": (b"}(Nu", ["SETITEMS", "without a value"]),
    "stack_global_of_int": (b"K\x01X\x01\x00\x00\x00a\x93", ["STACK_GLOBAL", "int"]),
    "underflow": (b"RRRR", ["REDUCE", "finds no value"]),
    "no_mark": (b"ttt", ["TUPLE", "finds no mark"]),
    "memo": (b"h\x07", ["BINGET", "finds no value"]),
    "memo_of_nothing": (b"(q\x00", ["BINPUT", "finds no value"]),
    "stop_early": (b"}.N", ["STOP", "before the end"]),
    "left_over": (b"NN", ["STOP", "before the end"]),
    "escape": (b"c\\qtorch\nx\n", ["torch.x"]),
    "text": (b"X\x01\x00\x00\x00\xff", ["UnicodeDecodeError"]),
    "cut": (b"X\xff\xff\xff\xff", ["damaged"]),
    "float": (b"F" + b"\x1b" * 9999 + b"\n", ["damaged", "could not convert"]),
    "mark_left": (b"(N", ["STOP", "before the end"]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_pickle(path, name):
    opcodes, words = MALFORMED[name]
    refused(plant(path, b"\x80\x02" + opcodes + b"."), *words)


def test_global_names_are_printable_and_short(path):
    name = "\x1b[2J" + "a" * 10_000
    plant(path, b"\x80\x04" + assemble("os") + assemble(name) + b"\x93.")
    refused(path, "os.")


@pytest.mark.parametrize("module", [pth, pickle_machine])
def test_module_imports_nothing_that_runs_a_pickle(module):
    with open(module.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    imported, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        if isinstance(node, ast.Name):
            names.add(node.id)
    allowed = ["errno", "io", "math", "os", "pathlib", "pickletools", "struct", "zipfile", "numpy"]
    allowed += ["keras_smlp.saving", "keras_smlp.weights.pickle_machine"]
    assert imported <= set(allowed)
    assert not names & {"eval", "exec", "compile", "getattr", "globals", "vars", "__import__"}


def two_bytes(data, signature, offset, value):
    """`data` with a two-byte field changed in the first header with this signature."""
    at = data.index(signature) + offset
    return data[:at] + struct.pack("<H", value) + data[at + 2 :]


GOOD = pickled({"model": {"w": tensor()}})

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


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_archive(path, name):
    extra, words = ARCHIVES[name]
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


@pytest.mark.parametrize("method", [8, 9, 12, 14, 93, 99])
def test_compressed_by_header(path, method):
    data = two_bytes(plant(path, GOOD).read_bytes(), b"PK\x01\x02", 10, method)
    path.write_bytes(data)
    refused(path, "compressed entry 'm/data.pkl'")


def test_compressed_by_size(path):
    data = plant(path, GOOD).read_bytes()
    path.write_bytes(two_bytes(data, b"PK\x01\x02", 20, len(GOOD) - 1))
    refused(path, "compressed entry 'm/data.pkl'")


@pytest.mark.parametrize("flag", [0x1, 0x20, 0x40])
def test_encrypted(path, flag):
    data = two_bytes(plant(path, GOOD).read_bytes(), b"PK\x01\x02", 8, flag)
    path.write_bytes(data)
    refused(path, "encrypted entry 'm/data.pkl'")


@pytest.mark.parametrize(
    ("name", "words"),
    [("m/data.pkl", "2 entries named data.pkl"), ("m/data/0", "two entries 'm/data/0'")],
)
def test_repeated_entry(path, name, words):
    plant(path, GOOD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, GOOD)
    refused(path, words)


@pytest.mark.parametrize("word", ["data.pkl", "data/0"])
def test_checksum(path, word):
    data = bytearray(plant(path, GOOD).read_bytes())
    at = data.index(f"m/{word}".encode()) + len(f"m/{word}") + (10 if word == "data.pkl" else 1)
    data[at] ^= 1
    path.write_bytes(data)
    refused(path, "damaged", "CRC", f"m/{word}")


def test_checksum_of_empty_entry(path):
    none = tensor(storage(length=0), sizes=(0,), strides=(1,))
    plant(path, pickled({"model": {"w": none}}), {"data/0": b""})
    assert pth.read(path)["w"].shape == (0,)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"m/data/0") - 46 + 16
    data[at] ^= 1
    path.write_bytes(data)
    refused(path, "damaged", "CRC", "m/data/0")


def test_sizes_that_the_file_cannot_hold(path):
    data = bytearray(plant(path, GOOD).read_bytes())
    at = data.rindex(b"m/data/0") - 46 + 20
    data[at : at + 8] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(data)
    refused(path, "entries of 42949", f"in a file of {len(data)}")


def test_overlapping_entries(path):
    # Many directory records for one stretch of the file: a bomb without compression.
    plant(path, GOOD, {f"data/{i}": bytes(4000) for i in range(1, 30)})
    data = bytearray(path.read_bytes())
    target = data.index(b"m/data/1") - 30
    at = data.index(b"PK\x01\x02")
    while at >= 0:
        data[at + 42 : at + 46] = struct.pack("<I", target)
        data[at + 20 : at + 28] = struct.pack("<II", 4000, 4000)
        at = data.find(b"PK\x01\x02", at + 4)
    path.write_bytes(data)
    refused(path, "entries of", f"in a file of {len(data)}")


@pytest.mark.parametrize("length", [10, 100, 300, -1, -22, -60])
def test_truncated(path, length):
    data = plant(path, GOOD).read_bytes()
    path.write_bytes(data[:length])
    refused(path)


@pytest.mark.parametrize("field", [12, 16])
@pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_directory_position(path, field, value):
    data = bytearray(plant(path, GOOD).read_bytes())
    at = data.rindex(b"PK\x05\x06") + field
    data[at : at + 4] = struct.pack("<I", value)
    path.write_bytes(data)
    try:
        assert list(pth.read(path)) == ["w"]
    except ValueError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("_MAX_PICKLE", 20, "data.pkl of more than 20 bytes"),
        ("_MAX_OPCODES", 20, "more than 20 opcodes"),
        ("_MAX_ENTRIES", 3, "more than 3 entries"),
        ("_CHUNK", 100, "zip directory that is too large"),
    ],
)
def test_limits(path, monkeypatch, limit, value, words):
    plant(path, GOOD)
    monkeypatch.setattr(pickle_machine if limit == "_MAX_OPCODES" else pth, limit, value)
    refused(path, words)


def test_storage_larger_than_a_chunk(path, monkeypatch):
    values = np.arange(100_000, dtype="float64")
    pth.write(path, {"a": values, "b": values[:0]})
    monkeypatch.setattr(pth, "_CHUNK", 70_000)
    np.testing.assert_array_equal(pth.read(path)["a"], values)


@pytest.mark.parametrize(
    "error",
    [
        *(zipfile.BadZipFile, struct.error, EOFError, RuntimeError, NotImplementedError),
        *(RecursionError, ValueError, OverflowError, MemoryError, DeprecationWarning),
    ],
)
def test_low_level_errors(path, monkeypatch, error):
    plant(path, GOOD)

    def fail(archive):
        raise error("some reason")

    monkeypatch.setattr(pth.zipfile.ZipFile, "namelist", fail)
    refused(path, "damaged", error.__name__, "some reason")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        pth.read(tmp_path / "none.pth")
    with pytest.raises(IsADirectoryError):
        pth.read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_unreadable_file(path):
    plant(path, GOOD).chmod(0)
    with pytest.raises(PermissionError):
        pth.read(path)


def test_disk_errors_stay_what_they_are(path, monkeypatch):
    plant(path, GOOD)

    def fail(self, size=-1, /):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pth._File, "read", fail)
    with pytest.raises(OSError, match="Input/output"):
        pth.read(path)


# One case for each check of a tensor.

HUGE = 2**2000

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
    "storage text": (tensor(Raw(assemble("storage") + b"Q")), "not described as one"),
    "storage list": (
        tensor(Raw(assemble(["storage", find("torch.FloatStorage"), "0", "cpu", 6]) + b"Q")),
        "not described as one",
    ),
    "storage tuple": (tensor(Raw(b")Q")), "not described as one"),
    "storage kind": (tensor(Raw(assemble(("module", 1, "0", "cpu", 6)) + b"Q")), "described"),
    "storage class": (
        tensor(Raw(assemble(("storage", find("argparse.Namespace"), "0", "cpu", 6)) + b"Q")),
        "without a type",
    ),
    "storage class text": (
        tensor(Raw(assemble(("storage", "torch FloatStorage", "0", "cpu", 6)) + b"Q")),
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


@pytest.mark.parametrize("name", list(TENSORS))
def test_tensor(path, name):
    opcodes, words = TENSORS[name]
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
        ([], "not hold a dictionary"),
        (Raw(b"}(" + (assemble("a") + tensor()) * 2 + b"u"), "key 'a' twice"),
    ],
)
def test_content(path, content, words):
    refused(plant(path, pickled(content)), words)


def test_no_cost_grows_faster_than_the_file(path):
    # Where keys were hashed or values walked, these would take forever or overflow the stack.
    doubling = b")" + b"".join(
        bytes([ord("q"), i]) + b"h" + bytes([i]) + b"\x86" for i in range(99)
    )
    deep = b"]" * 100_000 + b"a" * 99_999
    marks = b"(" * 100_000 + b"t" * 100_000
    tuples = b")" + b"\x85" * 100_000
    colliding = b"}(" + b"".join(assemble(i * (2**61 - 1)) + b"N" for i in range(100_000)) + b"u"
    for opcodes in (b"}" + doubling + b"Ns", deep, marks, tuples, colliding):
        plant(path, pickled({"model": {"w": tensor()}, "more": Raw(opcodes)}))
        start = time.process_time()
        assert list(pth.read(path)) == ["w"]
        assert time.process_time() - start < 5


# Random damage. KERAS_SMLP_FUZZ sets how many files are tried, KERAS_SMLP_FUZZ_SEED the first.

COUNT = int(os.environ.get("KERAS_SMLP_FUZZ", 2000))
FIRST = int(os.environ.get("KERAS_SMLP_FUZZ_SEED", 0))
# Opcodes and numbers that mean something at the place where chance puts them.
TOKENS = [bytes([code]) for code in b"().0}]NRQbatusegrh\x81\x85\x86\x87\x88\x93\x94\x90\x91\x8f"]
TOKENS += [b"\xff" * 4, b"\0" * 4, b"\xff" * 8, b"\0\0\0\x80", b"PK\x01\x02", b"PK\x05\x06"]
TOKENS += [b"PK\x06\x06", b"PK\x06\x07", b"\x8a\xff", b"h\x00", b"q\x00", b"\x8a\x01\xff"]
TOKENS += [bytes(find(name.replace(" ", "."))) for name in sorted(pickle_machine.GLOBALS)]
TOKENS += [b"\n", b"\\", b"cos\nsystem\n", b"cposix\nsystem\n", ORDERED_DICT]


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        if not data:
            break
        at, length = rng.randrange(len(data)), rng.choice([1, 1, 2, 4, 8, 40])
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            token = rng.choice(TOKENS)
            data[at : at + len(token)] = token
        elif kind == 5:
            other = rng.randrange(len(data))
            data[at:at] = data[other : other + length]
        else:
            del data[at:]
    return bytes(data)


def swap(rng, data):
    cuts = sorted(rng.randrange(len(data)) for _ in range(4))
    a, b, c, d = cuts
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def seeds(marker):
    """Pickles to start from, with and without a live call before, in and after them."""
    state = {"w": tensor(), "t": tensor(sizes=(3, 2), strides=(1, 3))}
    state["b"] = tensor(storage("BFloat16", "1", 3), sizes=(3,), strides=(1,))
    model = Raw(ORDERED_DICT + assemble(state)[1:] + assemble({"_metadata": {}}) + b"b")
    args = Raw(find("argparse.Namespace") + b")\x81" + assemble({"lr": 0.1, "s": [1]}) + b"b")
    plain = pickled({"model": model, "epoch": 3, "args": args, "model_ema": {"w": tensor()}})
    call = hostile(marker)["os.system"][0]
    stack = hostile(marker)["stack_global"][0]
    memo = b"cos\nsystem\nq\x050" + assemble((touch(str(marker)),)) + b"q\x060h\x05h\x06R0"
    live = [plain[:2] + call + b"0" + plain[2:], plain[:2] + memo + plain[2:], plain + call + b"."]
    live += [pickled({"model": Raw(stack), "w": tensor()}), plain[:2] + call + b"." + plain]
    return [plain, plain, pickled(state), *live]


@pytest.mark.filterwarnings("ignore")
def test_random_damage(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "m.pth"
    extra = {"data/1": bytes(6)}
    starts = [(data, plant(path, data, extra).read_bytes()) for data in seeds(marker)]
    accepted = collections.Counter()
    for seed in range(FIRST, FIRST + COUNT):
        rng = random.Random(seed)
        data, archive = rng.choice(starts)
        change = swap if rng.random() < 0.1 else mutate
        target = rng.choice(["pickle", "pickle", "archive", "directory"])
        if target == "pickle":
            # A new archive around it: sizes and checksums are right, the decoder is reached.
            plant(path, change(rng, data), extra)
        elif target == "archive":
            path.write_bytes(change(rng, archive))
        else:
            at = archive.index(b"PK\x01\x02")
            path.write_bytes(archive[:at] + change(rng, archive[at:]))
        start = time.process_time()
        try:
            found = pth.read(path, rng.choice(["model", "model", "model_ema"]))
            assert type(found) is dict
            for name, array in found.items():
                assert type(name) is str and type(array) is np.ndarray
                assert array.size <= 6
                array.tobytes()
            accepted[target] += 1
        except ValueError as error:
            assert str(error).startswith(str(path)), f"seed {seed}"
        except BaseException as error:
            pytest.fail(f"seed {seed}: {error!r}")
        assert time.process_time() - start < 1, f"seed {seed}"
        assert not marker.exists(), f"seed {seed}"
    if COUNT >= 1000:
        assert min(accepted[t] for t in ("pickle", "archive", "directory")) > 0
