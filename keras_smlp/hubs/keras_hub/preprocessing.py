"""From photos to the backbone's input: the package's resizing and cropping, then normalization."""

import sys
from collections.abc import Sequence

import keras
import numpy as np

from keras_smlp import shapes
from keras_smlp.checks import refusal
from keras_smlp.hubs.keras_hub.backbone import SMLPNetBackbone
from keras_smlp.hubs.keras_hub.needed import keras_hub
from keras_smlp.inference.images import Size, check_sizes, preprocess_input
from keras_smlp.preprocessing import OFFSET, SCALE


@keras.saving.register_keras_serializable(package="keras_smlp")
class SMLPNetImageConverter(keras_hub.layers.ImageConverter):
    """Resizes, crops and normalizes images as sMLPNet was trained and evaluated with them.

    The pixels are those of `keras_smlp.preprocess_input` to the last bit, eagerly, in `tf.data` and
    in Grain: PIL's bicubic filter, then a central crop. They are then normalized in float32,
    `pixels * scale + offset`. Images of `image_size` are normalized only.

    Args:
        image_size: `(height, width)`, the size of the result. `None`: images are normalized only.
            Defaults to `(224, 224)`.
        resize_size: Positive integer or pair `(height, width)`, at least `image_size`. What an
            image, its aspect kept, just covers before the crop. Defaults to
            `round(image_size * 256 / 224)`.
        scale: Float, a float for each channel, or `None`. Defaults to that of RGB in [0, 255] with
            ImageNet's deviations. With three values a gray image becomes RGB.
        offset: Float, a float for each channel, or `None`. Defaults to that of ImageNet's means.
        name: String. Name of the layer.

    Call arguments:
        inputs: Images `(height, width, channels)` or `(batch, height, width, channels)` in
            [0, 255], integers or floats; or a list of images of different sizes.

    Returns:
        A float32 array `(height, width, channels)` or `(batch, height, width, channels)`: of NumPy,
        in `tf.data` a tensor.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_smlp.hubs.keras_hub import SMLPNetImageConverter
    >>> SMLPNetImageConverter()(np.zeros((2, 300, 400, 3), "uint8")).shape
    (2, 224, 224, 3)
    """

    backbone_cls = SMLPNetBackbone

    def __init__(
        self,
        image_size: Size | None = shapes.DEFAULT_SHAPE[:2],
        resize_size: Size | None = None,
        scale: float | Sequence[float] | None = tuple(SCALE),
        offset: float | Sequence[float] | None = tuple(OFFSET),
        name: str | None = None,
    ):
        if image_size is not None:
            image_size, cover = check_sizes(image_size, resize_size)
            resize_size = None if resize_size is None else cover
        # normalized in float32, whatever the global policy is
        super().__init__(
            image_size, scale, offset, data_format="channels_last", name=name, dtype="float32"
        )
        self.resize_size = resize_size

    def call(self, inputs):
        tf = sys.modules.get("tensorflow")
        if tf is None or not tf.is_symbolic_tensor(inputs):
            return self.converted(inputs)
        images = tf.numpy_function(self.converted, [inputs], tf.float32)
        if inputs.shape.rank is not None:
            images.set_shape(self.compute_output_shape(inputs.shape.as_list()))
        return images

    def converted(self, images):
        """What `call` returns, of arrays of any framework, as a NumPy array."""
        if isinstance(images, (list, tuple)) and not images:
            raise refusal("inputs", images, "at least one image")
        if isinstance(images, (list, tuple)) and all(hasattr(x, "shape") for x in images):
            return np.stack([self.converted(x) for x in images])
        pixels = as_pixels(images)
        if self.image_size is not None:
            channels = pixels.shape[-1] if pixels.ndim else 0
            pixels = preprocess_input(pixels, self.image_size, self.resize_size, channels)
        pixels = pixels.astype("float32")
        if self.scale is not None:
            pixels = pixels * np.asarray(self.scale, "float32")
        if self.offset is not None:
            pixels = pixels + np.asarray(self.offset, "float32")
        return pixels

    def compute_output_shape(self, input_shape):
        *batch, height, width, channels = input_shape
        if channels is not None:  # gray becomes RGB
            values = (x for x in (self.scale, self.offset) if x is not None)
            channels = max(channels, *map(np.size, values), 1)
        return (*batch, *(self.image_size or (height, width)), channels)

    def get_config(self):
        return {
            "name": self.name,
            "image_size": self.image_size,
            "resize_size": self.resize_size,
            "scale": self.scale,
            "offset": self.offset,
        }


def as_pixels(images):
    """Images as an array of a dtype that `preprocess_input` takes: other integers as uint8."""
    array = (
        keras.ops.convert_to_numpy(images) if keras.ops.is_tensor(images) else np.asarray(images)
    )
    if array.dtype.kind == "V":  # bfloat16
        return array.astype("float32")
    if array.dtype.kind not in "iu" or array.dtype == np.uint8:
        return array
    if array.size and not (array.min() >= 0 and array.max() <= 255):
        raise ValueError(
            f"`inputs` must be in [0, 255]. Received: inputs from {array.min()} to {array.max()}"
        )
    return array.astype("uint8")


@keras.saving.register_keras_serializable(package="keras_smlp")
class SMLPNetImageClassifierPreprocessor(keras_hub.models.ImageClassifierPreprocessor):
    """The preprocessing of `SMLPNetImageClassifier`: an image converter; labels are passed on.

    Args:
        image_converter: An `SMLPNetImageConverter`, or another layer; `None` leaves images as they
            are. Defaults to `None`.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`.

    Call arguments:
        x: Images, see `SMLPNetImageConverter`.
        y: Labels, or `None`.
        sample_weight: Weights, or `None`.

    Returns:
        The images `x`, or `(x, y)`, or `(x, y, sample_weight)`.

    Example:

    >>> from keras_smlp.hubs import keras_hub
    >>> converter = keras_hub.SMLPNetImageConverter(image_size=(32, 32))
    >>> preprocessor = keras_hub.SMLPNetImageClassifierPreprocessor(converter)
    >>> images = [np.zeros((40, 50, 3), "uint8"), np.zeros((64, 48, 3), "uint8")]
    >>> preprocessor(images, [0, 1])[0].shape
    (2, 32, 32, 3)
    """

    backbone_cls = SMLPNetBackbone
    image_converter_cls = SMLPNetImageConverter

    def call(self, x, y=None, sample_weight=None):
        if self.image_converter:
            x = self.image_converter(x)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
