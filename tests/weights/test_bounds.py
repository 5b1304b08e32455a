"""Files that claim more than they hold, point elsewhere or hold no numbers: refused unread."""

import io
import json
import os
import re
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from helpers import memory
from helpers.nets import assert_same_weights, save, saved_in_each_format
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_smlp
from keras_smlp.weights import identify, loading, official, pth

pytestmark = pytest.mark.once

KERNEL = "layers/dense/vars/0"  # of the head, (16, 3)


def tiny(**arguments):
    return keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3, **arguments)


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def tiny_files(model, tmp_path_factory):
    """Ending -> path of the model's weights."""
    return saved_in_each_format(model, tmp_path_factory.mktemp("tiny"))


def refused(model, path, words):
    """Neither way of loading takes the file, reads much of it or changes the model."""
    before = model.get_weights()
    ways = [lambda: loading.load(model, path), lambda: keras_smlp.load_model(path)]
    for load in ways:
        resident, start = memory.forget_peak(), time.perf_counter()
        with pytest.raises(ValueError, match=words) as caught:
            load()
        assert time.perf_counter() - start < 20 and memory.megabytes_since(resident) < 64
        message = str(caught.value)
        assert str(path) in message and message.isprintable() and len(message) < 4000
    np.testing.assert_equal(model.get_weights(), before)


# ---- HDF5 ---------------------------------------------------------------------------------------
def replaced(make):
    """A change of an HDF5 file: another kernel, made from the group, the name and the values."""

    def change(h5):
        values = h5[KERNEL][()]
        del h5[KERNEL]
        make(h5, values)

    return change


def virtual(h5, values):
    layout = h5py.VirtualLayout(values.shape, "f4")
    layout[:] = h5py.VirtualSource("fifo", "x", shape=values.shape)
    h5.create_virtual_dataset(KERNEL, layout)


