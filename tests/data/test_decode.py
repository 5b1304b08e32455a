"""Files of all kinds -> images, against PIL."""

import functools
import io

import numpy as np
import pytest
from helpers.photos import Image, encoded, photo
from helpers.statistics import assert_same_quantiles
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import images as peer

tf = pytest.importorskip("tensorflow", reason="the batches are made by tf.data")

from keras_smlp.data import decode  # noqa: E402 - asked for first

pytestmark = pytest.mark.once

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def center(size, resize_size):
    return decode.CenterCrop((size, size), (resize_size, resize_size))


bad = decode.BadFiles()  # what the last `view` noted


@functools.cache
def graph(crop, exif_orientation=False):
    """The function that decodes and crops so, traced once."""
    options = {"bad": bad, "crop": crop, "exif_orientation": exif_orientation}
    return tf.function(functools.partial(decode.decode_with_fallback, **options))


def view(content, crop, draws=None, exif_orientation=False):
    """The image of a file, and whether it could be decoded."""
    bad.names.clear()
    image, good = graph(crop, exif_orientation)(
        tf.constant(content), tf.constant("a file"), draws=draws
    )
    return image.numpy(), bool(good)


def uniform(seed, number=0):
    """What a random window is made of."""
    return tf.random.stateless_uniform((10, 4), [seed, number])


def random_crop(size, *scaled):
    return decode.RandomCrop((size, size), SCALE, RATIO, *scaled)


def close_to_pil(ours, theirs):
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() <= 0.5 and (difference > 3).mean() < 0.01, difference.mean()


# ---- evaluation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["china", "flower"])
@pytest.mark.parametrize("size", [None, (427, 640), (256, 256), (300, 257), (180, 90), (999, 301)])
def test_the_evaluation_view_is_pils(name, size):
    content = encoded(photo(name, size), quality=90)
    image, good = view(content, center(224, 256))
    assert good and image.shape == (224, 224, 3) and image.dtype == np.uint8
    close_to_pil(image, peer.evaluation_view(content, 224, 256))


def test_the_view_is_the_same_eagerly_and_of_pixels_in_memory():
    content = encoded(photo("flower"), "PNG")
    whole = center(96, 110)
    files = tf.data.Dataset.from_tensors(content)
    decoded = files.map(lambda x: decode.decode_with_fallback(x, "", decode.BadFiles(), whole))
    inside, good = next(decoded.as_numpy_iterator())
    assert good
    eager, _ = decode.decode_with_fallback(tf.constant(content), "", bad, whole)
    np.testing.assert_array_equal(inside, eager)
    pixels = np.asarray(photo("flower"))
    np.testing.assert_array_equal(inside, decode.crop_pixels(pixels, whole))


def test_enlarging_is_pils():
    small = photo("china", (40, 30))
    image, _ = view(encoded(small, "PNG"), center(32, 64))
    close_to_pil(image, peer.evaluation_view(encoded(small, "PNG"), 32, 64))


# ---- training -----------------------------------------------------------------------------------


def pil_crop(content, box, size):
    image = Image.open(io.BytesIO(content)).convert("RGB")
    top, left, height, width = box
    image = image.crop((left, top, left + width, top + height))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.deep) for seed in range(4, 8))]
)
def test_a_random_crop_is_pils_of_the_same_box(seed):
    content = encoded(photo("china"), quality=95)
    draws = uniform(seed)
    image, _ = view(content, random_crop(96), draws)
    box = [int(x) for x in decode.random_window(427, 640, draws, SCALE, RATIO)]
    close_to_pil(image, pil_crop(content, box, 96))


