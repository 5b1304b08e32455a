"""Odd `.weights.h5` and `.keras` files: refused unread if they point elsewhere or claim much."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from helpers.nets import assert_same_weights
from helpers.odd_hdf5 import H5, KERNEL, bomb, replaced
from helpers.refusals import refused, tiny

import keras_smlp

pytestmark = pytest.mark.once


# ---- .weights.h5 --------------------------------------------------------------------------------
@pytest.mark.parametrize(("change", "words"), H5.values(), ids=H5)
def test_odd_hdf5(change, words, here, tiny_model, tiny_files):
    path = here / "odd.weights.h5"
    path.write_bytes(tiny_files[".weights.h5"].read_bytes())
    with h5py.File(path, "r+") as h5:
        change(h5)
    refused(tiny_model, path, words)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", "longdouble"])
def test_other_floats_are_converted(dtype, here, tiny_model, tiny_files):
    path = here / "other.weights.h5"
    path.write_bytes(tiny_files[".weights.h5"].read_bytes())
    with h5py.File(path, "r+") as h5:
        replaced(lambda h, x: h.create_dataset(KERNEL, data=x.astype(dtype)))(h5)
    loaded = tiny(weights=path)
    for found, expected in zip(loaded.get_weights(), tiny_model.get_weights(), strict=True):
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


def test_a_compressed_archive_loads_and_a_bomb_does_not(here, tiny_model, tiny_files):
    source, deflated = tiny_files[".keras"], zipfile.ZIP_DEFLATED
    path = changed(here / "small.keras", source, lambda entries: None, deflated)
    assert_same_weights(tiny(weights=path), tiny_model)
    assert_same_weights(keras_smlp.load_model(path), tiny_model)
    changed(path, source, lambda entries: entries.update(x=bytes(200 << 20)), deflated)
    refused(tiny_model, path, "entries of .* compressed in a file")
    refused(
        tiny_model,
        changed(path, source, lambda entries: None, zipfile.ZIP_LZMA),
        "compressed entry",
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
def test_odd_keras_files(change, words, here, tiny_model, tiny_files):
    refused(tiny_model, changed(here / "odd.keras", tiny_files[".keras"], change), words)


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


def test_a_byte_changed_anywhere_in_a_keras_file(here, tiny_model, tiny_files):
    data, path = tiny_files[".keras"].read_bytes(), here / "flipped.keras"
    expected = tiny_model.get_weights()
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
