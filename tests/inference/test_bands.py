"""Files -> images of other channels than RGB, or one sentence."""

import io

import numpy as np
import pytest
from helpers.photos import Image, encoded, photo

import keras_smlp
from keras_smlp.inference import images, photos

pytestmark = pytest.mark.once

SIZE = (40, 30)  # width, height
PHOTO = photo(size=SIZE)


def with_alpha(mode="RGBA"):
    """The photo with every alpha, transparent on the left, the colors behind it kept."""
    picture = PHOTO.convert(mode[:-1])
    picture.putalpha(Image.fromarray(np.tile(np.arange(40) * 6, (30, 1)).astype("uint8")))
    return picture


def palette(**transparency):
    return encoded(PHOTO.quantize(8), "PNG", **transparency)


def pages(*pictures):
    return encoded(pictures[0], "TIFF", save_all=True, append_images=pictures[1:])


def bands(content, channels, **options):
    with photos.opened(io.BytesIO(content)) as picture:
        found = photos.bands(picture, channels, **options)
    return np.dstack([np.asarray(x) for x in found])


# a TIFF that does not say what its fourth sample is
UNSPECIFIED = encoded(Image.frombytes("RGBX", SIZE, with_alpha().tobytes()), "TIFF")
GRAY = {
    "JPEG": (encoded(PHOTO), None),
    "JPEG of gray": (encoded(PHOTO.convert("L")), None),
    "PNG of gray": (encoded(PHOTO.convert("L"), "PNG"), PHOTO.convert("L")),
    "PNG": (encoded(PHOTO, "PNG"), PHOTO.convert("L")),
    "RGBA": (encoded(with_alpha(), "PNG"), PHOTO.convert("L")),
    "palette": (palette(), PHOTO.quantize(8).convert("RGB").convert("L")),
    "CMYK": (encoded(PHOTO.convert("CMYK")), None),
    "16 bits": (
        encoded(Image.fromarray(np.asarray(PHOTO.convert("L")).astype("uint16") * 257), "PNG"),
        PHOTO.convert("L"),
    ),
}


@pytest.mark.parametrize("kind", GRAY)
def test_any_photo_is_read_as_gray(kind):
    content, expected = GRAY[kind]
    expected = expected or Image.open(io.BytesIO(content)).convert("RGB").convert("L")
    found = bands(content, 1)
    np.testing.assert_array_equal(found[..., 0], expected)
    seen = keras_smlp.load_image(content, 24, channels=1)
    assert seen.shape == (24, 24, 1) and seen.dtype == np.uint8
    gray_copy = encoded(Image.fromarray(found[..., 0]).convert("RGB"), "PNG")
    np.testing.assert_array_equal(seen.repeat(3, -1), keras_smlp.load_image(gray_copy, 24))


MORE = {
    "RGBA": (4, encoded(with_alpha(), "PNG"), with_alpha()),
    "RGBA in WebP": (4, encoded(with_alpha(), "WEBP", lossless=True, exact=True), with_alpha()),
    "RGBA in TIFF": (4, encoded(with_alpha(), "TIFF"), with_alpha()),
    "gray with alpha as RGBA": (
        4,
        encoded(with_alpha("LA"), "PNG"),
        with_alpha("LA").convert("RGBA"),
    ),
    "one color transparent": (4, palette(transparency=1), None),
    "colors with alpha": (4, palette(transparency=bytes(range(0, 80, 10))), None),
    "gray with alpha": (2, encoded(with_alpha("LA"), "PNG"), with_alpha("LA")),
    "pages": (5, pages(*PHOTO.split(), *with_alpha("LA").split()), None),
    "two pages": (2, pages(*with_alpha("LA").split()), with_alpha("LA")),
}


