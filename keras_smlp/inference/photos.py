"""Photos as files: which entries of a folder are some, and their pixels in 8 bits, by PIL.

PIL is imported where it is used, so that `import keras_smlp` does not import it.
"""

import functools
import io
import os
import stat
from collections import Counter

import numpy as np

from keras_smlp.checks import shown

# The formats that are read, by PIL's names, and the endings of their files. PIL is told these
# names: of its own accord it would try every format, and start Ghostscript for an EPS.
FORMATS = {
    "JPEG": (".jpeg", ".jpg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "JPEG2000": (".jp2",),
    "AVIF": (".avif",),
}
ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)

# EXIF orientation -> the `PIL.Image.Transpose` that turns the picture upright
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# tags of TIFF files
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0

KINDS_SHOWN = 8

# the numbers of channels that any photo is read in: gray and RGB
OF_PHOTOS = (1, 3)
# PIL's modes of others
MODES = {2: "LA", 4: "RGBA"}


# ---- pixels -------------------------------------------------------------------------------------
def opened(file):
    """A PIL image of an open file, not decoded yet; raises what PIL raises.

    Args:
        file: Binary file of one of the `FORMATS`.

    Returns:
        A `PIL.Image.Image`, to be closed.
    """
    from PIL import Image

    return Image.open(file, formats=known_formats())


@functools.cache
def known_formats():
    """Those of the `FORMATS` that this PIL has."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def rgb(picture, exif_orientation=False):
    """The picture in RGB, 8 bits a channel, as `convert("RGB")` makes it from 8 bits.

    Of 16 bits a channel the upper 8 count, as PIL itself has it for 16-bit RGB (gray it cuts
    off at 255). An alpha channel is dropped, as torchvision does it: the color that a
    transparent pixel has in the file is what is seen.

    Args:
        picture: What `opened` returns.
        exif_orientation: Boolean. Whether the picture is turned upright as its EXIF data say. PIL
            itself turns a TIFF in either case. Defaults to `False`.

    Returns:
        A `PIL.Image.Image`.

    Raises:
        ValueError: If the file does not say which number is white: pixels that are floats or have
            32 bits or a sign. Also what PIL raises.
    """
    from PIL import Image

    picture.load()
    turn = TURNS.get(orientation(picture)) if exif_orientation else None
    picture.info.pop("transparency", None)  # of which PIL would warn
    picture = without_factor(in_8_bits(picture)).convert("RGB")
    return picture.transpose(Image.Transpose[turn]) if turn else picture


def bands(picture, channels=3, exif_orientation=False):
    """The picture in 8 bits a channel, with so many channels.

    Args:
        picture: What `opened` returns.
        channels: Positive integer. `3` is RGB and `1` gray, `convert("L")` of RGB: any photo is
            read so. Any other number is that of the file: `2` gray with alpha, `4` RGBA (also
            of a palette or one color that is transparent), or a TIFF of so many gray pages.
            Defaults to `3`.
        exif_orientation: See `rgb`.

    Returns:
        A list of `PIL.Image.Image`: one in RGB or gray, else one in gray for each channel, for PIL
        would multiply colors by alpha before it resizes them.

    Raises:
        ValueError: If the file has another number of channels; also what `rgb` raises.
    """
    from PIL import Image

    if channels in OF_PHOTOS:
        found = rgb(picture, exif_orientation)
        return [found.convert("L") if channels == 1 else found]
    if picture.format == "TIFF" and picture.n_frames == channels:
        size = picture.size
        return [page(picture, number, size, exif_orientation) for number in range(channels)]
    picture.load()
    turn = TURNS.get(orientation(picture)) if exif_orientation else None
    mode, picture = picture.mode, without_factor(in_8_bits(picture))
    if channels in MODES and picture.has_transparency_data and (channels == 4 or mode == "L"):
        picture = picture.convert(MODES[channels])
    if picture.mode != MODES.get(channels):
        kind = f"{MODES[channels]} or " if channels in MODES else ""
        raise ValueError(
            f"its pixels are {mode}, allowed for {channels} channels: {kind}a TIFF of {channels} "
            "gray pages"
        )
    return list((picture.transpose(Image.Transpose[turn]) if turn else picture).split())


def page(picture, number, size, exif_orientation):
    """A page of a TIFF that has one for each channel, all of one size, as a gray picture."""
    from PIL import Image

    picture.seek(number)
    if picture.size != size:  # which was checked, of the first page
        raise ValueError("its pages differ in size, allowed: one size")
    picture.load()
    turn = TURNS.get(orientation(picture)) if exif_orientation else None
    gray = in_8_bits(picture)
    if gray.mode not in ("L", "1"):
        raise ValueError(f"the pixels of its page {number + 1} are {gray.mode}, allowed: gray")
    gray = gray.convert("L")  # a copy, for the next page takes the place of this one
    return gray.transpose(Image.Transpose[turn]) if turn else gray


def without_factor(picture):
    """The picture with colors that are not multiplied by alpha."""
    premultiplied = picture.mode in ("La", "RGBa")
    return picture.convert(picture.mode.upper()) if premultiplied else picture


def in_8_bits(picture):
    """The picture with 8 bits a channel; refuses pixels whose white is unknown."""
    from PIL import Image

    tags = getattr(picture, "tag_v2", {})
    if picture.mode.startswith("I;16"):
        bits = tags.get(BITS_PER_SAMPLE, (16,))[0]  # 12 in some TIFF
    elif picture.mode == "I" and picture.format in ("PNG", "PPM"):
        bits = 16  # PIL stretches a PGM's numbers to that
    elif picture.mode in ("I", "F"):
        kind = "floats" if picture.mode == "F" else "integers of 32 bits or with a sign"
        raise ValueError(f"its pixels are {kind}, allowed: 8 or 16 bits a channel without a sign")
    else:
        return picture
    pixels = (np.asarray(picture) >> (bits - 8)).astype("uint8")
    return Image.fromarray(255 - pixels if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else pixels)


def orientation(picture):
    """The EXIF orientation of a PIL image, 1 to 8; 1 where nothing is said."""
    # the tag of TIFF and EXIF
    return picture.getexif().get(274, 1)


def is_upright(content):
    """Whether a file's pixels are as they should be seen; false also for what cannot be read."""
    try:
        with opened(io.BytesIO(content)) as picture:
            return orientation(picture) not in TURNS
    except Exception:  # each of PIL's plugins raises errors of its own
        return False