def sparse(h5, values):
    """A dataset of 2.5 GB that has its place in the file, where nothing was ever written."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((25_000, 25_000))
    h5py.h5d.create(h5.id, KERNEL.encode(), h5py.h5t.NATIVE_FLOAT, space, plan)


def bomb(h5):
    group = h5["layers"].create_group("bomb")
    for _ in range(40):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner


def deep(h5):
    group = h5["layers"]
    for _ in range(200):
        group = group.create_group("a")


def twice(h5):
    h5.copy("layers/dense", "layers/dense_1")


def named(value):
    return lambda h5: h5["layers/dense/vars"].attrs.__setitem__("name", value)


def external(name):
    return lambda h5, x: h5.create_dataset(
        KERNEL, x.shape, "f4", external=[(name, 0, h5py.h5f.UNLIMITED)]
    )


OUTSIDE = "refers to something elsewhere"
NO_FIT = "do not fit"
H5 = {
    "external storage": (replaced(external("secret")), "has its values in other files"),
    "external storage in a pipe": (replaced(external("fifo")), "has its values in other files"),
    "virtual": (replaced(virtual), "has its values in other files"),
    "external link": (
        replaced(lambda h, x: h.__setitem__(KERNEL, h5py.ExternalLink("fifo", "x"))),
        OUTSIDE,
    ),
    "soft link": (replaced(lambda h, x: h.__setitem__(KERNEL, h5py.SoftLink("/nothing"))), OUTSIDE),
    "linked layers": (
        lambda h: h.move("layers", "x") or h.__setitem__("layers", h5py.ExternalLink("fifo", "x")),
        OUTSIDE,
    ),
    "never written": (
        replaced(lambda h, x: h.create_dataset(KERNEL, (25_000, 25_000), "f4")),
        "not in the file",
    ),
    "never written, the right shape": (
        replaced(lambda h, x: h.create_dataset(KERNEL, x.shape, "f4")),
        "not in the file",
    ),
    "2.5 GB": (replaced(sparse), r"\(25000, 25000\)|no whole sMLPNet"),
    "compressed": (
        replaced(lambda h, x: h.create_dataset(KERNEL, data=x, compression="gzip")),
        "divided or compressed",
    ),
    "chunked": (
        replaced(lambda h, x: h.create_dataset(KERNEL, data=x, chunks=(1, 1))),
        "divided or compressed",
    ),
    "no shape": (
        replaced(lambda h, x: h.create_dataset(KERNEL, data=h5py.Empty("f4"))),
        "no shape",
    ),
    "text": (
        replaced(lambda h, x: h.create_dataset(KERNEL, data=np.full(x.shape, b"abc"))),
        "not floating point",
    ),
    "text elsewhere": (
        replaced(lambda h, x: h.create_dataset(KERNEL, data=np.full(x.shape, "a", object))),
        "not floating point",
    ),
    "a pair": (
        replaced(lambda h, x: h.create_dataset(KERNEL, data=np.zeros(x.shape, "f4,f4"))),
        "not floating point",
    ),
    "a group": (replaced(lambda h, x: h.create_group(KERNEL)), "is no dataset"),
    "too large": (
        replaced(lambda h, x: h.create_dataset(KERNEL, data=np.full(x.shape, 1e300))),
        "finite.*48 of 48",
    ),
    "hard links": (bomb, "has another name"),
    "a circle": (lambda h: h["layers"].__setitem__("dense/a", h["layers"]), "has another name"),
    "deep": (deep, "deep"),
    "a dataset as variables": (
        lambda h: (
            h.move("layers/dense/vars", "x") or h.create_dataset("layers/dense/vars", data=[1.0])
        ),
        "dataset instead of a group",
    ),
    "a dataset as layers": (
        lambda h: h.move("layers", "x") or h.create_dataset("layers", data=[1.0]),
        "dataset instead of a group",
    ),
    "no layers": (lambda h: h.move("layers", "x"), "no group 'layers'"),
    "a name twice": (twice, "two variables of the name 'predictions/0'"),
    "a number as name": (named(3), "no text"),
    "names": (named(["a", "b"]), "no text"),
    "no name": (lambda h: h["layers/dense/vars"].attrs.__delitem__("name"), "damaged"),
    "a terminal's name": (named("\x1b[2J" + "a" * 2000), r"unexpected: \\x1b\[2Jaaa"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a pipe that nobody writes to and a file of somebody else."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "secret").write_bytes(bytes(10_000))
    return tmp_path


@pytest.mark.parametrize(("change", "words"), H5.values(), ids=H5)
def test_odd_hdf5(change, words, here, model, tiny_files):
    path = here / "odd.weights.h5"
    path.write_bytes(tiny_files[".weights.h5"].read_bytes())
    with h5py.File(path, "r+") as h5:
        change(h5)
    refused(model, path, words)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", "longdouble"])
def test_other_floats_are_converted(dtype, here, model, tiny_files):
    path = here / "other.weights.h5"
    path.write_bytes(tiny_files[".weights.h5"].read_bytes())
    with h5py.File(path, "r+") as h5:
        replaced(lambda h, x: h.create_dataset(KERNEL, data=x.astype(dtype)))(h5)
    loaded = tiny(weights=path)
    for found, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)


# ---- .keras -------------------------------------------------------------------------------------
def changed(path, source, change, compression=zipfile.ZIP_STORED):
    """Writes a `.keras` file again, with other entries."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def inner(change):
    """A change of a `.keras` file: one of the HDF5 file in it."""

    def to_entries(entries):
        data = io.BytesIO(entries["model.weights.h5"])
        with h5py.File(data, "r+") as h5:
            change(h5)
        entries["model.weights.h5"] = data.getvalue()

    return to_entries


