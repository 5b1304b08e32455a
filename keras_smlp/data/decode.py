"""A file's bytes or an array -> a square uint8 RGB image, as PIL and torchvision make it.

JPEG and plain PNG are decoded by TensorFlow, of a JPEG only the window that is needed; whatever it
refuses (CMYK, palettes, damage) goes to PIL, whose word is final.
"""

import io
import threading
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from keras_smlp.data.draws import integers, sides

TRIES = 10


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
        self.lock = threading.Lock()

    def __len__(self):
        return len(self.names)

    def add(self, name, reason):
        """Notes a file and why it is bad."""
        with self.lock:
            if name not in self.names:
                self.names[name] = reason
                if self.log:
                    with open(self.log, "a" if len(self) > 1 else "w") as file:
                        file.write(f"{name}: {reason}\n")

    def check(self, max_fraction):
        """Raises a `ValueError` with the list if more than this part of the files is bad."""
        if len(self) > max_fraction * self.count:
            names = ", ".join(f"{name} ({reason})" for name, reason in self.names.items())
            raise ValueError(
                f"data.max_bad_fraction: {len(self)} of {self.count} files cannot be decoded, "
                f"allowed: at most {max_fraction:g} of them; they are {names}"
            )


def by_pil(content):
    """Decodes any file that PIL knows to uint8 RGB `(height, width, 3)`; raises what PIL raises."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def plainly(content, window_of):
    """The image of a file that TensorFlow decodes itself; an error for any other file.

    Args:
        content: String tensor, the file's bytes.
        window_of: Function of `(read, height, width)`, see `random_crop` and `center_crop`, that
            returns the image.

    Returns:
        The image of `window_of`.
    """
    with tf.control_dependencies([tf.debugging.Assert(is_plain(content), ["not plain"])]):
        is_jpeg = tf.strings.substr(content, 0, 1) == b"\xff"
    return tf.cond(is_jpeg, lambda: jpeg(content, window_of), lambda: png(content, window_of))


def decoded(content, name, window_of, bad):
    """One image of any file, or grey and `False` if it cannot be decoded.

    Args:
        content: String tensor, the file's bytes.
        name: String tensor, what to call the file.
        window_of: As for `plainly`.
        bad: `BadFiles` that the file is noted in.

    Returns:
        The image of `window_of` and a boolean tensor.
    """

    def slow(content):
        pixels, good = tf.numpy_function(
            pixels_or_nothing, [content, name], (tf.uint8, tf.bool), stateful=False
        )
        pixels.set_shape((None, None, 3))
        good.set_shape(())
        return window_of(slicer(pixels), *tf.unstack(tf.shape(pixels)[:2])), good

    def pixels_or_nothing(content, name):
        try:
            pixels = by_pil(content)
        except UnidentifiedImageError:  # its text has an address in memory
            bad.add(name.decode(), "not an image" if content else "empty")
        except Exception as error:  # whatever it is, PIL cannot read this file
            bad.add(name.decode(), " ".join(str(error).split()) or type(error).__name__)
        else:
            return pixels, True
        return np.full((8, 8, 3), 128, "uint8"), False

    file = tf.data.Dataset.from_tensors(content)
    return first_of(file.map(lambda content: (plainly(content, window_of), True)), file.map(slow))


def first_of(attempt, fallback):
    """The element of a dataset, or where an error prevents it, that of another: tf.data's `try`."""
    return attempt.ignore_errors().concatenate(fallback).take(1).get_single_element()


def is_plain(content):
    """Whether a file looks like a whole JPEG or an 8-bit grey or RGB PNG."""
    ends = tf.strings.substr(content, 0, 3) + tf.strings.substr(content, -2, 2)
    header = tf.strings.substr(content, 0, 8) + tf.strings.substr(content, 24, 2)
    signature = b"\x89PNG\r\n\x1a\n\x08"
    is_png = (header == signature + b"\x00") | (header == signature + b"\x02")
    return (ends == b"\xff\xd8\xff\xff\xd9") | is_png


def jpeg(content, window_of):
    shape = tf.io.extract_jpeg_shape(content)
    # PIL has its own way with CMYK
    with tf.control_dependencies([tf.debugging.Assert(shape[2] != 4, [shape])]):
        height, width = shape[0], shape[1]

    def read(top, left, height, width, ratio=1):
        return tf.io.decode_and_crop_jpeg(
            content,
            tf.stack([top, left, height, width]),
            channels=3,
            ratio=ratio,
            dct_method="INTEGER_ACCURATE",
        )

    return window_of(read, height, width)


def png(content, window_of):
    pixels = tf.io.decode_png(content, channels=3)
    return window_of(slicer(pixels), *tf.unstack(tf.shape(pixels)[:2]))


