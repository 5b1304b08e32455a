"""Reading and writing `.pth` files; at the end against PyTorch itself."""

import argparse
import os
import re
import struct
import warnings
import zipfile

import numpy as np
import pytest
from helpers.pth_files import (
    GOOD,
    ORDERED_DICT,
    VALUES,
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

from keras_smlp.weights import pth

pytestmark = pytest.mark.once

DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


STATE = VALUES.reshape(2, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.pth"


# ---- writing, and reading what was written ------------------------------------------------------


def arrays():
    rng = np.random.default_rng(0)
    made = {f"block.{t}": (rng.standard_normal((2, 3, 4)) * 50).astype(t) for t in DTYPES}
    made["num_batches_tracked"] = np.array(7, "int64")
    made["empty"] = np.empty((0, 3), "float32")
    made["transposed"] = np.arange(6, dtype="float32").reshape(2, 3).T
    made["big_endian"] = np.arange(6, dtype=">f4")
    made["ünïcode"] = np.ones(1, "float32")
    return made


def test_round_trip(path):
    given = arrays()
    pth.write(path, given)
    found = pth.read(path)
    assert list(found) == list(given)
    for name, array in given.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].shape == array.shape
        assert found[name].flags.writeable and found[name].dtype.isnative
        np.testing.assert_array_equal(found[name], array)


def test_write_nothing(path):
    pth.write(path, {})
    assert pth.read(str(path)) == {}


def test_write_layout(path):
    pth.write(path, {"a": STATE, "b": np.array(1, "int64")})
    with zipfile.ZipFile(path) as archive:
        names = ["m/data.pkl", "m/byteorder", "m/data/0", "m/data/1", "m/version"]
        assert archive.namelist() == names
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("m/version") == b"3\n"
        assert archive.read("m/byteorder") == b"little"
        assert archive.read("m/data/0") == VALUES.tobytes()
        scalar = tensor(storage("Long", "1", 1), sizes=(), strides=())
        # The writer spells every integer with eight bytes; the reader gets both spellings.
        golden = (
            b"\x80\x02}X\x05\x00\x00\x00model}("
            b"X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
            b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
            b"\x8a\x08\x06\0\0\0\0\0\0\0tQ\x8a\x08\0\0\0\0\0\0\0\0"
            b"(\x8a\x08\x02\0\0\0\0\0\0\0\x8a\x08\x03\0\0\0\0\0\0\0t"
            b"(\x8a\x08\x03\0\0\0\0\0\0\0\x8a\x08\x01\0\0\0\0\0\0\0t"
            b"\x89ccollections\nOrderedDict\n)RtR"
        )
        assert archive.read("m/data.pkl").startswith(golden)
    plant(path, pickled({"model": {"b": scalar}}), {"data/1": struct.pack("<q", 9)})
    assert pth.read(path)["b"] == 9


def test_write_is_reproducible(path, tmp_path):
    (tmp_path / "other").mkdir()
    pth.write(path, arrays())
    pth.write(tmp_path / "other" / "m.pth", arrays())
    assert path.read_bytes() == (tmp_path / "other" / "m.pth").read_bytes()


@pytest.mark.parametrize("value", ["complex64", "uint16", "object", "datetime64[s]", "U3"])
def test_write_refuses_dtype(path, value):
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match=r"'head\.bias'.*" + re.escape(str(np.dtype(value)))):
        pth.write(path, {"head.bias": np.zeros(2, value)})
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["m.pth"]


def test_write_refuses_name(path):
    with pytest.raises(TypeError, match="name must be a string, not 3"):
        pth.write(path, {3: VALUES})
    assert os.listdir(path.parent) == []


def test_write_replaces(path):
    pth.write(path, {"old": VALUES})
    pth.write(path, {"new": VALUES})
    assert list(pth.read(path)) == ["new"] and os.listdir(path.parent) == ["m.pth"]


def test_write_without_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        pth.write(tmp_path / "missing" / "m.pth", {"a": VALUES})


# ---- containers ---------------------------------------------------------------------------------


def test_bare(path):
    plant(path, pickled({"w": tensor()}))
    np.testing.assert_array_equal(pth.read(path)["w"], STATE)
    refused(path, "bare state dict", "'model_ema'", key="model_ema")
    assert list(pth.read(plant(path, pickled({"model": tensor()})))) == ["model"]


