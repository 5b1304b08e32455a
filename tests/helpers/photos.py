"""Real photos that scikit-learn bundles, encoded anew in many ways, and small data sets of them."""

import functools
import io
import tarfile

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="the reference for images is PIL")
datasets = pytest.importorskip("sklearn.datasets", reason="the photos come with scikit-learn")


@functools.cache
def photo(name="china", size=None):
    """china.jpg or flower.jpg, 640x427, or resized to (width, height), as a PIL image."""
    image = Image.fromarray(datasets.load_sample_image(f"{name}.jpg"))
    return image.resize(size, Image.Resampling.BICUBIC) if size else image


def encoded(image, form="JPEG", **options):
    """The bytes of a PIL image as a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def folder(path, train=4, validation=3):
    """A folder in the official layout: two classes, so many photos each of various sizes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", validation)):
        for name, wnid in (("china", "n02"), ("flower", "n01")):
            below = path / split / wnid
            below.mkdir(parents=True)
            for i in range(count):
                image = photo(name, tuple(rng.integers(60, 130, 2).tolist()))
                (below / f"{wnid}_{i}.JPEG").write_bytes(encoded(image, quality=90))
    return path


def imagenet_archives(path):
    """The two official archives of ImageNet in miniature; three classes, four photos of each."""

    def add(tar, name, content):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))

    path.mkdir()
    with tarfile.open(path / "ILSVRC2012_img_train.tar", "w") as train:
        for k, wnid in enumerate(("n01440764", "n01443537", "n15075141")):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w") as tar:
                for i in range(4):
                    image = photo("flower", (90 + 10 * i, 80 + 5 * k))
                    add(tar, f"{wnid}_{i}.JPEG", encoded(image))
            add(train, f"{wnid}.tar", file.getvalue())
    with tarfile.open(path / "ILSVRC2012_img_val.tar", "w") as validation:
        for i in range(5):
            content = encoded(photo("china", (99 + i, 80)))
            add(validation, f"ILSVRC2012_val_{i + 1:08}.JPEG", content)
    return path