@pytest.mark.parametrize("kind", MORE)
def test_files_of_as_many_channels(kind):
    channels, content, expected = MORE[kind]
    if kind == "pages":
        expected = np.dstack([PHOTO, with_alpha("LA")])
    expected = (
        np.asarray(expected or Image.open(io.BytesIO(content)).convert("RGBA"))
        if (not isinstance(expected, np.ndarray))
        else expected
    )
    np.testing.assert_array_equal(bands(content, channels), expected)
    # each channel by itself: PIL would multiply the colors by alpha
    seen = keras_smlp.load_image(content, (24, 20), channels=channels)
    alone = [
        images.resize_and_crop(Image.fromarray(x), (24, 20), (27, 23))
        for x in np.moveaxis(expected, -1, 0).copy()
    ]
    np.testing.assert_array_equal(seen, np.dstack(alone))
    np.testing.assert_array_equal(
        keras_smlp.preprocess_input(expected, (24, 20), channels=channels), seen
    )


def test_a_sample_that_is_not_said_to_be_alpha_is_dropped():
    with Image.open(io.BytesIO(UNSPECIFIED)) as picture:
        assert picture.tag_v2[338] == (0,)
    np.testing.assert_array_equal(bands(UNSPECIFIED, 3), np.asarray(PHOTO))


def test_channels_are_turned_as_exif_says():
    exif = Image.Exif()
    exif[274] = 6
    for channels, picture in ((1, PHOTO), (4, with_alpha())):
        content = encoded(picture, "PNG", exif=exif)
        turned = np.rot90(bands(content, channels), -1)
        np.testing.assert_array_equal(bands(content, channels, exif_orientation=True), turned)


REFUSED = {
    "RGB": (
        4,
        encoded(PHOTO),
        "its pixels are RGB, allowed for 4 channels: RGBA or a TIFF",
    ),
    "RGB and a sample": (4, UNSPECIFIED, "its pixels are RGB, allowed for 4 channels: RGBA or a"),
    "CMYK": (4, encoded(PHOTO.convert("CMYK")), "its pixels are CMYK, allowed for 4 channels"),
    "gray": (
        2,
        encoded(PHOTO.convert("L"), "PNG"),
        "its pixels are L, allowed for 2 channels: LA or",
    ),
    "RGBA": (2, encoded(with_alpha(), "PNG"), "its pixels are RGBA, allowed for 2 channels"),
    "five": (
        5,
        encoded(with_alpha(), "PNG"),
        "RGBA, allowed for 5 channels: a TIFF of 5 gray pages",
    ),
    "16 bits": (4, GRAY["16 bits"][0], "its pixels are I;16, allowed for 4 channels"),
    "too few pages": (4, pages(*PHOTO.split()), "its pixels are L, allowed for 4 channels"),
    "pages of colors": (2, pages(PHOTO, PHOTO), "the pixels of its page 1 are RGB, allowed: gray"),
    "pages of sizes": (
        2,
        pages(PHOTO.convert("L"), PHOTO.convert("L").resize((9, 9))),
        "its pages differ in size",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_of_other_channels_is_refused(kind):
    channels, content, words = REFUSED[kind]
    with pytest.raises(ValueError, match=f"^`source` must be a whole image .*{words}") as caught:
        keras_smlp.load_image(content, channels=channels)
    assert "\n" not in str(caught.value)


def test_arguments():
    for channels in (0, 2.5, "gray", None):
        with pytest.raises(ValueError, match="^`channels` must be "):
            keras_smlp.load_image(encoded(PHOTO), channels=channels)
    with pytest.raises(
        ValueError, match=r"^`images` must be \(height, width, 4\) or .*\(9, 9, 3\)"
    ):
        keras_smlp.preprocess_input(np.zeros((9, 9, 3)), channels=4)


def test_floats_of_four_channels():
    x = np.random.default_rng(0).uniform(0, 255, (2, 30, 40, 4)).astype("float32")
    both = keras_smlp.preprocess_input(x, 16, channels=4)
    colors = keras_smlp.preprocess_input(x[..., :3], 16)
    assert both.shape == (2, 16, 16, 4)
    np.testing.assert_array_equal(both[..., :3], colors)


def test_what_pictures_show():
    x = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    np.testing.assert_array_equal(images.as_rgb(x), x[..., :3])
    for channels in (1, 2):
        np.testing.assert_array_equal(images.as_rgb(x[..., :channels]), x[..., :1].repeat(3, -1))