def test_a_compressed_archive_loads_and_a_bomb_does_not(here, model, tiny_files):
    source, deflated = tiny_files[".keras"], zipfile.ZIP_DEFLATED
    path = changed(here / "small.keras", source, lambda entries: None, deflated)
    assert_same_weights(tiny(weights=path), model)
    assert_same_weights(keras_smlp.load_model(path), model)
    changed(path, source, lambda entries: entries.update(x=bytes(200 << 20)), deflated)
    refused(model, path, "entries of .* compressed in a file")
    refused(
        model, changed(path, source, lambda entries: None, zipfile.ZIP_LZMA), "compressed entry"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entries: entries.pop("config.json"), "no entry config.json"),
        (lambda entries: entries.pop("model.weights.h5"), "no entry model.weights.h5"),
        (lambda entries: entries.update({"model.weights.h5": b""}), "damaged"),
        (inner(H5["external storage in a pipe"][0]), "has its values in other files"),
        (inner(H5["never written"][0]), "not in the file"),
        (inner(bomb), "has another name"),
        (
            inner(lambda h5: h5[KERNEL].write_direct(np.full((16, 3), np.nan, "f4"))),
            "finite.*48 of",
        ),
    ],
)
def test_odd_keras_files(change, words, here, model, tiny_files):
    refused(model, changed(here / "odd.keras", tiny_files[".keras"], change), words)


