"""Photos and arrays -> images of the network's size, against PIL and against the data pipeline."""

import io
import math

import numpy as np
import pytest
from helpers.nets import pixels
from helpers.photos import Image, encoded, photo

import keras_smlp
from reference import images as peer

pytestmark = pytest.mark.once


# ---- geometry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(640, 427), (427, 640), (256, 256), (300, 257), (90, 41)])
def test_the_view_is_torchvisions(sides):
    content = encoded(Image.fromarray(pixels(*sides, 3)), "PNG")
    for size, resize_size in ((224, 256), (32, 37), (33, 64), (50, 50)):
        image = keras_smlp.load_image(content, size, resize_size)
        np.testing.assert_array_equal(image, peer.evaluation_view(content, size, resize_size))
    by_default = keras_smlp.load_image(content)
    np.testing.assert_array_equal(by_default, keras_smlp.load_image(content, 224, 256))


def test_a_crop_with_half_a_pixel_is_rounded_to_even():
    # resized to 16x23 and 16x25: 7 and 9 pixels are left over, of which 3.5 and 4.5 become 4
    for width in (23, 25):
        image = pixels(16, width, 3)
        cropped = keras_smlp.preprocess_input(image, 16, 16)
        np.testing.assert_array_equal(cropped, image[:, 4:20], str(width))


@pytest.mark.parametrize("sides", [(60, 90), (90, 60), (60, 150), (10, 21)])
def test_a_view_that_is_not_square_just_covers_its_size(sides):
    # 28x56 from 32x64
    scale = max(32 / sides[0], 64 / sides[1])
    height, width = math.floor(sides[0] * scale + 1e-9), math.floor(sides[1] * scale + 1e-9)
    assert (height == 32 and width >= 64) or (height >= 32 and width == 64)
    picture = Image.fromarray(pixels(*sides, 3))
    top, left = round((height - 28) / 2), round((width - 56) / 2)
    whole = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    expected = whole[top : top + 28, left : left + 56]
    content = encoded(picture, "PNG")
    np.testing.assert_array_equal(keras_smlp.load_image(content, (28, 56)), expected)
    np.testing.assert_array_equal(keras_smlp.load_image(content, (28, 56), [32, 64]), expected)


@pytest.mark.parametrize("size", [None, (427, 640), (300, 257), (180, 90)])
def test_the_view_is_that_of_the_data_pipeline(size):
    tf = pytest.importorskip("tensorflow", reason="the data pipeline is tf.data")
    from keras_smlp.data import decode

    content = encoded(photo("flower", size), quality=90)
    crop, bad = decode.CenterCrop((96, 96), (110, 110)), decode.BadFiles()
    theirs, good = decode.decode_with_fallback(tf.constant(content), tf.constant(""), bad, crop)
    difference = np.abs(keras_smlp.load_image(content, 96).astype(int) - theirs.numpy())
    assert bool(good) and difference.mean() <= 0.5


# ---- files --------------------------------------------------------------------------------------

