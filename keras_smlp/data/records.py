"""Data sets of TensorFlow Datasets, prepared where they are not yet; any image by its index."""

import os
import struct

import numpy as np

from keras_smlp.checks import shown
from keras_smlp.data.splits import TRAIN, VALIDATION, Files, Source


def tfds(name, data_dir=None, manual_dir=None):
    """A classification set of TensorFlow Datasets, prepared first where it is not yet.

    Args:
        name: String. Such as `imagenet2012` or `imagenette/320px-v2`.
        data_dir: Folder of the prepared sets, on a local disk; `None` for TFDS' own.
        manual_dir: Folder of files that were downloaded by hand, such as
            `ILSVRC2012_img_train.tar`; `None` for TFDS' own.
    """
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir)
    except ValueError as error:
        raise ValueError(
            f"`name`: {name}, allowed: digits, npz, folder, parquet or a set of "
            f"TensorFlow Datasets ({str(error).splitlines()[0]})"
        ) from error
    features = builder.info.features or {}
    if not {"image", "label"} <= set(features):
        raise ValueError(
            f"`name`: {name} has {', '.join(features)}, allowed: a set with image and label"
        )
    if not builder.is_prepared():
        config = tensorflow_datasets.download.DownloadConfig(manual_dir=manual_dir)
        try:
            builder.download_and_prepare(download_config=config)
        except Exception as error:  # no network, files that must be fetched by hand: TFDS says it
            raise ValueError(f"`name`: {name} could not be prepared: {error}") from error
    splits = builder.info.splits
    validation = next((n for n in VALIDATION if n in splits), None)
    if TRAIN not in splits or validation is None:
        raise ValueError(
            f"`name`: {name} has the splits {', '.join(splits)}, allowed: a set with train and "
            "validation or test"
        )
    return Source(
        tuple(features["label"].names),
        records(builder, TRAIN),
        records(builder, validation),
    )


def records(builder, split):
    """The encoded images of one split of a prepared builder."""
    import tensorflow_datasets

    decoders = {"image": tensorflow_datasets.decode.SkipDecoding()}
    if builder.info.file_format.value == "tfrecord":
        shards = builder.info.splits[split]
        serialized = TFRecords(shards.filepaths, shards.shard_lengths)
        features = builder.info.features

        def examples_at(indices):
            return [
                features.deserialize_example_np(serialized[i], decoders=decoders) for i in indices
            ]
    else:
        serialized = builder.as_data_source(split, decoders=decoders)

        def examples_at(indices):
            return serialized.__getitems__([int(i) for i in indices])

    def read(indices):
        examples = examples_at(indices)
        names = [os.fsdecode(example.get("file_name", b"")) for example in examples]
        names = [n or f"{split}[{i}]" for n, i in zip(names, indices, strict=True)]
        labels = np.array([example["label"] for example in examples], "int32")
        return [example["image"] for example in examples], labels, names

    # the folder of the version ends in name, configuration and version
    root = str(builder.data_path).removesuffix(builder.info.full_name)
    paths = [str(path) for path in builder.info.splits[split].filepaths]
    return Files(len(serialized), read, paths, root)


class TFRecords:
    """Records of TFRecord files by their index, which TensorFlow itself only reads in a row.

    Every record's place is read once, at the start. A record is its length (8 bytes), a checksum
    of it (4), the content and a checksum of that (4); the checksums are not verified.

    Args:
        paths: Paths of the files.
        counts: How many records each has.

    Raises:
        ValueError: If a file ends within a record, or has another number of them.
    """

    def __init__(self, paths, counts):
        self.paths = list(paths)
        places: list[tuple[int, int, int]] = []  # file, where the content begins, its length
        for number, (path, count) in enumerate(zip(self.paths, counts, strict=True)):
            before = len(places)
            with open(path, "rb", buffering=0) as file:
                place, end = 0, os.fstat(file.fileno()).st_size
                while place + 16 <= end:
                    (length,) = struct.unpack("<Q", os.pread(file.fileno(), 8, place))
                    places.append((number, place + 12, length))
                    place += length + 16
            found = len(places) - before - (place > end)
            if place != end or found != count:
                raise ValueError(
                    f"`path`: {shown(path)} is cut or damaged ({found} whole records), allowed: "
                    f"the {count} that dataset_info.json says"
                )
        self.places = np.array(places, "int64")

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        number, place, length = self.places[index].tolist()
        # opened for each record: ImageNet has more files than a process may keep open
        with open(self.paths[number], "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, place)