@pytest.mark.parametrize("seeds", [5, pytest.param(12, marks=pytest.mark.deep)])
def test_scaled_decoding_changes_little_and_only_where_it_may(seeds):
    content = encoded(photo("china"), quality=95)
    changes = []
    for seed in range(seeds):
        draws = uniform(seed)
        exact, _ = view(content, random_crop(96), draws)
        halved, _ = view(content, random_crop(96, True), draws)
        box = [int(x) for x in decode.random_window(427, 640, draws, SCALE, RATIO)]
        if min(box[2:]) < 192:
            np.testing.assert_array_equal(halved, exact)
        else:
            changes.append(np.abs(halved.astype(int) - exact).mean())
    # nothing is shifted: a quarter of a pixel moves these images by more
    assert len(changes) >= 3 and 0 < max(changes) < 4


def test_scaled_decoding_is_for_jpeg_alone():
    content, draws = encoded(photo("china"), "PNG"), uniform(1)
    assert min(decode.random_window(427, 640, draws, SCALE, RATIO)[2:]) >= 64
    exact, halved = (view(content, random_crop(32, scaled), draws)[0] for scaled in (False, True))
    np.testing.assert_array_equal(halved, exact)


@pytest.mark.parametrize("sides", [(375, 500), (500, 375), (100, 900)])
def test_windows_are_distributed_as_timms(sides):
    def one(i):
        return tf.stack(decode.random_window(*sides, uniform(np.int64(3), i), SCALE, RATIO))

    ours = next(tf.data.Dataset.range(4000).map(one).batch(4000).as_numpy_iterator())
    rng = np.random.default_rng(0)
    theirs = np.array([peer.random_window(rng, *sides, SCALE, RATIO) for _ in range(20_000)])
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= sides).all()
    for i in range(4):
        assert_same_quantiles(ours[:, i], theirs[:, i], atol=0.03 * max(sides))
    areas = [x[:, 2] * x[:, 3] / np.prod(sides) for x in (ours, theirs)]
    assert_same_quantiles(*areas, atol=0.03)
    shapes = [np.log(x[:, 3] / x[:, 2]) for x in (ours, theirs)]
    assert_same_quantiles(*shapes, atol=0.05)


# ---- odd and damaged files ----------------------------------------------------------------------