SMALL = photo("china", (90, 60))
WHOLE = encoded(SMALL)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
GOOD = {
    "gray": encoded(SMALL.convert("L")),
    "CMYK": encoded(SMALL.convert("CMYK")),
    "EXIF-rotated": encoded(SMALL, exif=ROTATED),
    "PNG with alpha": encoded(SMALL.convert("RGBA"), "PNG"),
    "PNG with a palette": encoded(SMALL.quantize(32), "PNG"),
    "GIF": encoded(SMALL, "GIF"),
    "WebP": encoded(SMALL, "WEBP"),
    "TIFF": encoded(SMALL, "TIFF"),
    "1x1": encoded(photo("china", (1, 1))),
    "1x300": encoded(photo("china", (1, 300))),
}
BAD = {
    "truncated": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "truncated PNG": (encoded(SMALL, "PNG")[:2000], "truncated"),
    "empty": (b"", "an empty file"),
    "text": (b"not an image", "no image"),
    "a header that lies": (b"P6 10000 9000 255\n", "10000x9000 pixels in the file, more than PIL"),
    "a bomb": (b"P6 20000 9000 255\n", "decompression bomb"),
    "a line": (encoded(Image.new("L", (1, 400_000)), "PNG"), "37x14800000 pixels once resized"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_odd_files_are_decoded_as_pil_does_it(kind, tmp_path):
    (tmp_path / "photo").write_bytes(GOOD[kind])
    image = keras_smlp.load_image(tmp_path / "photo", 32)
    assert (image.shape, image.dtype, image.flags.writeable) == ((32, 32, 3), np.uint8, True)
    np.testing.assert_array_equal(image, peer.evaluation_view(GOOD[kind], 32, 37))
    np.testing.assert_array_equal(image, keras_smlp.load_image(str(tmp_path / "photo"), 32))
    np.testing.assert_array_equal(image, keras_smlp.load_image(GOOD[kind], 32))


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_with_a_file_is_said_with_its_name(kind, tmp_path):
    content, words = BAD[kind]
    (tmp_path / "damaged.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"^`source` must be a whole image.*damaged\.jpg") as found:
        keras_smlp.load_image(tmp_path / "damaged.jpg", 32)
    assert words in str(found.value) and " at 0x" not in str(found.value)
    with pytest.raises(ValueError, match=f"Received: source={len(content)} bytes, .*{words}"):
        keras_smlp.load_image(content, 32)


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.jpg"):
        with pytest.raises(FileNotFoundError, match=r"^`source` names no file\. Received: source="):
            keras_smlp.load_image(path)
    with pytest.raises(ValueError, match="^`source` must be the path .* of type BytesIO"):
        keras_smlp.load_image(io.BytesIO(WHOLE))


def test_fifty_megapixels_are_not_too_many():
    picture = Image.new("L", (8000, 6250), 200)
    picture.paste(100, (0, 0, 4000, 6250))
    image = keras_smlp.load_image(encoded(picture), 32)
    assert (image[:, :14] == 100).all() and (image[:, 18:] == 200).all()


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "32", None, (32,), (32, 0), (32, 32, 3)])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match="^`size` must be a positive integer or a pair"):
        keras_smlp.load_image(WHOLE, size)
    if size is not None:
        with pytest.raises(ValueError, match="^`resize_size` must be a positive integer or a pair"):
            keras_smlp.preprocess_input(pixels(9, 9, 3), 8, size)


@pytest.mark.parametrize("resize_size", [31, (31, 40), (40, 31)])
def test_a_crop_larger_than_the_image_is_refused(resize_size):
    with pytest.raises(ValueError, match="^`resize_size` must be at least `size`"):
        keras_smlp.load_image(WHOLE, 32, resize_size)


# ---- arrays -------------------------------------------------------------------------------------


def test_arrays_are_treated_as_files_are():
    images = np.stack([np.asarray(photo(name, (90, 60))) for name in ("china", "flower")])
    expected = [keras_smlp.load_image(encoded(Image.fromarray(x), "PNG"), 32) for x in images]
    result = keras_smlp.preprocess_input(images, 32)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(keras_smlp.preprocess_input(images[1], 32), expected[1])
    for dtype in ("float16", "float32", "float64"):
        result = keras_smlp.preprocess_input(images.astype(dtype), 32)
        assert result.dtype == dtype and result.min() >= 0 and result.max() <= 255
        difference = np.abs(result.astype("float64") - expected)
        assert difference.mean() <= 0.5 and 0 < difference.max() <= 4


def test_floats_stay_in_range_where_the_filter_leaves_it():
    edge = np.zeros((40, 40, 3), "float32")
    edge[:, 20:] = 255
    result = keras_smlp.preprocess_input(edge, 64)
    assert (result.min(), result.max()) == (0, 255)
    expected = keras_smlp.preprocess_input(edge.astype("uint8"), 64)
    assert np.abs(result - expected).max() <= 0.51


def test_an_image_of_the_right_size_is_returned_as_it_is():
    for images in (pixels(32, 32, 3), np.zeros((2, 32, 32, 3), "float32")):
        assert keras_smlp.preprocess_input(images, 32) is images
        assert keras_smlp.preprocess_input(images, 32, 40) is images
    images = np.zeros((0, 20, 30, 3), "uint8")
    assert keras_smlp.preprocess_input(images, (8, 9)).shape == (0, 8, 9, 3)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((9, 9)), r"\(n, height, width, 3\)\. .*\(9, 9\)"),
        (np.zeros((9, 9, 4), "uint8"), r"shape \(9, 9, 4\)"),
        (np.zeros((0, 9, 3), "uint8"), r"shape \(0, 9, 3\)"),
        (np.zeros((9, 9, 3), "int64"), "dtype int64"),
        (np.zeros((9, 9, 3), "bool"), "dtype bool"),
        (np.full((9, 9, 3), -1.0), r"RGB in \[0, 255\]\. .* from -1 to -1"),
        (np.full((9, 9, 3), 256.0), "from 256 to 256"),
        (np.full((9, 9, 3), np.nan), "from nan to nan"),
    ],
)
def test_other_arrays_are_refused(images, words):
    with pytest.raises(ValueError, match=f"^`images` must be .*{words}"):
        keras_smlp.preprocess_input(images, 9)