def reason(error, is_empty=False):
    """What is wrong with a file, without what may move a terminal or an address in memory."""
    from PIL import UnidentifiedImageError

    if not isinstance(error, UnidentifiedImageError):
        return shown(" ".join(str(error).split())) or type(error).__name__
    return "an empty file" if is_empty else f"no image of a known format ({', '.join(FORMATS)})"


# ---- folders ------------------------------------------------------------------------------------
def images_below(folder):
    """The image files below a folder, in the order of their paths.

    Hidden files and folders, whose names begin with a dot, are not looked at. Only regular files
    and links to them are taken: a pipe or a device would be read for ever.

    Args:
        folder: Path of the folder, or of a link to it.

    Returns:
        A list of paths, and a list of a pair `(kind, path)` for each other entry, such as
        `(".heic", "cat/0.heic")` or `("link to a folder", "cat/more")`.

    Raises:
        OSError: If a folder cannot be read.
    """
    images, others = [], []
    waiting = visible(folder)
    while waiting:
        entry = waiting.pop()
        if entry.is_dir(follow_symlinks=False):
            waiting += visible(entry.path)
        elif kind := kind_of_other(entry):
            others.append((kind, entry.path))
        else:
            images.append(entry.path)
    return images, others


def visible(folder):
    """The entries of a folder that are not hidden, the last one by name first."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: entry.name, reverse=True)


def kind_of_other(entry):
    """What an entry of a folder is; `None` for an image file, by its ending."""
    if entry.is_symlink():
        if os.path.isdir(entry.path):
            return "link to a folder"
        if not os.path.exists(entry.path):
            return "broken link"
        is_file = os.path.isfile(entry.path)
    else:
        is_file = entry.is_file()
    if not is_file:
        mode = os.stat(entry.path).st_mode
        return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    ending = os.path.splitext(entry.name)[1].lower()
    return None if ending in ENDINGS else ending or "file without an ending"


def in_words(others):
    """A line on entries that are no image files: how many of each kind, and the first of it."""
    first: dict[str, str] = {}
    for kind, path in others:
        first.setdefault(kind, path)
    counts = Counter(kind for kind, _ in others).most_common()
    parts = [f"{n} {shown(kind)} (first {shown(first[kind])})" for kind, n in counts[:KINDS_SHOWN]]
    if len(counts) > KINDS_SHOWN:
        parts.append(f"{sum(n for _, n in counts[KINDS_SHOWN:])} of other kinds")
    return ", ".join(parts)