def test_container(path):
    ema = tensor(storage(key="1"))
    args = Raw(find("argparse.Namespace") + b")\x81" + assemble({"lr": 0.1, "tags": ["a"]}) + b"b")
    groups = {"state": {0: {"exp_avg": ema}}, "param_groups": [{"betas": (0.9, 0.999)}]}
    content = {"model_ema": {"w": ema}, "optimizer": groups, "args": args, "epoch": 3}
    content |= {"scaler": {"growth": None, "on": True}, "model": {"w": tensor()}}
    plant(path, pickled(content), {"data/1": (VALUES + 100).tobytes()})
    np.testing.assert_array_equal(pth.read(path)["w"], STATE)
    np.testing.assert_array_equal(pth.read(path, "model_ema")["w"], STATE + 100)
    refused(path, "'nothing'", "'model_ema', 'optimizer', 'args'", key="nothing")
    refused(path, "'args'", "not a state dict", key="args")
    refused(path, "'epoch'", "not a state dict", key="epoch")
    refused(path, "not a tensor", "'optimizer'", "'state'", key="optimizer")


def test_memo(path):
    # Protocol 4 numbers the values by their order: "model" is both key and tensor name.
    name = assemble("model") + b"\x94"
    store = storage() + b"\x94"
    again = tensor(Raw(b"h\x01"), offset=2, sizes=(), strides=())
    inner = b"}(h\x00" + tensor(Raw(store)) + assemble("x") + again + b"u"
    plant(path, b"\x80\x04}(" + name + inner + b"u.")
    assert list(pth.read(path)) == ["model", "x"] and pth.read(path)["x"] == 2


def test_ema_is_never_a_substitute(path):
    plant(path, pickled({"model_ema": {"w": tensor()}, "epoch": 1}))
    refused(path, "no entry 'model'", "'model_ema'")
    assert list(pth.read(path, "model_ema")) == ["w"]


def test_other_storages_are_not_read(path):
    other = tensor(storage(key="1"))
    plant(path, pickled({"model": {"w": tensor()}, "model_ema": {"w": other}}))
    assert list(pth.read(path)) == ["w"]
    refused(path, "lacks storage '1' of tensor 'w'", key="model_ema")


ORDERED = Raw(ORDERED_DICT + assemble({"w": tensor()})[1:])
METADATA = assemble({"_metadata": {"": {"version": 1}}})
INERT = {
    "number": 2**127,
    "set": Raw(b"\x8f(" + assemble(1) + b"\x90"),
    "old_set": reduce("__builtin__.set", [1, 2]),
    "frozen": Raw(b"(" + assemble(1) + b"\x91"),
}
READ = {
    "a tensor beside the weights": {"rng": tensor(), "model": {"w": tensor()}},
    "attributes of a state dict": {"model": Raw(ORDERED + METADATA + b"b")},
    "a parameter": {
        "model": {"w": reduce("torch._utils._rebuild_parameter", tensor(), True, Raw(ORDERED_DICT))}
    },
    "values that are skipped": {"model": {"w": tensor()}, **INERT},
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_what_else_torch_saves_is_read(path, content):
    found = pth.read(plant(path, pickled(content)))
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], STATE)


def test_views_share_a_storage(path):
    views = {"head": tensor(sizes=(2,), strides=(1,)), "t": tensor(sizes=(3, 2), strides=(1, 3))}
    views["tail"] = tensor(offset=4, sizes=(2,), strides=(1,))
    views["scalar"] = tensor(offset=5, sizes=(), strides=())
    views["one"] = tensor(offset=5, sizes=(1, 1), strides=(2**70, 0))
    views["none"] = tensor(offset=6, sizes=(0, 2**40), strides=(0, 2**70))
    plant(path, pickled({"model": views}))
    found = pth.read(path)
    assert found["head"].tolist() == [0, 1] and found["tail"].tolist() == [4, 5]
    assert found["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["scalar"] == 5 and found["scalar"].shape == ()
    assert found["one"].tolist() == [[5]] and found["none"].shape == (0, 2**40)
    assert np.shares_memory(found["head"], found["t"])


def test_bfloat16_is_read_as_float32(path):
    values = np.array([1.5, -2, 0, np.inf, 2**-130, 3e38], "float32")
    half = (values.view("uint32") >> 16).astype("<u2")
    content = pickled({"model": {"w": tensor(storage("BFloat16"), sizes=(6,), strides=(1,))}})
    plant(path, content, {"data/0": half.tobytes()})
    found = pth.read(path)["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (half.astype("uint32") << 16).view("float32"))
    np.testing.assert_allclose(found, values, rtol=2**-7)


def test_bool_bytes(path):
    store = storage("Bool", length=3)
    content = pickled({"model": {"w": tensor(store, sizes=(3,), strides=(1,))}})
    plant(path, content, {"data/0": bytes([0, 1, 200])})
    assert pth.read(path)["w"].view("uint8").tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "entries",
    [
        {"byteorder": b"big", "data/0": VALUES.astype(">f4").tobytes()},
        {"byteorder": None, "version": None},
    ],
)
def test_byte_order(path, entries):
    found = pth.read(plant(path, GOOD, entries))["w"]
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, STATE)


