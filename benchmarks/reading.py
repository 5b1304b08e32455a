"""Reading the same images from Parquet files and from folders: time per image, in turns.

python -m benchmarks.reading FOLDER [--rounds 5]

FOLDER is one that `data.name: folder` takes. Its training images are written to Parquet files of
1,000 rows in groups of 100, as the Hugging Face hub has them. Batches of 64 are read in the order
of a training, another one in each round, without decoding; once everything has been read, so that
the files are in the memory of the operating system.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import tables
from keras_smlp.data import sources

ROWS, GROUP, BATCH = 1000, 100, 64


def write(folder, source):
    """The training images of a source as Parquet files, twice: a validation split must be there."""
    info = {"image": {"_type": "Image"}, "label": {"names": source.class_names}}
    info["label"]["_type"] = "ClassLabel"
    metadata = {"huggingface": json.dumps({"info": {"features": info}})}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for i in range(0, len(source.train), ROWS):
        contents, labels, _ = source.train.read(np.arange(i, min(i + ROWS, len(source.train))))
        images = pa.array([{"bytes": x, "path": None} for x in contents], kind)
        table = pa.table({"image": images, "label": pa.array(labels.tolist(), pa.int64())})
        table = table.replace_schema_metadata(metadata)
        pq.write_table(table, folder / f"train-{i // ROWS:05}.parquet", row_group_size=GROUP)
        if i == 0:
            pq.write_table(table.slice(0, GROUP), folder / "validation-00000.parquet")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        source = sources.load("folder", options.folder)
        write(Path(temporary), source)
        splits = {"folder": source.train, "parquet": sources.load("parquet", temporary).train}
        times = {name: [] for name in splits}
        for round_ in range(options.rounds + 1):
            order = np.random.default_rng(round_).permutation(len(source.train))
            for name, split in splits.items():
                began = time.perf_counter()
                for i in range(0, len(order), BATCH):
                    split.read(order[i : i + BATCH])
                if round_:
                    times[name].append(1e6 * (time.perf_counter() - began) / len(order))
    least = min(times["folder"])
    print(tables.head("source", "microseconds per image: minimum, median", "to folders"))
    for name, found in times.items():
        cells = f"{min(found):.1f}, {statistics.median(found):.1f}", f"{min(found) / least:.2f}"
        print(tables.line(name, *cells))


if __name__ == "__main__":
    main()