ROTATED = Image.Exif()
ROTATED[0x0112] = 6
SMALL = photo("china", (90, 60))
WHOLE = encoded(SMALL)
GOOD = {
    "gray": encoded(SMALL.convert("L")),
    "CMYK": encoded(SMALL.convert("CMYK")),
    "progressive": encoded(SMALL, progressive=True),
    "no chroma subsampling": encoded(SMALL, subsampling=0),
    "EXIF-rotated": encoded(SMALL, exif=ROTATED),
    "PNG": encoded(SMALL, "PNG"),
    "gray PNG": encoded(SMALL.convert("L"), "PNG"),
    "PNG with alpha": encoded(SMALL.convert("RGBA"), "PNG"),
    "PNG with a palette": encoded(SMALL.quantize(32), "PNG"),
    "GIF": encoded(SMALL, "GIF"),
    "BMP": encoded(SMALL, "BMP"),
    "WebP": encoded(SMALL, "WEBP"),
    "1x1": encoded(photo("china", (1, 1))),
    "1x300": encoded(photo("china", (1, 300)), quality=95),
    "junk after the end": WHOLE + b"junk",
    "cut, with an end": WHOLE[: len(WHOLE) // 2] + b"\xff\xd9",
}
BAD = {
    "truncated": WHOLE[: len(WHOLE) // 2],
    "header alone": WHOLE[:100] + b"\xff\xd9",
    "empty": b"",
    "text": b"not an image",
    "truncated PNG": encoded(SMALL, "PNG")[:2000],
}


@pytest.mark.parametrize("kind", GOOD)
def test_what_pil_decodes_is_decoded_as_pil_does_it(kind):
    image, good = view(GOOD[kind], center(32, 36))
    assert good and not bad.names
    close_to_pil(image, peer.evaluation_view(GOOD[kind], 32, 36))
    assert view(GOOD[kind], random_crop(32), uniform(1, 2))[0].shape == (32, 32, 3)


@pytest.mark.parametrize("kind", BAD)
def test_what_pil_refuses_is_noted(kind):
    with pytest.raises(Exception):  # noqa: B017 - whatever PIL raises
        peer.evaluation_view(BAD[kind], 32, 36)
    for crop in (center(32, 36), random_crop(32)):
        image, good = view(BAD[kind], crop, uniform(1, 2))
        assert not good and image.shape == (32, 32, 3)
        assert list(bad.names) == ["a file"] and "0x" not in bad.names["a file"]


def test_gray_of_16_bits_is_not_white():
    gradient = np.linspace(0, 65535, 40 * 40).astype("uint16").reshape(40, 40)
    content = encoded(Image.fromarray(gradient), "PNG")
    image, good = view(content, center(32, 36))
    assert good and abs(image.mean() - 127.5) < 1
    gray = Image.fromarray((gradient >> 8).astype("uint8"))
    close_to_pil(image, peer.evaluation_view(encoded(gray, "PNG"), 32, 36))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_photos_are_turned_as_exif_says_if_asked(form):
    stored, plain = encoded(SMALL, form, exif=ROTATED), encoded(SMALL, form)
    with Image.open(io.BytesIO(stored)) as picture:
        upright = encoded(picture.transpose(Image.Transpose.ROTATE_270), "PNG")
    for crop, draws in ((center(32, 36), None), (random_crop(32), uniform(1, 2))):
        turned, good = view(stored, crop, draws, exif_orientation=True)
        assert good
        close_to_pil(turned, view(upright, crop, draws)[0])
        as_stored, _ = view(plain, crop, draws)
        assert np.abs(turned.astype(int) - as_stored).mean() > 5
        # not asked, or upright: decoded by TensorFlow, with the same bits as ever
        np.testing.assert_array_equal(view(stored, crop, draws)[0], as_stored)
        np.testing.assert_array_equal(view(plain, crop, draws, exif_orientation=True)[0], as_stored)
    image, good = view(BAD["truncated"], center(32, 36), exif_orientation=True)
    assert not good and "truncated" in bad.names["a file"]


def test_bad_files_are_named_once_in_the_log(tmp_path):
    log = tmp_path / "bad.txt"
    log.write_text("of an earlier run\n")
    bad = decode.BadFiles(log, count=10)
    assert log.read_text() == "of an earlier run\n"
    for name in ("a", "b", "a"):
        bad.add(name, "truncated")
    assert log.read_text() == "a: truncated\nb: truncated\n"
    bad.check(0.2)
    words = "2 of 10 files cannot be decoded, allowed: at most 1 with 0.1; they are a .trunc"
    with pytest.raises(ValueError, match=f"^`max_fraction`: {words}"):
        bad.check(0.1)


def test_names_that_are_not_utf_8_or_have_line_breaks_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setattr(bad, "log", tmp_path / "bad.txt")
    bad.names.clear()
    for name in (b"\xff" * 150 + b".jpg", b"a\nb.jpg"):
        graph(center(32, 36))(tf.constant(b""), tf.constant(name), draws=None)
    names, why = ("\\udcff" * 150 + ".jpg", "a\\nb.jpg"), "empty, too large or not readable"
    expected = "".join(f"{name}: {why}\n" for name in names)
    assert (tmp_path / "bad.txt").read_text() == expected


@given(count=st.integers(1, 5000), bad=st.integers(0, 60), fraction=st.sampled_from([0, 1e-3, 0.2]))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_a_few_bad_files_never_end_a_run(count, bad, fraction):
    files = decode.BadFiles(count=count)
    for i in range(min(bad, count)):
        files.add(f"{i}.jpg", "truncated")
    part = len(files) / count
    few = len(files) <= 1 or (len(files) <= 5 and part <= 0.1)
    if part <= fraction or (few and fraction):
        files.check(fraction)
    else:
        with pytest.raises(ValueError, match=f"^`max_fraction`: {len(files)} of {count} files"):
            files.check(fraction)
    news = files.news()
    assert news is None if not len(files) else news.startswith(f"{len(files)} of {count} files ")
    assert files.news() is None