def lambda_layer(entries):
    code = {
        "class_name": "__lambda__",
        "config": {"code": "4w==", "defaults": None, "closure": None},
    }
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": code}}
    entries["config.json"] = json.dumps(layer).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entries: entries.update({"config.json": b"[]"}), "describes no model"),
        (lambda entries: entries.update({"config.json": b"[" * 100_000}), "RecursionError"),
        (lambda entries: entries.update({"config.json": b"\xff"}), "damaged"),
        (lambda entries: entries.update({"config.json": b'{"class_name": 3}'}), "holds no model"),
        (lambda entries: entries.update({"config.json": b" " * (17 << 20)}), "config.json of more"),
        (lambda_layer, "(?i)lambda.*safe_mode"),
    ],
)
def test_odd_configurations(change, words, here, tiny_files):
    path = changed(here / "odd.keras", tiny_files[".keras"], change)
    with pytest.raises(ValueError, match=words) as caught:
        keras_smlp.load_model(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_a_byte_changed_anywhere_in_a_keras_file(here, model, tiny_files):
    data, path = tiny_files[".keras"].read_bytes(), here / "flipped.keras"
    expected = model.get_weights()
    rng = np.random.default_rng(0)
    last = list(range(len(data) - 200, len(data), 20))  # the directory
    for at in [*rng.integers(0, len(data), 15), *last]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            loaded = keras_smlp.load_model(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:  # a date
            np.testing.assert_equal(loaded.get_weights(), expected)


# ---- what no variable wants ---------------------------------------------------------------------
@pytest.mark.parametrize("ending", official.ENDINGS)
def test_a_large_tensor_is_not_read(ending, here, model, tiny_files):
    path = here / f"large{ending}"
    tensors = pth.read(tiny_files[".pth"])
    del tensors["mlp_head.0.bias"]
    tensors["large"] = np.zeros(30 << 20, "float32")
    if ending == ".safetensors":
        safetensors.numpy.save_file(tensors, path)
    else:
        pth.write(path, tensors)
    tensors.clear()
    refused(model, path, "missing: mlp_head.0.bias; unexpected: large")


def test_a_network_larger_than_its_file_is_not_built(here, tiny_files):
    tensors = pth.read(tiny_files[".pth"])
    tensors["to_patch_embedding.0.0.weight"] = np.zeros((20_000, 3, 4, 4), "float32")
    pth.write(here / "large.pth", tensors)
    with pytest.raises(ValueError, match=r"large.pth holds no whole sMLPNet.*dim=20000"):
        keras_smlp.load_model(here / "large.pth")


@settings(derandomize=True, deadline=None, max_examples=10)
@given(
    dim=st.integers(1, 6),
    depths=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    expansion=st.integers(1, 4),
    patch_size=st.integers(1, 3),
    sides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    classes=st.none() | st.integers(1, 4),
)
def test_the_size_of_an_architecture(dim, depths, expansion, patch_size, sides, classes):
    shape = (*(side * patch_size * 2 ** (len(depths) - 1) for side in sides), 3)
    found = identify.Architecture(dim, tuple(depths), expansion, patch_size, shape, classes)
    model = keras_smlp.SMLPNet(**found.arguments(), drop_path_rate=0.0)
    assert found.values() == sum(np.prod(v.shape) for v in model.weights)


# ---- values that are no numbers -----------------------------------------------------------------
@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    ending=st.sampled_from([".pth", ".safetensors", ".weights.h5", ".keras"]),
    place=st.integers(0, 10**6),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_a_value_that_is_not_finite_is_refused_wherever_it_is(
    ending, place, value, model, tmp_path_factory
):
    path = tmp_path_factory.mktemp("nan") / f"bad{ending}"
    variable = model.weights[place % len(model.weights)]
    good = keras.ops.convert_to_numpy(variable).copy()
    bad = good.copy()
    bad.flat[place % bad.size] = value
    variable.assign(bad)
    save(model, path)
    variable.assign(good)
    before = model.get_weights()
    for load in (loading.load, lambda model, path: keras_smlp.load_model(path)):
        with pytest.raises(ValueError, match="must be finite numbers. Received: .* 1 of"):
            load(model, path)
    np.testing.assert_equal(model.get_weights(), before)


def test_other_peoples_layers_may_hold_anything(here):
    body = tiny(include_top=False, pooling="avg")
    mask = keras.layers.Dense(2, bias_initializer=keras.initializers.Constant(-np.inf), name="mask")
    head = keras.Sequential([mask], name="predictions")  # a name of the network's
    keras.Model(body.input, head(body.output)).save(here / "mine.keras")
    with pytest.raises(ValueError, match="mine.keras must be finite numbers"):
        keras_smlp.load_model(here / "mine.keras")
    keras.Model(body.input, mask(body.output)).save(here / "mine.keras")
    assert np.isinf(keras_smlp.load_model(here / "mine.keras").get_weights()[-1]).all()


def test_predictions_that_are_not_finite():
    with pytest.raises(ValueError, match="`probabilities` must be finite numbers.*1 of 1000"):
        keras_smlp.decode_predictions(np.where(np.arange(1000) == 3, np.nan, 0.1)[None])


# ---- .pth files of other programs ---------------------------------------------------------------
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_names_of_a_wrapped_network(prefix, here, model, tiny_files):
    tensors = pth.read(tiny_files[".pth"])
    pth.write(here / "wrapped.pth", {prefix + name: x for name, x in tensors.items()})
    assert_same_weights(tiny(weights=here / "wrapped.pth"), model)
    pth.write(here / "half.pth", {"module.mlp_head.0.bias": tensors["mlp_head.0.bias"]} | tensors)
    with pytest.raises(ValueError, match="unexpected: module.mlp_head.0.bias"):
        tiny(weights=here / "half.pth")


@pytest.mark.parametrize("ending", [".pt", ".pth.tar", ".ckpt", ".bin"])
def test_other_endings_of_pytorchs_files(ending, here, model, tiny_files):
    path = here / f"m{ending}"
    path.write_bytes(tiny_files[".pth"].read_bytes())
    assert_same_weights(tiny(weights=path), model)
    assert_same_weights(keras_smlp.load_model(path), model)
    with pytest.raises(ValueError, match=re.escape("must end in one of ('.pth', '.safetensors')")):
        keras_smlp.save_official(model, path)


def test_a_file_of_another_architecture_says_so(here, tiny_files):
    with pytest.raises(
        ValueError, match=r"network with dim=8, depths=\(1, 1\), the model has dim=4"
    ):
        keras_smlp.SMLPNet(4, (1, 2), input_shape=(32, 32, 3), weights=tiny_files[".keras"])


def test_a_pipe_is_no_file(here):
    with pytest.raises(ValueError, match="fifo.pth is no regular file"):
        os.rename("fifo", "fifo.pth")
        identify.infer(here / "fifo.pth")


def test_nothing_is_converted_before_all_is_checked(model, here, monkeypatch):
    body = tiny(include_top=False)
    monkeypatch.setattr(official.ops, "convert_to_numpy", lambda x: pytest.fail("converted"))
    with pytest.raises(ValueError, match="classifier"):
        keras_smlp.save_official(body, here / "m.pth")
