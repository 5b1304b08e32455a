"""Photos and arrays -> images of a network's input size, resized and cropped as by torchvision.

PIL is imported where it is used, so that `import keras_smlp` does not import it.
"""

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from keras_smlp.checks import (
    check_array,
    check_boolean,
    check_pair,
    check_path,
    check_positive_integer,
    received,
)
from keras_smlp.inference import photos
from keras_smlp.preprocessing import shorter_side

# one side of a square, or height and width
Size = int | tuple[int, int]


def load_image(
    source: str | Path | bytes,
    size: Size = 224,
    resize_size: Size | None = None,
    exif_orientation: bool = False,
    channels: int = 3,
) -> np.ndarray:
    """Loads a photo as the network's evaluation sees it.

    The file is decoded by PIL, by default to RGB, resized with PIL's bicubic filter and cropped in
    the middle. With the default sizes this is torchvision's `Resize(256)` and `CenterCrop(224)`.

    Of 16 bits a channel the upper 8 are taken. For RGB and gray an alpha channel is dropped, as in
    torchvision, and not blended with a background: lay the photo on one of your choice before, if
    it should be.

    Args:
        source: Path (string or `pathlib.Path`) or content (bytes) of a JPEG, PNG, BMP, WebP, PPM,
            TIFF, GIF, JPEG 2000 or AVIF file, of an animation the first picture.
        size: Positive integer, or a pair `(height, width)` of them. Size of the result.
            Defaults to `224`.
        resize_size: Positive integer or pair `(height, width)`, at least `size`. What the image,
            its aspect kept, just covers before the crop; an integer is the length of its shorter
            side. Defaults to `round(size * 256 / 224)`.
        exif_orientation: Boolean. Whether the photo is turned upright as its EXIF data say, as
            those of phones need it. torchvision does not; a network should see photos as those
            that it was trained on (`data.exif_orientation` of its training). PIL itself turns a
            TIFF in either case. Defaults to `False`.
        channels: Positive integer, the channels of the model. `3` is RGB; `1` is gray, PIL's
            `convert("L")` of RGB; any other number must be that of the file: `2` is gray with
            alpha, `4` RGBA, or it is that of the gray pages of a TIFF. A fourth sample of a TIFF
            that is not said to be alpha is not read. Defaults to `3`.

    Returns:
        A uint8 array `(height, width, channels)` in [0, 255].

    Raises:
        ValueError: If an argument is out of range, or the file is empty, damaged, of another
            format or number of channels, or of more pixels than PIL's `Image.MAX_IMAGE_PIXELS`
            (some 89 million), or its pixels are floats or integers of 32 bits, so that nothing says
            which number is white.
        FileNotFoundError: If `source` is a path where no file is.

    Reference:
        torchvision, `transforms/functional.py`: `resize` and `center_crop`.

    Example:

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (640, 480), "red").save(file, "PNG")
    >>> image = keras_smlp.load_image(file.getvalue())
    >>> image.shape, image[0, 0].tolist()
    ((224, 224, 3), [255, 0, 0])
    """
    sides, cover = check_sizes(size, resize_size)
    exif_orientation = check_boolean("exif_orientation", exif_orientation)
    channels = check_positive_integer("channels", channels)
    file: BinaryIO
    if isinstance(source, bytes):
        file, name = io.BytesIO(source), f"{len(source)} bytes"
    else:
        path = check_path("source", source, "the path of an image file or its content in bytes")
        if not path.is_file():
            raise FileNotFoundError(
                f"`source` names no file. Received: {received('source', str(path))}"
            )
        file, name = open(path, "rb"), repr(str(path))  # noqa: SIM115 - closed below
    with file:
        try:
            bands = decode(file, exif_orientation, channels)
            return np.dstack([resize_and_crop(band, sides, cover) for band in bands])
        except Exception as error:  # each of PIL's plugins raises errors of its own
            raise ValueError(
                "`source` must be a whole image that PIL can read and resize. "
                f"Received: source={name}, {photos.reason(error, not file.seek(0, io.SEEK_END))}"
            ) from error


def decode(file, exif_orientation, channels):
    """The picture in a file, the list of PIL images of `photos.bands`; raises what PIL raises."""
    from PIL import Image

    with warnings.catch_warnings():
        # `check_pixels` raises instead
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with photos.opened(file) as picture:
            check_pixels(picture.width, picture.height, "in the file")
            return photos.bands(picture, channels, exif_orientation)


