"""What a trained network looks at, and what it has learned: Grad-CAM and the axial kernels."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_smlp import naming
from keras_smlp.checks import check_array, check_model, refusal

BATCH_SIZE = 32


def grad_cam(
    model: keras.Model, images: ArrayLike, class_index: int | Sequence[int] | None = None
) -> np.ndarray:
    """Grad-CAM: where in an image the network sees a class.

    Between the feature map `f` of the layer `norm` and the logits there are only a mean over the
    positions and a dense layer with the kernel `W`. The gradient of a logit is then `W[k, class]`
    at every position, up to a constant, and Grad-CAM is exactly
    `relu(sum_k W[k, class] * f[h, w, k])` up to a scale: no gradient is computed. It is resized
    bilinearly to the images.

    Args:
        model: An `SMLPNet` with its classifier, or a model that ends in its layers `norm`,
            `avg_pool` and `predictions`.
        images: Array `(n, height, width, channels)` of the model's input size, as the model takes
            it.
        class_index: Integer, or a sequence of `n` integers: the class to explain. `None` (default)
            is each image's likeliest.

    Returns:
        A float32 array `(n, height, width)` in [0, 1]: the largest value of each image is 1, or all
        are 0 where no position speaks for the class.

    Raises:
        ValueError: If the model has not these layers, or `images` or `class_index` do not fit it.

    Reference:
        [Grad-CAM](https://arxiv.org/abs/1610.02391), section 3.1: "Grad-CAM generalizes CAM".

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> images = np.random.randint(0, 256, (2, 32, 32, 3), "uint8")
    >>> keras_smlp.explain.grad_cam(model, images, class_index=1).shape
    (2, 32, 32)
    """
    norm, predictions = classifier_layers(model)
    images = check_array("images", images)
    if images.ndim != 4 or images.shape[1:] != tuple(model.input_shape[1:]):
        raise ValueError(
            f"`images` must be (n, {', '.join(map(str, model.input_shape[1:]))}), as the model "
            f"takes them. Received: images of the shape {images.shape}"
        )
    if class_index is not None:
        class_index = check_class_index(class_index, len(images), predictions.units)
    if not len(images):
        return np.zeros(images.shape[:3], "float32")
    both = keras.Model(model.input, [norm.output, model.output])
    # not `predict`, which on PyTorch imports TensorFlow
    batches = [images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE)]
    answers = [both.predict_on_batch(batch) for batch in batches]
    maps, outputs = (np.concatenate(x) for x in zip(*answers, strict=True))
    if class_index is None:
        class_index = outputs.argmax(-1)
    return class_maps(maps, predictions, class_index, images.shape[1:3])


def class_maps(features, head, class_index, size):
    """Grad-CAM from the feature maps before the head, see `grad_cam`.

    Args:
        features: Array `(n, rows, columns, channels)`, what the layer `norm` answers.
        head: The layer `predictions`.
        class_index: Integer array `(n,)`.
        size: Pair of positive integers. Height and width of the result.

    Returns:
        A float32 array `(n, height, width)` in [0, 1].
    """
    kernel = ops.convert_to_numpy(head.kernel).astype("float32")
    maps = np.einsum("nhwk,kn->nhw", features.astype("float32"), kernel[:, class_index])
    maps = np.stack([enlarged(np.maximum(x, 0), size) for x in maps])
    largest = maps.max((1, 2), keepdims=True)
    return maps / np.where(largest > 0, largest, 1)


def classifier_layers(model):
    """The layers `norm` and `predictions` of a classifier; refuses a model without them."""
    layers = {layer.name: layer for layer in check_model(model).layers}
    norm, pool, head = (layers.get(name) for name in (naming.NORM, naming.AVG_POOL, naming.HEAD))
    if (
        not isinstance(norm, keras.layers.BatchNormalization)
        or not isinstance(pool, keras.layers.GlobalAveragePooling2D)
        or not isinstance(head, keras.layers.Dense)
    ):
        raise ValueError(
            "`model` must be an sMLPNet classifier that ends in its layers norm, avg_pool and "
            f"predictions. Received: {model.name}, which ends in {', '.join(list(layers)[-3:])}"
        )
    if head.quantization_mode is not None:
        raise ValueError(
            "`model` must have a classifier that is not quantized. "
            f"Received: {model.name}, quantized to {head.quantization_mode}"
        )
    return norm, head


def check_class_index(class_index, count, classes):
    """The class of each image, as an array; refuses what is no class or of another length."""
    indices = check_array("class_index", class_index)
    if (
        indices.dtype.kind not in "iu"
        or indices.shape not in ((), (count,))
        or ((indices < 0) | (indices >= classes)).any()
    ):
        allowed = f"None, an integer from 0 to {classes - 1} or one for each of the {count} images"
        raise refusal("class_index", class_index, allowed)
    return np.broadcast_to(indices, (count,))


def enlarged(values, size):
    """A float32 matrix resized bilinearly to `(height, width)`."""
    from PIL import Image

    return np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BILINEAR))


def axial_kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """The kernels of the sparse MLPs, by which the network mixes columns and rows in each stage.

    Args:
        model: An `SMLPNet`, or a functional model on its tensors.

    Returns:
        A dict of float32 arrays, for each stage `s` `"stage{s}_width"`, `(blocks, width, width)`,
        and `"stage{s}_height"`, `(blocks, height, height)`. `kernels["stage1_width"][b, v, w]` is
        the weight of column `w` of the input in column `v` of the output, in block `b + 1`.

    Raises:
        ValueError: If the model has no sMLPNet in its graph.

    Reference:
        [Sparse MLP for Image Recognition](https://arxiv.org/abs/2109.05422), section 3.2.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 2), input_shape=(32, 48, 3))
    >>> {name: x.shape for name, x in keras_smlp.explain.axial_kernels(model).items()}
    {'stage1_width': (1, 12, 12), 'stage1_height': (1, 8, 8),
     'stage2_width': (2, 6, 6), 'stage2_height': (2, 4, 4)}
    """
    kernels = {}
    for stage, layers in naming.mixings(model).items():
        mixes = [layer.mix for layer in layers if "mix" in layer.PARTS]
        for axis in ("width", "height"):
            blocks = [ops.cast(getattr(mix, axis).kernel, "float32") for mix in mixes]
            kernels[f"stage{stage}_{axis}"] = np.stack([ops.convert_to_numpy(x) for x in blocks])
    return kernels
