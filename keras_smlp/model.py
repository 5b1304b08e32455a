"""sMLPNet, top to bottom: the network first, then its named variants and its checks.

x -> stem -> stage 1 -> [downsample -> stage i]... -> norm -> mean over positions -> head
"""

from collections.abc import Callable, Sequence
from os import PathLike

import keras

from keras_smlp import naming
from keras_smlp.checks import (
    check_architecture,
    check_drop_path_rate,
    check_head,
    check_input,
    check_policy,
)
from keras_smlp.layers.initializers import TorchUniform
from keras_smlp.layers.mixing import ChannelMixing, TokenMixing, dense
from keras_smlp.layers.normalization import EPSILON, MOMENTUM
from keras_smlp.layers.patches import PatchConv
from keras_smlp.preprocessing import normalization
from keras_smlp.saving import PortableModel
from keras_smlp.variants import VARIANTS
from keras_smlp.weights import loading


def SMLPNet(
    dim: int,
    depths: Sequence[int],
    expansion: int = 3,
    patch_size: int = 4,
    include_top: bool = True,
    weights: str | PathLike | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int, int, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    include_preprocessing: bool = True,
    drop_path_rate: float | None = None,
    name: str = "smlpnet",
    dtype: str | keras.DTypePolicy | None = None,
) -> keras.Model:
    """An sMLPNet of any width and depth.

    Args:
        dim: Positive integer. Channels of the first stage; each later stage doubles them.
        depths: Sequence of positive integers. Blocks of each stage; its length is the number of
            stages.
        expansion: Positive integer. Hidden width of the channel mixing, in multiples of the
            channels. Defaults to `3`.
        patch_size: Positive integer. Side in pixels of the stem's patches. Defaults to `4`.
        include_top: Boolean. Whether to end in the classifier (mean over the positions, dense
            layer). Defaults to `True`.
        weights: `None` (random initial values, PyTorch's distributions), `"imagenet"` (the official
            checkpoint, downloaded once and cached) or the path of a `.weights.h5`, `.keras`,
            `.safetensors` or `.pth` file (also `.pt`, `.pth.tar`, `.ckpt`, `.bin`), all but the
            first two with the official keys. Made at another input size, its axial kernels are
            resampled as `resize_weights` does it. Defaults to `None`.
        input_tensor: Symbolic Keras tensor to build on, an intermediate one too; the model then
            starts at its inputs. Defaults to a new input.
        input_shape: `(height, width, channels)`, height and width multiples of 32 (in general of
            `patch_size * 2 ** (len(depths) - 1)`). The axial kernels depend on it. Defaults to
            `(224, 224, 3)`.
        pooling: `None` (the last feature map), `"avg"` or `"max"`; only where `include_top=False`.
        classes: Positive integer. Outputs of the classifier. Defaults to `1000`.
        classifier_activation: Activation of the classifier; `None` gives logits. Defaults to
            `"softmax"`.
        include_preprocessing: Boolean. If true (default), the images are RGB in [0, 255], uint8 or
            float, and the model normalizes them in float32; else it takes them normalized.
        drop_path_rate: Float in `[0, 1)`. Stochastic depth of the last block; block `k` of `N` has
            `rate * k / (N - 1)`. Defaults to the variant's own, `0.0` where there is none.
        name: String. Name of the model.
        dtype: Dtype policy of this model alone, for example `"mixed_bfloat16"`. The normalization
            and, under 16-bit policies, the classifier stay in float32. Defaults to the global one.

    Returns:
        A functional `keras.Model`. Its layers are named after their place, for example
        `stage3_block7_token_mixing`; the output of a stage is its last block's channel mixing.

    Raises:
        ValueError: If an argument is out of range, or the weights do not fit the model.
        FileNotFoundError: If `weights` is a path where no file is.
        RuntimeError: If the official checkpoint can be neither found nor downloaded.

    Reference:
        [Sparse MLP for Image Recognition](https://arxiv.org/abs/2109.05422); `models/smlp.py` of
        the official code.

    Example:

    >>> model = keras_smlp.SMLPNet(16, (1, 2, 1), input_shape=(64, 64, 3), classes=10)
    >>> model.predict_on_batch(np.zeros((1, 64, 64, 3), "uint8")).shape
    (1, 10)
    """
    depths = tuple(depths) if isinstance(depths, Sequence) else depths
    drop_path_rate = 0.0 if drop_path_rate is None else drop_path_rate
    check_architecture(dim, depths, expansion, patch_size)
    check_head(include_top, pooling, classes, classifier_activation)
    check_drop_path_rate(drop_path_rate)
    policy = check_policy(dtype)
    stride = patch_size * 2 ** (len(depths) - 1)
    images = check_input(input_tensor, input_shape, stride, rgb=include_preprocessing)
    source = loading.check(
        weights, dim, depths, expansion, patch_size, include_top, classes, images.shape[-1]
    )

    # ---- stem -----------------------------------------------------------------------------------
    x = normalization(naming.PREPROCESSING)(images) if include_preprocessing else images
    x = patch_conv(x, dim, patch_size, naming.STEM, policy)

    # ---- stages ---------------------------------------------------------------------------------
    # block k of N drops with rate * k / (N - 1): the first never, the last with the full rate
    rates = [drop_path_rate * k / max(sum(depths) - 1, 1) for k in range(sum(depths))]
    for stage, depth in enumerate(depths, start=1):
        if stage > 1:
            x = patch_conv(x, 2 * x.shape[-1], 2, naming.downsample(stage), policy)
        for block in range(1, depth + 1):
            rate = rates.pop(0)
            token_mixing = naming.token_mixing(stage, block)
            channel_mixing = naming.channel_mixing(stage, block)
            x = TokenMixing(rate, name=token_mixing, dtype=policy)(x)
            x = ChannelMixing(expansion, rate, name=channel_mixing, dtype=policy)(x)
    x = keras.layers.BatchNormalization(
        momentum=MOMENTUM, epsilon=EPSILON, name=naming.NORM, dtype=policy
    )(x)

    # ---- head -----------------------------------------------------------------------------------
    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name=naming.AVG_POOL, dtype=policy)(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name=naming.MAX_POOL, dtype=policy)(x)
    if include_top:
        x = classifier(x, classes, classifier_activation, policy)

    inputs = images if input_tensor is None else model_inputs(input_tensor)
    return loading.load(PortableModel(inputs, x, name=name), source)


