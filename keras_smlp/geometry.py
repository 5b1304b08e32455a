"""Which part of a photo an evaluation sees, in whole pixels. Nothing heavy may be imported here."""


def shorter_side(size):
    """Length of an image's shorter side before the central crop to `size`: 256 for 224."""
    return round(size * 256 / 224)


def covering(height, width, cover):
    """Height and width of an image resized, its aspect kept, so that it just covers `cover`.

    With two equal sides this is torchvision's `Resize` of the shorter side, rounded as there.
    """
    if cover[0] * width >= cover[1] * height:
        return cover[0], int(cover[0] * width / height)
    return int(cover[1] * height / width), cover[1]


def central(side, size):
    """First pixel of the central `size` pixels; half to even, as torchvision's `CenterCrop`."""
    return round((side - size) / 2)
