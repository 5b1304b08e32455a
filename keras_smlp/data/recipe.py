"""The images of a run and what is done to them: the typed section `data` of a configuration."""

from dataclasses import dataclass
from typing import Literal

from keras_smlp.data import ranges
from keras_smlp.data.splits import FRACTION
from keras_smlp.inference.photos import OF_PHOTOS
from keras_smlp.preprocessing import shorter_side

BUNDLED = ("digits",)
# sets of the user's own, and what `dir` is then
OWN = {
    "npz": "an .npz file",
    "folder": "a folder with train/ and val/ or with the classes, or a CSV file",
    "parquet": "a folder of Parquet files or a pattern",
}


@dataclass(frozen=True)
class DataConfig:
    """The images; what is not set is the official recipe.

    Attributes:
        name: Data set: digits (bundled with scikit-learn), npz, folder, parquet, or the name of a
            TensorFlow Dataset such as imagenet2012 or imagenette/320px-v2.
        dir: The .npz file; the folder with train/ and val/, or with a folder for each class, or the
            CSV file with the columns file, label and perhaps split; the folder of Parquet files, or
            a pattern; or that of the prepared TensorFlow Datasets (null for their own).
        validation_fraction: Part of each class that is for validation, where files do not say it.
        split_seed: Another one chooses other images for that.
        manual_dir: Folder of the files that TensorFlow Datasets cannot download, such as
            ILSVRC2012_img_train.tar; null for its own.
        threads: Images prepared at a time; null leaves it to tf.data.
        max_bad_fraction: Part of the files that may be damaged; more of them end the run. Unless it
            is 0, a tenth of a small folder is allowed, at least 1 file and at most 5.
        channels: Of the images: 3 reads any photo as RGB, 1 any as gray; another number takes only
            files that have as many (2: gray with alpha, 4: RGBA, or a TIFF of so many gray pages)
            or an .npz file's arrays, and data.augment none.
        exif_orientation: Turn photos upright as their EXIF data say (those of phones need it);
            the recipe does not.
        resize_size: Shorter side before the central crop of an evaluation; null for 256 / 224 of
            model.input_size.
        crop: resized for a random resized crop, center for the crop of an evaluation.
        crop_scale: Smallest and largest area of a random resized crop, as a part of the image's.
        crop_ratio: Its smallest and largest width over height.
        scaled_decoding: Decode a JPEG whose crop is twice as large as the input, or more, at half
            its size: faster, and not what PIL does.
        max_shift: Largest random shift, as a part of the image's side; mirrored at the border.
        flip: Probability of a mirrored image.
        augment: rand_augment as timm's, keras_cv (its RandAugment, mixup and CutMix; their draws
            cannot be repeated), or none.
        magnitude: Magnitude of RandAugment.
        magnitude_std: Standard deviation of the magnitude.
        operations: Operations of RandAugment drawn per image.
        erase: Probability of random erasing.
        mixup: alpha of mixup's Beta distribution; 0 for none.
        cutmix: alpha of CutMix', likewise; a fair coin decides where both are positive.
        group_size: Images that share a draw of mixup and CutMix; divides a process'
            batch (on TensorFlow a device's).
        label_smoothing: Part of the target spread over all classes.
        balance: sampling shows all classes equally often, weights weights the loss of an image by
            one over the number of its class' images; none for as they are.
        repeats: Repeated augmentation: copies of an image in an epoch, which shows 1 / repeats of
            all images.
    """

    name: ranges.Name
    dir: ranges.FileName | None = None
    validation_fraction: ranges.OpenUnitInterval = FRACTION
    split_seed: ranges.Seed = 0
    manual_dir: ranges.FileName | None = None
    threads: ranges.PositiveInt | None = None
    max_bad_fraction: ranges.Rate = 0.001
    channels: ranges.PositiveInt = 3
    exif_orientation: bool = False
    resize_size: ranges.PositiveInt | None = None
    crop: Literal["resized", "center"] = "resized"
    crop_scale: tuple[ranges.Fraction, ranges.Fraction] = (0.08, 1.0)
    crop_ratio: tuple[ranges.PositiveFloat, ranges.PositiveFloat] = (3 / 4, 4 / 3)
    scaled_decoding: bool = False
    max_shift: ranges.Shift = 0.0
    flip: ranges.UnitInterval = 0.5
    augment: Literal["rand_augment", "keras_cv", "none"] = "rand_augment"
    magnitude: ranges.Magnitude = 9.0
    magnitude_std: ranges.NonNegativeFloat = 0.5
    operations: ranges.PositiveInt = 2
    erase: ranges.UnitInterval = 0.25
    mixup: ranges.NonNegativeFloat = 0.8
    cutmix: ranges.NonNegativeFloat = 1.0
    group_size: ranges.PositiveInt = 128
    label_smoothing: ranges.Rate = 0.1
    balance: Literal["none", "weights", "sampling"] = "none"
    repeats: ranges.PositiveInt = 3

    def __post_init__(self):
        if self.name in BUNDLED and self.dir is not None:
            raise ValueError(f"data.dir: {self.dir!r} with data.name {self.name}, allowed: null")
        if self.name in OWN and self.dir is None:
            raise ValueError(
                f"data.dir: null with data.name {self.name}, allowed: {OWN[self.name]}"
            )
        if self.augment == "keras_cv" and self.erase:
            raise ValueError(
                f"data.erase: {self.erase:g} with data.augment keras_cv, which has none, allowed: 0"
            )
        if self.name in BUNDLED and self.channels not in OF_PHOTOS:
            raise ValueError(
                f"data.channels: {self.channels} with data.name {self.name}, allowed: 1 or 3"
            )
        for key in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"data.{key}: [{low}, {high}], allowed: the smaller one first")

    def check_augment(self):
        """Raises `ValueError` if images of so many channels cannot be augmented as it says."""
        augments = {"none": [self.channels], "rand_augment": OF_PHOTOS, "keras_cv": (3,)}
        if self.channels not in augments[self.augment]:
            allowed = [name for name, channels in augments.items() if self.channels in channels]
            raise ValueError(
                f"data.augment: {self.augment} with data.channels {self.channels}, allowed: "
                f"{' or '.join(allowed)}"
            )

    @property
    def mixes(self):
        """Whether images of a group are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def mixes_on_device(self):
        """Whether the training step mixes them; keras-cv does it on the host."""
        return self.mixes and self.augment != "keras_cv"

    def shorter_side(self, size):
        """Length of the shorter side before the central crop to `size`."""
        return self.resize_size or shorter_side(size)
