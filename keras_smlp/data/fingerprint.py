"""What a run is trained on: a listing of the data set, to notice a change before it goes on."""

import gzip
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_smlp.checks import shown
from keras_smlp.data.splits import Arrays

CHUNK = 1000


def listing(source):
    """The classes and the images of a data set, in their order.

    Files count by name and size; their contents are not read. A million of them take some ten
    seconds on a local disk, about a quarter of what it takes to find them.

    Args:
        source: A `splits.Source`.

    Returns:
        Bytes, about ten for each file: compressed JSON, for `changes`.
    """
    content = {
        "classes": source.class_names,
        "training images": entries(source.train),
        "validation images": entries(source.validation),
    }
    return gzip.compress(json.dumps(content).encode(), mtime=0)


def changes(old, new):
    """What differs between two listings.

    Args:
        old: Bytes that `listing` returned.
        new: Those of another time.

    Returns:
        A pair: what changed, in words, `""` for nothing; and whether the number of
        classes is the same.
    """
    old, new = (json.loads(gzip.decompress(x)) for x in (old, new))
    before, now = old.pop("classes"), new.pop("classes")
    found = [compared("classes", dict.fromkeys(before), dict.fromkeys(now))]
    found += [compared(name, dict(old[name]), dict(new[name])) for name in new]
    return "; ".join(filter(None, found)), len(before) == len(now)


def compared(name, old, new):
    """What differs between two dicts of names and sizes, in words."""
    parts = {
        "added": [x for x in new if x not in old],
        "removed": [x for x in old if x not in new],
        "changed": [x for x in new if x in old and new[x] != old[x]],
    }
    words = [f"{len(x)} {how} ({example(x)})" for how, x in parts.items() if x]
    if not words and list(old) != list(new):
        words = ["another order"]
    return f"{name}: {', '.join(words)}" if words else ""


def example(names):
    """The first of some names."""
    return shown(names[0]) + (" and others" if len(names) > 1 else "")


def entries(split):
    """The name and the size of each file; of images in memory the checksum and the label.

    Of several labels an image, which neither names nor the order show, the checksum counts too.
    """
    if isinstance(split, Arrays):
        pixels, labels = split.images, split.labels.tolist()
        sums = [zlib.crc32(np.ascontiguousarray(x)) for x in pixels]
        return [(f"image {i}", pair) for i, pair in enumerate(zip(sums, labels, strict=True))]
    names = [path.removeprefix(os.path.join(split.root, "")) for path in split.paths]
    with ThreadPoolExecutor(16) as pool:  # of a network's disk, each size takes a while
        chunks = (split.paths[i : i + CHUNK] for i in range(0, len(split.paths), CHUNK))
        found = [size for chunk in pool.map(sizes, chunks) for size in chunk]
    if np.ndim(split.labels) == 2:
        found = list(zip(found, map(zlib.crc32, split.labels), strict=True))
    return list(zip(names, found, strict=True)) or [("number", len(split))]


def sizes(paths):
    """The sizes of some files in bytes; -1 of one that cannot be read."""
    found = []
    for path in paths:
        try:
            found.append(os.stat(path).st_size)
        except OSError:
            found.append(-1)
    return found