def slicer(pixels):
    """The `read` of an image in memory."""

    def read(top, left, height, width, ratio=1):
        return pixels[top : top + height, left : left + width][::ratio, ::ratio]

    return read


# ---- windows ------------------------------------------------------------------------------------


def random_crop(size, draws, scale, ratio, scaled_decoding=False):
    """A random part of an image, resized to a square: bicubic and antialiased, as PIL does it.

    Up to ten windows of random area and aspect are tried; if none fits, the central one.

    Args:
        size: Positive integer. Side in pixels of the result.
        draws: float32 tensor `(10, 4)`, uniform in `[0, 1)`.
        scale: Pair of floats in `(0, 1]`. Smallest and largest part of the image's area.
        ratio: Pair of positive floats. Smallest and largest width over height.
        scaled_decoding: Boolean. Whether a JPEG whose window is at least twice as large as the
            result is decoded at half its size, which is faster and not what PIL does. Defaults to
            `False`.

    Returns:
        A function for `decoded`.

    Reference:
        timm 0.3.2, `RandomResizedCropAndInterpolation`.
    """

    def window_of(read, height, width):
        top, left, h, w = random_window(height, width, draws, scale, ratio)
        if not scaled_decoding:
            return resize(read(top, left, h, w), size, h, w)
        halve = tf.minimum(h, w) >= 2 * size
        return tf.cond(
            halve,
            lambda: halved(read, top, left, h, w),
            lambda: resize(read(top, left, h, w), size, h, w),
        )

    def halved(read, top, left, h, w):
        # the window in pixels twice as large, whose borders may fall within one
        half = read(top // 2, left // 2, (h + 1) // 2, (w + 1) // 2, 2)
        return resize(half, size, h / 2, w / 2, top % 2 / 2, left % 2 / 2)

    return window_of


def random_window(height, width, draws, scale, ratio):
    """`(top, left, height, width)` of a random crop; arguments as for `random_crop`."""
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


def center_crop(size, resize_size):
    """The middle of an image whose shorter side was resized: the evaluation's view.

    As torchvision's `Resize(resize_size, bicubic)` and `CenterCrop(size)`, in one step: only what
    will be seen is decoded and computed.

    Args:
        size: Positive integer, side in pixels of the result, or a pair: height and width.
        resize_size: Positive integer, at least `size`. Length of the shorter side before cropping;
            or a pair that the resized image just covers.

    Returns:
        A function for `decoded`.
    """

    size, covered = (x if isinstance(x, tuple) else (x, x) for x in (size, resize_size))

    def window_of(read, height, width):
        by_height = covered[0] * width >= covered[1] * height
        resized = (
            tf.where(by_height, covered[0], covered[1] * height // width),
            tf.where(by_height, covered[0] * width // height, covered[1]),
        )
        windows = [axis(*sides) for sides in zip((height, width), resized, size, strict=True)]
        (top, h, *rows), (left, w, *columns) = windows
        pixels = read(top, left, h, w)
        return sample(pixels, size, *zip(rows, columns, strict=True))

    def axis(side, resized, size):
        """First pixel and number of pixels to read, scale and translation along one axis."""
        scale = tf.cast(resized, "float32") / tf.cast(side, "float32")
        # torchvision rounds half to even
        first = tf.round(tf.cast(resized - size, "float32") / 2)
        support = 2 * tf.maximum(1 / scale, 1) + 1  # of the bicubic filter, in source pixels
        begin = tf.cast(tf.floor(first / scale - support), "int32")
        end = tf.cast(tf.math.ceil((first + size) / scale + support), "int32")
        begin, end = tf.maximum(begin, 0), tf.minimum(end, side)
        return begin, end - begin, scale, tf.cast(begin, "float32") * scale - first

    return window_of


def resize(pixels, size, height, width, top=0.0, left=0.0):
    """The whole of a window of this height and width, at (top, left) of the pixels, as a square."""
    scale = size / tf.cast(tf.stack([height, width]), "float32")
    return sample(pixels, (size, size), scale, -scale * tf.cast(tf.stack([top, left]), "float32"))


def sample(pixels, size, scale, translation):
    """Bicubic (a = -0.5, as PIL), antialiased, to uint8."""
    for axis in range(2):  # the rows, then, of the image on its side, the columns
        length, across = tf.shape(pixels)[0], tf.shape(pixels)[1]
        # as if a row were one pixel of many channels: some four times as fast, and equal
        lines = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(pixels, (1, length, 1, 3 * across)),
            size=(size[axis], 1),
            scale=tf.stack([scale[axis], 1.0]),
            translation=tf.stack([translation[axis], 0.0]),
            kernel_type="keyscubic",
            antialias=True,
        )
        pixels = tf.transpose(tf.reshape(lines, (size[axis], across, 3)), (1, 0, 2))
    return tf.saturate_cast(tf.round(pixels), "uint8")
