"""Files of every kind -> RGB in 8 bits: what the numbers in them say, or one sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
from helpers.photos import Image, encoded
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_smlp
from keras_smlp.inference import photos

pytestmark = pytest.mark.once

ORIENTATION = 0x0112
# EXIF orientation -> how a picture stored so is seen, by its definition
SEEN = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


# ---- files --------------------------------------------------------------------------------------


def png(pixels):
    """A PNG file of uint16 pixels, gray or RGB; PIL writes no such RGB."""
    height, width, *channels = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if channels else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def pgm(pixels, largest):
    """A PGM file of two bytes a pixel."""
    height, width = pixels.shape
    return b"P5 %d %d %d\n" % (width, height, largest) + pixels.astype(">u2").tobytes()


def tiff(pixels, bits=16, white_is_zero=False, order="<"):
    """A gray TIFF file of 12 or 16 bits, in either order of the bytes."""
    height, width = pixels.shape
    body = pixels.astype(f"{order}u2").tobytes()
    if bits == 12:  # packed, each line by itself
        lines = ["".join(f"{x:012b}" for x in line) for line in pixels]
        padded = "".join(line.ljust(-len(line) // 8 * -8, "0") for line in lines)
        body = int(padded, 2).to_bytes(len(padded) // 8, "big")
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8}
    tags |= {277: 1, 278: height, 279: len(body)}
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(body))
    entries = b"".join(struct.pack(f"{order}HHII", k, 4, 1, v) for k, v in tags.items())
    return start + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def saved(mode, form, **options):
    """Function from pixels to a file that PIL writes in a mode, and what PIL says it shows."""

    def file(rgb, gray):
        picture = Image.fromarray(rgb)
        if mode == "P, one color transparent":
            picture, settings = picture.quantize(8), {"transparency": 1}
        elif mode == "P, colors with alpha":
            picture, settings = picture.quantize(8), {"transparency": bytes(range(8))}
        elif mode == "LAB":
            picture, settings = Image.frombytes("LAB", picture.size, rgb.tobytes()), {}
        elif mode in ("RGBA", "LA"):
            picture, settings = picture.convert(mode), {}
            picture.putalpha(Image.fromarray((gray >> 8).astype("uint8")))
        else:
            picture, settings = picture.convert(mode), {}
        # the colors, whatever alpha is
        shown = picture.convert(mode[:-1]) if mode in ("RGBA", "LA") else picture
        shown = np.asarray(shown.convert("RGB"))
        return encoded(picture, form, **settings, **options), shown

    return file


def above_8_bits(function, bits=16):
    """Function from pixels to a gray file of more bits, and what is left of them in 8."""

    def file(rgb, gray):
        pixels = gray >> (16 - bits)
        return function(pixels), np.repeat((pixels >> (bits - 8))[..., None], 3, axis=-1)

    return file


def white_is_zero(rgb, gray):
    return tiff(gray, white_is_zero=True), np.repeat(255 - (gray >> 8)[..., None], 3, axis=-1)


def rgb_of_16_bits(rgb, gray):
    noise = gray[..., None] & 255
    return png(rgb.astype("uint16") * 256 + noise), rgb


def stretched(rgb, gray):
    """A PGM whose white is 1000, which PIL stretches to 65535."""
    pixels = gray % 1001
    shown = np.round(pixels / 1000 * 65535).astype(int) >> 8
    return pgm(pixels, 1000), np.repeat(shown[..., None], 3, axis=-1)


KINDS = {
    f"{form} {mode}": saved(mode, form)
    for form, modes in {
        "PNG": ("1", "L", "LA", "RGB", "RGBA", "P, one color transparent", "P, colors with alpha"),
        "TIFF": ("1", "L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"),
        "BMP": ("1", "L", "RGB"),
        "PPM": ("1", "L", "RGB"),
        "GIF": ("L", "P, one color transparent"),
    }.items()
    for mode in modes
}
if int(Image.__version__.partition(".")[0]) < 13:  # it cannot read its own
    del KINDS["TIFF YCbCr"]
KINDS["JPEG2000 L"] = saved("L", "JPEG2000", irreversible=False)
KINDS["WEBP RGB"] = saved("RGB", "WEBP", lossless=True)
KINDS |= {
    "PNG 16 bits": above_8_bits(png),
    "PNG RGB 16 bits": rgb_of_16_bits,
    "TIFF 16 bits": above_8_bits(tiff),
    "TIFF 16 bits big-endian": above_8_bits(lambda x: tiff(x, order=">")),
    "TIFF 16 bits white is zero": white_is_zero,
    "TIFF 12 bits": above_8_bits(lambda x: tiff(x, 12), 12),
    "PGM 16 bits": above_8_bits(lambda x: pgm(x, 65535)),
    "PGM to 1000": stretched,
    "JPEG2000 16 bits": above_8_bits(lambda x: encoded(Image.fromarray(x), "JPEG2000")),
    "TIFF floats": lambda rgb, gray: (encoded(Image.fromarray(rgb[..., 0] / 255.0), "TIFF"), None),
    "TIFF 32 bits": lambda rgb, gray: (
        encoded(Image.fromarray(gray.astype("int32")), "TIFF"),
        None,
    ),
}
WHITE = "its pixels are (floats|integers of 32 bits or with a sign), allowed: 8 or 16 bits"


# ---- pixels -------------------------------------------------------------------------------------


@given(
    kind=st.sampled_from(sorted(KINDS)),
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_every_kind_of_file_shows_what_its_numbers_say(kind, sides, seed):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (*sides, 3), "uint8")
    content, expected = KINDS[kind](rgb, rng.integers(0, 65536, sides, "uint16"))
    if expected is None:
        with pytest.raises(ValueError, match=f"^`source` must be a whole image .* {WHITE}"):
            keras_smlp.load_image(content, sides, sides)
        return
    image = keras_smlp.load_image(content, sides, sides)
    np.testing.assert_array_equal(image, expected)
    with photos.opened(io.BytesIO(content)) as picture:
        np.testing.assert_array_equal(photos.rgb(picture), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_once(kind):
    test_every_kind_of_file_shows_what_its_numbers_say.hypothesis.inner_test(kind, (5, 7), 0)


def test_a_gradient_of_16_bits_is_gray_on_average():
    gradient = np.linspace(0, 65535, 64 * 64).astype("uint16").reshape(64, 64)
    for content in (png(gradient), tiff(gradient), pgm(gradient, 65535)):
        image = keras_smlp.load_image(content, 64, 64)
        assert (image.min(), image.max()) == (0, 255) and abs(image.mean() - 127.5) < 0.5


@pytest.mark.parametrize("orientation", range(11))
@given(
    sides=st.tuples(st.integers(1, 9), st.integers(2, 9)),
    form=st.sampled_from(["PNG", "WEBP", "TIFF"]),
)
@settings(max_examples=6, derandomize=True, deadline=None)
def test_a_photo_is_turned_as_its_exif_data_say_if_asked(orientation, sides, form):
    stored = np.random.default_rng(0).integers(0, 256, (*sides, 3), "uint8")
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(Image.fromarray(stored), form, exif=exif, **options)
    upright = SEEN.get(orientation, SEEN[1])(stored)
    seen = upright.shape[:2]
    image = keras_smlp.load_image(content, seen, seen, exif_orientation=True)
    np.testing.assert_array_equal(image, upright)
    # PIL itself turns a TIFF
    as_stored = upright if form == "TIFF" else stored
    image = keras_smlp.load_image(content, as_stored.shape[:2], as_stored.shape[:2])
    np.testing.assert_array_equal(image, as_stored)
    turned = orientation in range(2, 9) and form != "TIFF"
    assert form == "TIFF" or photos.is_upright(content) is not turned


def test_another_orientation_argument_is_refused():
    with pytest.raises(ValueError, match="^`exif_orientation` must be True or False.*'upright'"):
        keras_smlp.load_image(png(np.zeros((2, 2), "uint16")), exif_orientation="upright")


def test_no_program_is_started_for_a_photo(monkeypatch):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    monkeypatch.setattr("subprocess.Popen", None)  # Ghostscript
    with pytest.raises(ValueError, match=r"no image of a known format \(JPEG, PNG,"):
        keras_smlp.load_image(eps)


# ---- folders ------------------------------------------------------------------------------------


def test_other_entries_are_counted_and_the_first_is_named():
    others = [(".heic", "b/0.heic"), ("pipe", "b/\x1b[31m"), (".heic", "b/1.heic")]
    assert photos.in_words(others) == "2 .heic (first b/0.heic), 1 pipe (first b/\\x1b[31m)"
    many = [(f".{i}", f"a.{i}") for i in range(10)]
    assert photos.in_words(many).endswith("1 .7 (first a.7), 2 of other kinds")
