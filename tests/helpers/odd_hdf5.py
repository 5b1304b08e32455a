"""Changes of the HDF5 file of a `tiny` network, and what is said of each."""

import h5py
import numpy as np

KERNEL = "layers/dense/vars/0"  # of the head, (16, 3)


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
