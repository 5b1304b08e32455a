"""The recipe's images as the official code makes them: PIL, NumPy and timm 0.3.2's loops.

Written from the description of the recipe (docs/recipe.md). Slow and plain: what the pipeline of
keras_smlp is compared with, in value, in speed and in what a network learns from it.
"""

import io
import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from keras_smlp.preprocessing import MEAN, STD

FILL = (124, 116, 104)
BICUBIC = Image.Resampling.BICUBIC


# ---- RandAugment --------------------------------------------------------------------------------


def affine(image, *coefficients):
    """PIL's affine transform, with the recipe's interpolation and fill."""
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=BICUBIC, fillcolor=FILL
    )


def rotate(image, degrees):
    return image.rotate(degrees, resample=BICUBIC, fillcolor=FILL)


def posterize(image, bits):
    return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)


def solarize_add(image, added):
    return image.point([i + added if i < 128 else i for i in range(256)] * 3)


def enhance(kind):
    """timm's use of one of PIL's ImageEnhance classes."""
    return lambda im, level, sign: kind(im).enhance(1 + sign * (level * 0.9))


# timm's operations and what its `inc1` makes of level = magnitude / 10
OPERATIONS = {
    "AutoContrast": lambda im, level, sign: ImageOps.autocontrast(im),
    "Equalize": lambda im, level, sign: ImageOps.equalize(im),
    "Invert": lambda im, level, sign: ImageOps.invert(im),
    "Rotate": lambda im, level, sign: rotate(im, sign * (level * 30)),
    "Posterize": lambda im, level, sign: posterize(im, 4 - int(level * 4)),
    "Solarize": lambda im, level, sign: ImageOps.solarize(im, 256 - int(level * 256)),
    "SolarizeAdd": lambda im, level, sign: solarize_add(im, int(level * 110)),
    "Color": enhance(ImageEnhance.Color),
    "Contrast": enhance(ImageEnhance.Contrast),
    "Brightness": enhance(ImageEnhance.Brightness),
    "Sharpness": enhance(ImageEnhance.Sharpness),
    "ShearX": lambda im, level, sign: affine(im, 1, sign * (level * 0.3), 0, 0, 1, 0),
    "ShearY": lambda im, level, sign: affine(im, 1, 0, 0, sign * (level * 0.3), 1, 0),
    "TranslateX": lambda im, level, sign: affine(im, 1, 0, sign * level * 0.45 * im.width, 0, 1, 0),
    "TranslateY": (
        lambda im, level, sign: affine(im, 1, 0, 0, 0, 1, sign * level * 0.45 * im.height)
    ),
}


def rand_augment(image, rng, recipe):
    """RandAugment: some operations at random, each with the probability 0.5."""
    names = list(OPERATIONS)
    for _ in range(recipe.operations):
        name = names[rng.integers(len(names))]
        if rng.random() < 0.5:
            magnitude = np.clip(rng.normal(recipe.magnitude, recipe.magnitude_std), 0, 10)
            sign = 1.0 if rng.random() < 0.5 else -1.0
            image = OPERATIONS[name](image, float(magnitude) / 10, sign)
    return image


# ---- one image ----------------------------------------------------------------------------------


def opened(content):
    """A file's bytes or an array as a PIL image in RGB."""
    if isinstance(content, bytes):
        return Image.open(io.BytesIO(content)).convert("RGB")
    return Image.fromarray(content)


def random_window(rng, height, width, scale, ratio):
    """(top, left, height, width) of a random resized crop."""
    for _ in range(10):
        area = rng.uniform(*scale) * height * width
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def random_box(rng, side):
    """(top, left, height, width) of random erasing; zeros if ten tries find none."""
    for _ in range(10):
        area = rng.uniform(0.02, 1 / 3) * side * side
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < side and w < side:
            return rng.integers(0, side - h + 1), rng.integers(0, side - w + 1), h, w
    return 0, 0, 0, 0


def normalized(image):
    """An image as float32, normalized by ImageNet's mean and deviation."""
    return (np.asarray(image, "float32") / 255 - np.float32(MEAN)) / np.float32(STD)


def training_view(content, rng, size, recipe):
    """float32 (size, size, 3), normalized, as one image of a training batch."""
    image = opened(content)
    top, left, h, w = random_window(
        rng, image.height, image.width, recipe.crop_scale, recipe.crop_ratio
    )
    image = image.crop((left, top, left + w, top + h)).resize((size, size), BICUBIC)
    if rng.random() < recipe.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if recipe.augment == "rand_augment":
        image = rand_augment(image, rng, recipe)
    x = normalized(image)
    if rng.random() < recipe.erase:
        top, left, h, w = random_box(rng, size)
        x[top : top + h, left : left + w] = rng.normal(size=(h, w, 3))
    return x


def evaluation_view(content, size, resize_size):
    """torchvision's Resize(bicubic) and CenterCrop: uint8 (size, size, 3)."""
    image = opened(content)
    width, height = image.size
    if width <= height:
        width, height = resize_size, int(resize_size * height / width)
    else:
        width, height = int(resize_size * width / height), resize_size
    image = image.resize((width, height), BICUBIC)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


# ---- a group ------------------------------------------------------------------------------------


def cutmix_box(rng, side, lam):
    """(top, bottom, left, right) of CutMix, clipped at the image's border."""
    half = int(side * math.sqrt(1 - lam)) // 2
    ends = [np.clip((c - half, c + half), 0, side) for c in rng.integers(0, side, 2)]
    return tuple(int(end) for pair in ends for end in pair)


def mixed(x, targets, rng, recipe):
    """Mixup or CutMix of a group (n, side, side, 3) with itself reversed."""
    if not recipe.mixes:
        return x, targets
    use_cutmix = recipe.cutmix > 0 and (recipe.mixup == 0 or rng.random() < 0.5)
    alpha = recipe.cutmix if use_cutmix else recipe.mixup
    lam = rng.beta(alpha, alpha)
    if use_cutmix:
        top, bottom, left, right = cutmix_box(rng, x.shape[1], lam)
        lam = 1 - (bottom - top) * (right - left) / x.shape[1] ** 2
        x, partners = x.copy(), x[::-1].copy()
        x[:, top:bottom, left:right] = partners[:, top:bottom, left:right]
    else:
        x = np.float32(lam) * x + np.float32(1 - lam) * x[::-1]
    return x, np.float32(lam) * targets + np.float32(1 - lam) * targets[::-1]


def smooth_targets(labels, classes, smoothing):
    """Targets (n, classes) with label smoothing."""
    return (np.eye(classes)[labels] * (1 - smoothing) + smoothing / classes).astype("float32")
