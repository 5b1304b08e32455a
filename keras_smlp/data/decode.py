"""A file's bytes or an array -> a uint8 image of one size, as PIL and torchvision make it.

A crop (`CenterCrop`, `RandomCrop`) says which window of an image is needed, and how that window is
resized. JPEG and common PNG are decoded by TensorFlow, of a JPEG only the window. What TensorFlow
refuses (CMYK, palettes, damage) goes to PIL; what PIL cannot decode is a bad file.
"""

import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_smlp.checks import shown
from keras_smlp.data.augment import luminance
from keras_smlp.data.draws import integers, sides
from keras_smlp.inference import photos

TRIES = 10
# bad files that a message names; the log names all
NAMED = 5


class BadFiles:
    """The files that could not be decoded, each named once.

    Args:
        log: Path of the text file that names them, a line each; `None` for none. It is begun anew
            with the first bad file.
        count: Positive integer. Files of the data set. Defaults to `1`.
    """

    def __init__(self, log=None, count=1):
        self.log, self.count = log and Path(log), count
        self.names = {}
        self.told = 0
        self.lock = threading.Lock()

    def __len__(self):
        return len(self.names)

    def add(self, name, reason):
        """Notes a file and why it is bad."""
        with self.lock:
            if name not in self.names:
                self.names[name] = reason
                if self.log:
                    with open(self.log, "a" if len(self) > 1 else "w", encoding="utf-8") as file:
                        file.write(f"{shown(name, None)}: {reason}\n")

    def check(self, max_fraction):
        """Raises a `ValueError` if more files are bad than are allowed.

        Up to `max_fraction * count` files may be bad. In a small folder that would be none, so a
        tenth of the files, at least 1 and at most 5, is allowed there too, unless it is 0.
        """
        few = min(max(self.count // 10, 1), 5) if max_fraction else 0
        allowed = max(int(max_fraction * self.count), few)
        if len(self) > allowed:
            raise ValueError(
                f"`max_fraction`: {len(self)} of {self.count} files cannot be decoded, allowed: at "
                f"most {allowed} with {max_fraction:g}; they are {self.some()}"
            )

    def news(self):
        """A sentence on the bad files, if there are more than at the last call, else `None`."""
        if len(self) == self.told:
            return None
        self.told = len(self)
        return (
            f"{len(self)} of {self.count} files cannot be decoded and are not used: {self.some()}"
        )

    def some(self):
        """The first bad files and what is wrong with them, in words."""
        with self.lock:
            found = [f"{shown(name)} ({reason})" for name, reason in self.names.items()]
        more = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
        return ", ".join(found[:NAMED] + more) + (f"; {self.log} names them all" if more else "")


# ---- files --------------------------------------------------------------------------------------
def by_pil(content, exif_orientation=False, channels=3):
    """Decodes a file by PIL to uint8 `(height, width, channels)`; raises what PIL raises."""
    with photos.opened(io.BytesIO(content)) as picture:
        found = [np.asarray(x) for x in photos.bands(picture, channels, exif_orientation)]
    return found[0] if channels == 3 else np.stack(found, axis=-1)


def fast_decode(content, crop, draws=None, exif_orientation=False, channels=3):
    """The crop of a file that TensorFlow decodes itself; an error for any other file.

    Args:
        content: String tensor, the file's bytes.
        crop: `CenterCrop` or `RandomCrop`.
        draws: What a `RandomCrop` is drawn by, float32 `(TRIES, 4)`, uniform in `[0, 1)`.
        exif_orientation: Boolean. Whether EXIF data count: a file that they turn is an error then,
            for TensorFlow does not look at them. Defaults to `False`.
        channels: Positive integer, see `photos.bands`. Defaults to `3`.

    Returns:
        A uint8 tensor `(height, width, channels)` of the crop's size.
    """
    if exif_orientation:
        upright = tf.numpy_function(photos.is_upright, [content], tf.bool, stateful=False)
        with tf.control_dependencies([tf.debugging.Assert(upright, ["turned by EXIF"])]):
            content = tf.identity(content)
    if channels not in photos.OF_PHOTOS:
        # of others, the 8-bit RGBA alone
        is_known = is_png(content, b"\x06") if channels == 4 else False
        with tf.control_dependencies([tf.debugging.Assert(is_known, ["no PNG of RGBA"])]):
            content = tf.identity(content)
        if channels != 4:
            return tf.zeros((*crop.size, channels), "uint8")
        return crop_pixels(tf.io.decode_png(content, channels=4), crop, draws)
    with tf.control_dependencies(
        [tf.debugging.Assert(is_common(content), ["neither JPEG nor PNG"])]
    ):
        is_jpeg = tf.strings.substr(content, 0, 1) == b"\xff"
    return tf.cond(
        is_jpeg,
        lambda: decode_jpeg(content, crop, draws, channels=channels),
        lambda: crop_pixels(of_rgb(tf.io.decode_png(content, channels=3), channels), crop, draws),
    )


def is_common(content):
    """Whether a file looks like a whole JPEG or an 8-bit gray or RGB PNG."""
    ends = tf.strings.substr(content, 0, 3) + tf.strings.substr(content, -2, 2)
    return (ends == b"\xff\xd8\xff\xff\xd9") | is_png(content, b"\x00", b"\x02")


def is_png(content, *colors):
    """Whether a file looks like an 8-bit PNG of one of these color types."""
    header = tf.strings.substr(content, 0, 8) + tf.strings.substr(content, 24, 2)
    signature = b"\x89PNG\r\n\x1a\n\x08"
    return tf.reduce_any([header == signature + color for color in colors])


def of_rgb(pixels, channels):
    """uint8 RGB `(height, width, 3)`, or gray `(height, width, 1)` made of it."""
    return tf.cast(luminance(pixels), "uint8") if channels == 1 else pixels


def decode_jpeg(content, crop, draws=None, takes_cmyk=False, channels=3):
    """The crop of a JPEG file, of which only the window is decoded; RGB or gray."""
    shape = tf.io.extract_jpeg_shape(content)
    # PIL has its own way with CMYK
    is_known = tf.debugging.Assert(takes_cmyk or shape[2] != 4, [shape])
    with tf.control_dependencies([is_known]):
        window = crop.window(shape[0], shape[1], draws, is_jpeg=True)

    def read(ratio):
        box = tf.stack([window.top, window.left, window.height, window.width])
        pixels = tf.io.decode_and_crop_jpeg(
            content, box, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
        )
        return of_rgb(pixels, channels)

    if window.is_half is None:
        return resize(read(1), window, crop.size)
    pixels = tf.cond(window.is_half, lambda: read(2), lambda: read(1))
    return resize(pixels, window, crop.size)


def decode_with_fallback(content, name, bad, crop, draws=None, exif_orientation=False, channels=3):
    """The crop of any file, by PIL where TensorFlow cannot decode it.

    Args:
        content: String tensor, the file's bytes.
        name: String tensor, what to call the file.
        bad: `BadFiles` that the file is noted in.
        crop: As for `fast_decode`.
        draws: As for `fast_decode`.
        exif_orientation: Boolean. Whether photos are turned upright as their EXIF data say.
            Defaults to `False`.
        channels: Positive integer, see `photos.bands`. A file that has others cannot be decoded.
            Defaults to `3`.

    Returns:
        The image, and a boolean tensor: if it is false, the file cannot be decoded, and the image
        is gray.
    """

    def pixels_or_gray(content, name):
        try:
            return by_pil(content, exif_orientation, channels), True
        except Exception as error:  # whatever it is, PIL cannot read this file
            nothing = "empty, too large or not readable"
            bad.add(os.fsdecode(name), photos.reason(error) if content else nothing)
        return np.full((8, 8, channels), 128, "uint8"), False

    def slow(content):
        pixels, is_good = tf.numpy_function(
            pixels_or_gray, [content, name], (tf.uint8, tf.bool), stateful=False
        )
        pixels.set_shape((None, None, channels))
        is_good.set_shape(())
        return crop_pixels(pixels, crop, draws), is_good

    file = tf.data.Dataset.from_tensors(content)
    return first_of(
        file.map(
            lambda content: (fast_decode(content, crop, draws, exif_orientation, channels), True)
        ),
        file.map(slow),
    )


def first_of(attempt, fallback):
    """The element of a dataset, or where an error prevents it, that of another: tf.data's `try`."""
    return attempt.ignore_errors().concatenate(fallback).take(1).get_single_element()


def crop_pixels(pixels, crop, draws=None):
    """The crop of a decoded image, uint8 `(height, width, channels)`, the channels known."""
    window = crop.window(*tf.unstack(tf.shape(pixels)[:2]), draws)
    rows = pixels[window.top : window.top + window.height]
    return resize(rows[:, window.left : window.left + window.width], window, crop.size)


# ---- crops --------------------------------------------------------------------------------------
class Window(NamedTuple):
    """The part of an image that is decoded, and how it becomes the result.

    Attributes:
        top: int32 scalar, like the next three: in pixels of the image as it is decoded.
        left: See `top`.
        height: See `top`.
        width: See `top`.
        scale: float32 `(2,)`. Pixels of the result for one of the window, along both axes.
        translation: float32 `(2,)`. Where in the result the window begins.
        is_half: Boolean scalar. Whether a JPEG is decoded at half its size; `None` for never.
    """

    top: tf.Tensor
    left: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    scale: tf.Tensor
    translation: tf.Tensor
    is_half: tf.Tensor | None = None


@dataclass(frozen=True)
class CenterCrop:
    """The middle of an image whose shorter side was resized: what an evaluation sees.

    As torchvision's `Resize(cover, bicubic)` and `CenterCrop(size)`, in one step: only what will be
    seen is decoded and computed.

    Attributes:
        size: Pair of positive integers. Height and width in pixels of the result.
        cover: Pair of positive integers, at least `size`. What the resized image just covers; if
            they are equal, its shorter side.
    """

    size: tuple[int, int]
    cover: tuple[int, int]

    def window(self, height, width, draws=None, is_jpeg=False):
        """The `Window` of an image of this height and width."""
        by_height = self.cover[0] * width >= self.cover[1] * height
        rows = tf.where(by_height, self.cover[0], self.cover[1] * height // width)
        columns = tf.where(by_height, self.cover[0] * width // height, self.cover[1])
        top, height, *vertical = self.along(height, rows, self.size[0])
        left, width, *horizontal = self.along(width, columns, self.size[1])
        return Window(
            top, left, height, width, *map(tf.stack, zip(vertical, horizontal, strict=True))
        )

    @staticmethod
    def along(side, resized, size):
        """First pixel and number of pixels to read, scale and translation along one axis."""
        scale = tf.cast(resized, "float32") / tf.cast(side, "float32")
        # torchvision rounds half to even
        first = tf.round(tf.cast(resized - size, "float32") / 2)
        support = 2 * tf.maximum(1 / scale, 1) + 1  # of the bicubic filter, in source pixels
        begin = tf.cast(tf.floor(first / scale - support), "int32")
        end = tf.cast(tf.math.ceil((first + size) / scale + support), "int32")
        begin, end = tf.maximum(begin, 0), tf.minimum(end, side)
        return begin, end - begin, scale, tf.cast(begin, "float32") * scale - first


@dataclass(frozen=True)
class RandomCrop:
    """A random part of an image, resized to a square.

    Up to ten windows of random area and aspect are tried; if none fits, it is the central one.

    Attributes:
        size: Pair of equal positive integers. Height and width in pixels of the result.
        scale: Pair of floats in `(0, 1]`. Smallest and largest part of the image's area.
        ratio: Pair of positive floats. Smallest and largest width over height.
        scaled_decoding: Boolean. Whether a JPEG whose window is at least twice as large as the
            result is decoded at half its size, which is faster and not what PIL does.

    Reference:
        timm 0.3.2, `RandomResizedCropAndInterpolation`.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    scaled_decoding: bool = False

    def window(self, height, width, draws, is_jpeg=False):
        """The `Window` of an image of this height and width."""
        top, left, h, w = random_window(height, width, draws, self.scale, self.ratio)
        scale = self.size[0] / tf.cast(tf.stack([h, w]), "float32")
        whole = Window(top, left, h, w, scale, tf.zeros(2))
        if not (self.scaled_decoding and is_jpeg):
            return whole
        # in pixels twice as large; the window may begin in the middle of one
        begin = tf.cast(tf.stack([top, left]) % 2, "float32") / 2
        half = Window(
            top // 2, left // 2, (h + 1) // 2, (w + 1) // 2, 2 * scale, -2 * scale * begin
        )
        is_half = tf.minimum(h, w) >= 2 * self.size[0]
        pairs = zip(half[:-1], whole[:-1], strict=True)
        chosen = Window(*(tf.where(is_half, a, b) for a, b in pairs))
        return chosen._replace(is_half=is_half)


def random_window(height, width, draws, scale, ratio):
    """`(top, left, height, width)` of a random crop; arguments as for `RandomCrop`."""
    full = tf.cast(tf.stack([height, width]), "float32")
    w, h = sides(draws, full[0] * full[1], scale, ratio)
    fits = (h <= height) & (w <= width) & (h > 0) & (w > 0)

    def first():
        i = tf.argmax(fits)
        room = tf.stack([height - h[i] + 1, width - w[i] + 1])
        top, left = tf.unstack(integers(draws[i, 2:], room))
        return top, left, h[i], w[i]

    def central():
        h = tf.cast(tf.round(tf.minimum(full[0], full[1] / ratio[0])), "int32")
        w = tf.cast(tf.round(tf.minimum(full[1], full[0] * ratio[1])), "int32")
        return (height - h) // 2, (width - w) // 2, h, w

    return tf.cond(tf.reduce_any(fits), first, central)


def resize(pixels, window, size):
    """The pixels of a window as the result, uint8: bicubic (a = -0.5, as PIL) and antialiased."""
    across, channels = tf.shape(pixels)[1], pixels.shape[-1]
    lines = resize_lines(pixels, 0, window, size)
    # each channel of a column in one piece: turning a matrix is faster than turning an image
    columns = tf.reshape(tf.transpose(lines), (across, -1))
    columns = resize_lines(columns, 1, window, size)
    pixels = tf.transpose(tf.reshape(columns, (channels * size[1], size[0])))
    return tf.reshape(tf.saturate_cast(tf.round(pixels), "uint8"), (*size, channels))


def resize_lines(lines, axis, window, size):
    """The lines along an axis, each as a row of float32, resized to as many as `size` has."""
    # as if a line were one pixel of many channels: some four times as fast, and equal
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(lines, (1, tf.shape(lines)[0], 1, -1)),
        size=(size[axis], 1),
        scale=tf.stack([window.scale[axis], 1.0]),
        translation=tf.stack([window.translation[axis], 0.0]),
        kernel_type="keyscubic",
        antialias=True,
    )
    return tf.reshape(resized, (size[axis], -1))
