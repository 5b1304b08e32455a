"""Small Parquet files of images, as the Hugging Face hub has them."""

import json

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="it reads and writes Parquet files")
pq = pytest.importorskip("pyarrow.parquet", reason="it reads and writes Parquet files")

NAMES = ("n01", "n02")


def table(contents, labels, names=NAMES, paths=None, **more):
    """Rows as the Hugging Face hub has them."""
    rows = [{"bytes": x, "path": paths and paths[i]} for i, x in enumerate(contents)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(rows, kind), "label": pa.array(labels, pa.int64()), **more}
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    found = pa.table(columns)
    return found.replace_schema_metadata(metadata) if names else found


def shards(path, source, rows=2):
    """The images of a source in Parquet files of three images, so many rows in a group."""
    path.mkdir()
    for name, split in (("train", source.train), ("validation", source.validation)):
        contents, labels, _ = split.read(np.arange(len(split)))
        for i in range(0, len(split), 3):
            part = table(contents[i : i + 3], labels[i : i + 3].tolist(), source.class_names)
            pq.write_table(part, path / f"{name}-{i // 3}.parquet", row_group_size=rows)
    return path