def check_pixels(width, height, where):
    """Refuses a picture of more pixels than PIL's limit, of which PIL would only warn."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{width}x{height} pixels {where}, more than PIL's Image.MAX_IMAGE_PIXELS, {limit}"
        )


def preprocess_input(
    images: ArrayLike, size: Size = 224, resize_size: Size | None = None, channels: int = 3
) -> np.ndarray:
    """Resizes and crops images in memory as `load_image` does files.

    The networks of this package normalize the pixels themselves, so nothing else is left to do:
    an image that already has the asked size is returned as it is (whatever `resize_size`), as by
    `preprocess_input` in `keras.applications` for the models with their own preprocessing.

    Args:
        images: Array `(height, width, channels)` or `(n, height, width, channels)`, by default RGB,
            in [0, 255], uint8, float16, float32 or float64.
        size: Positive integer, or a pair `(height, width)` of them. Size of the result.
            Defaults to `224`.
        resize_size: Positive integer or pair `(height, width)`, at least `size`. What the image,
            its aspect kept, just covers before the crop; an integer is the length of its shorter
            side. Defaults to `round(size * 256 / 224)`.
        channels: Positive integer. Channels of the images. Defaults to `3`.

    Returns:
        An array `(height, width, channels)` or `(n, height, width, channels)` of the same dtype, in
        [0, 255]. Floats are resized channel by channel in float32; what the bicubic filter puts
        outside [0, 255] is cut off there, as PIL does it for uint8.

    Raises:
        ValueError: If a size, or the shape, dtype or range of `images`, is none of these.

    Example:

    >>> keras_smlp.preprocess_input(np.zeros((2, 300, 400, 3), "uint8")).shape
    (2, 224, 224, 3)
    """
    sides, cover = check_sizes(size, resize_size)
    channels = check_positive_integer("channels", channels)
    array = check_array("images", images)
    if array.ndim not in (3, 4) or array.shape[-1] != channels or 0 in array.shape[-3:]:
        raise ValueError(
            f"`images` must be (height, width, {channels}) or (n, height, width, {channels}). "
            f"Received: images of the shape {array.shape}"
        )
    if array.dtype != np.uint8 and array.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(
            "`images` must be uint8, float16, float32 or float64. "
            f"Received: images of the dtype {array.dtype}"
        )
    # also where one is NaN
    if array.dtype != np.uint8 and array.size and not (array.min() >= 0 and array.max() <= 255):
        raise ValueError(
            f"`images` must be {'RGB ' if channels == 3 else ''}in [0, 255]. "
            f"Received: images from {array.min():g} to {array.max():g}"
        )
    if array.shape[-3:-1] == sides:
        return array
    if array.ndim == 3:
        return resized(array, sides, cover)
    result = np.empty((len(array), *sides, channels), array.dtype)
    for i, image in enumerate(array):
        result[i] = resized(image, sides, cover)
    return result


def resized(image, size, cover):
    """One image of `preprocess_input`."""
    from PIL import Image

    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return resize_and_crop(Image.fromarray(image), size, cover)
    # PIL knows no other floats than float32, and those in one channel only
    bands = np.moveaxis(image, -1, 0)
    bands = np.ascontiguousarray(bands if image.dtype == np.uint8 else bands.astype("float32"))
    bands = [resize_and_crop(Image.fromarray(x), size, cover) for x in bands]
    return np.clip(np.stack(bands, axis=-1), 0, 255).astype(image.dtype)


def resize_and_crop(picture, size, cover):
    """A PIL image, resized so that it just covers `cover` and cropped to `size`, as an array."""
    from PIL import Image

    # as torchvision's Resize (of the shorter side, where `cover` is a square) rounds it
    if cover[0] * picture.width >= cover[1] * picture.height:
        height, width = cover[0], int(cover[0] * picture.width / picture.height)
    else:
        height, width = int(cover[1] * picture.height / picture.width), cover[1]
    check_pixels(width, height, "once resized")
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    # half to even, as torchvision's CenterCrop
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return np.array(picture.crop((left, top, left + size[1], top + size[0])))


def as_rgb(images):
    """What pictures show of images `(..., channels)`: the first three as RGB, or one as gray."""
    shown = images if images.shape[-1] >= 3 else images[..., :1]
    return np.broadcast_to(shown[..., :3], (*images.shape[:-1], 3))


def check_sizes(size, resize_size):
    """Both sizes as pairs `(height, width)`, in range."""
    size = check_pair("size", size)
    if resize_size is None:
        return size, tuple(map(shorter_side, size))
    cover = check_pair("resize_size", resize_size)
    if cover[0] < size[0] or cover[1] < size[1]:
        raise ValueError(
            f"`resize_size` must be at least `size`. Received: resize_size={cover}, size={size}"
        )
    return size, cover