# ---- with PyTorch -------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")


def small(torch):
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def assert_same(found, state):
    assert list(found) == list(state)
    for name, value in state.items():
        expected = value.detach()
        if str(expected.dtype) == "torch.bfloat16":
            expected = expected.float()
        assert found[name].dtype == expected.numpy().dtype
        assert found[name].shape == tuple(expected.shape)
        np.testing.assert_array_equal(found[name], expected.numpy())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_container(torch, path, protocol):
    model, average = small(torch), small(torch)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    model(torch.randn(2, 3, 2, 2)).sum().backward()
    optimizer.step()
    schedule.step()
    with torch.no_grad():
        for value in average.parameters():
            value += 1
    options = argparse.Namespace(lr=0.1, name="t", big=2**70, s={1})
    content = {"model_ema": average.state_dict(), "optimizer": optimizer.state_dict()}
    content |= {"lr_scheduler": schedule.state_dict(), "epoch": 3, "args": options}
    content |= {"scaler": {"scale": 1.0}}
    content["model"] = model.state_dict()
    torch.save(content, path, pickle_protocol=protocol)
    assert_same(pth.read(path), model.state_dict())
    assert_same(pth.read(path, "model_ema"), average.state_dict())
    del content["model"]
    torch.save(content, path, pickle_protocol=protocol)
    refused(path, "no entry 'model'", "'model_ema', 'optimizer'")


def test_torch_bare(torch, path):
    torch.save(small(torch).state_dict(), path)
    assert_same(pth.read(path), small(torch).state_dict())
    refused(path, "'model_ema'", key="model_ema")
    torch.save({"model": small(torch).state_dict()}, path)
    assert_same(pth.read(path), small(torch).state_dict())


def states(torch):
    """State dicts of parameters, of views of one tensor, and of all types."""
    base = torch.arange(24.0)
    grid = base.view(4, 6)
    views = {"t": grid.T, "rows": grid[1:3], "columns": grid[:, 2:4], "steps": base[1::3]}
    views |= {"one": base[5], "none": base[3:3], "all": grid, "copy": grid.clone().T}
    types = {name: (torch.randn(3, 4) * 9).to(getattr(torch, name)) for name in DTYPES}
    types |= {"bfloat16": torch.randn(3, 4).bfloat16(), "view": torch.randn(3, 4).bfloat16().T}
    return dict(small(torch).named_parameters()), views, types


@pytest.mark.parametrize("which", range(3))
def test_torch_state_dicts(torch, path, which):
    state = states(torch)[which]
    torch.save({"model": state}, path)
    assert_same(pth.read(path), state)
    torch.save(state, path)
    assert_same(pth.read(path), state)


def test_torch_refused(torch, path):
    torch.save({"w": torch.ones(1).expand(6)}, path)
    refused(path, "tensor 'w'", "expanded")
    torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, path)
    refused(path, "torch.ComplexFloatStorage")
    torch.save(small(torch), path)
    refused(path, "torch.nn.modules.container.Sequential")
    torch.save(small(torch).state_dict(), path, _use_new_zipfile_serialization=False)
    refused(path, "before PyTorch 1.6")


def test_torch_script(torch, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(small(torch), torch.zeros(1, 3, 2, 2)), str(path))
    refused(path, "TorchScript")


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_what_write_wrote(torch, path, mmap):
    state = small(torch).state_dict()
    given = {name: value.numpy() for name, value in state.items()}
    pth.write(path, given)
    loaded = torch.load(path, weights_only=True, mmap=mmap)["model"]
    small(torch).load_state_dict(loaded, strict=True)
    assert_same(given, loaded)
    pth.write(path, arrays())
    loaded = torch.load(path, weights_only=True, mmap=mmap)["model"]
    native = {k: v.astype(v.dtype.newbyteorder("=")) for k, v in arrays().items()}
    assert_same(native, loaded)