def patch_conv(x, channels, size, name, policy):
    """A convolution with `kernel_size == strides`: the stem, and the downsampling of a stage."""
    initializer = TorchUniform(fan_in=size * size * x.shape[-1])
    layer = PatchConv(
        channels, size, use_bias=False, kernel_initializer=initializer, name=name, dtype=policy
    )
    return layer(x)


def classifier(x, classes, activation, policy):
    """The head: a dense layer, in float32 under policies that compute in 16 bits."""
    dtype = "float32" if policy.compute_dtype in ("float16", "bfloat16") else policy
    return dense(classes, x.shape[-1], activation=activation, name=naming.HEAD, dtype=dtype)(x)


def model_inputs(tensor):
    """The input (or the list of inputs) that a symbolic tensor is computed from."""
    inputs = keras.utils.get_source_inputs(tensor)
    return inputs[0] if len(inputs) == 1 else inputs


def named_constructor(constructor_name, variant):
    """The constructor of a published variant, with the arguments of `keras.applications`."""

    def constructor(
        include_top: bool = True,
        weights: str | PathLike | None = None,
        input_tensor: keras.KerasTensor | None = None,
        input_shape: tuple[int, int, int] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: str | Callable | None = "softmax",
        include_preprocessing: bool = True,
        drop_path_rate: float | None = None,
        name: str = f"smlpnet_{variant.name}",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> keras.Model:
        return SMLPNet(
            variant.dim,
            variant.depths,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            include_preprocessing=include_preprocessing,
            drop_path_rate=variant.drop_path_rate if drop_path_rate is None else drop_path_rate,
            name=name,
            dtype=dtype,
        )

    constructor.__name__ = constructor.__qualname__ = constructor_name
    # from `include_top` on, arguments and errors are those of `SMLPNet`
    arguments = (SMLPNet.__doc__ or "").partition("        include_top:")
    constructor.__doc__ = f"""sMLPNet-{variant.name.capitalize()}.

    dim={variant.dim}, depths={variant.depths}, {variant.parameters:,} parameters; published top-1
    accuracy on ImageNet-1K {variant.published_top1}%. `drop_path_rate` defaults to
    {variant.drop_path_rate}, as in the official training.

    Args:
{arguments[1]}{arguments[2].partition("    Example:")[0]}
    Example:

    >>> model = keras_smlp.{constructor_name}(weights=None)
    >>> model.predict_on_batch(np.zeros((1, 224, 224, 3), "uint8")).shape
    (1, 1000)
    """
    return constructor


SMLPNetTiny = named_constructor("SMLPNetTiny", VARIANTS["tiny"])
SMLPNetSmall = named_constructor("SMLPNetSmall", VARIANTS["small"])
SMLPNetBase = named_constructor("SMLPNetBase", VARIANTS["base"])
