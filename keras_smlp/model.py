"""sMLPNet, top to bottom: the network first, then its named variants.

x -> stem -> stage 1 -> [downsample -> stage i]... -> norm -> mean over positions -> head
"""

import inspect
from collections.abc import Callable, Sequence
from os import PathLike

import keras

from keras_smlp import checks, naming, shapes
from keras_smlp.layers.initializers import TorchUniform
from keras_smlp.layers.mixing import ChannelMixing, TokenMixing, dense
from keras_smlp.layers.normalization import BatchNormalization
from keras_smlp.layers.patches import PatchConv
from keras_smlp.layers.sparse_mlp import SparseMLP
from keras_smlp.preprocessing import gray_to_rgb, normalization
from keras_smlp.saving import PortableModel
from keras_smlp.variants import VARIANTS
from keras_smlp.weights import loading

# given to every layer that would ask the global setting
LAST = "channels_last"
TOKEN_MIXING_PARTS = (*TokenMixing.PARTS, *(f"mix/{part}" for part in SparseMLP.PARTS))


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
            first two with the official keys; or an address on the Hugging Face hub,
            `"hf://ACCOUNT/NAME@REVISION/FILE"`: the revision, a commit, tag or branch, is `main`
            where there is none, and the file `model.safetensors`, else `model.keras`; a line says
            which commit it is. Made at another input size, its axial kernels are resampled as
            `resize_weights` does it. Made for RGB, its stem fits any number of channels (see
            `input_shape`). Defaults to `None`.
        input_tensor: Symbolic Keras tensor to build on, an intermediate one too; the model then
            starts at its inputs. Defaults to a new input.
        input_shape: `(height, width, channels)`, height and width multiples of 32 (in general of
            `patch_size * 2 ** (len(depths) - 1)`). The axial kernels depend on it. With 1 channel
            and the weights of RGB, a gray image has the logits of its RGB copy; with `n` other
            channels the stem repeats the kernels of red, green and blue in turn, times `3 / n`,
            as timm does. Defaults to `(224, 224, 3)`.
        pooling: `None` (the last feature map), `"avg"` or `"max"`; only where `include_top=False`.
        classes: Positive integer. Outputs of the classifier. Defaults to `1000`.
        classifier_activation: Activation of the classifier; `None` gives logits. Defaults to
            `"softmax"`.
        include_preprocessing: Boolean. If true (default), the images are RGB in [0, 255], uint8 or
            float, and the model normalizes them in float32; else it takes them normalized. It makes
            RGB of gray images first (1 channel), so that the stem is that of RGB; of `n` other
            channels it normalizes each in turn as red, green or blue.
        drop_path_rate: Float in `[0, 1)`. Stochastic depth of the last block; block `k` of `N` has
            `rate * k / (N - 1)`. Defaults to the variant's own, `0.0` where there is none.
        name: String. Name of the model.
        dtype: Dtype policy of this model alone, for example `"mixed_bfloat16"`; or a
            `keras.dtype_policies.DTypePolicyMap` by the paths of layers, as KerasHub saves that of
            a quantized backbone. The normalization and, under 16-bit policies, the classifier stay
            in float32. Defaults to the global one.

    Returns:
        A functional `keras.Model`. Its layers are named after their place, for example
        `stage3_block7_token_mixing`; the output of a stage is its last block's channel mixing.

    Raises:
        ValueError: If an argument is out of range, or the weights do not fit the model.
        FileNotFoundError: If `weights` is a path where no file is.
        OSError: If a file of the hub cannot be downloaded.
        RuntimeError: If the official checkpoint can be neither found nor downloaded.

    Reference:
        [Sparse MLP for Image Recognition](https://arxiv.org/abs/2109.05422); `models/smlp.py` of
        the official code.

    Example:

    >>> model = keras_smlp.SMLPNet(16, (1, 2, 1), input_shape=(64, 64, 3), classes=10)
    >>> model.predict_on_batch(np.zeros((1, 64, 64, 3), "uint8")).shape
    (1, 10)
    """
    dim = checks.check_positive_integer("dim", dim)
    depths = shapes.check_depths(depths)
    expansion = checks.check_positive_integer("expansion", expansion)
    patch_size = checks.check_positive_integer("patch_size", patch_size)
    include_top = checks.check_boolean("include_top", include_top)
    pooling = checks.check_choice("pooling", pooling, ("avg", "max"), none=True)
    if include_top:
        classes = checks.check_positive_integer("classes", classes)
        checks.check_activation("classifier_activation", classifier_activation)
    pixels = checks.check_boolean("include_preprocessing", include_preprocessing)
    drop_path_rate = checks.check_rate("drop_path_rate", drop_path_rate, none=True) or 0.0
    name = checks.check_text("name", name, none=True)
    policy = checks.check_policy(dtype)
    stride = patch_size * 2 ** (len(depths) - 1)
    images = shapes.check_input(input_tensor, input_shape, stride)
    source = loading.check(weights, dim, depths, expansion, patch_size, include_top, classes)

    # ---- stem -----------------------------------------------------------------------------------
    x = images
    if pixels:
        if x.shape[-1] == 1:
            x = gray_to_rgb(x, naming.GRAY)
        x = normalization(naming.PREPROCESSING, x.shape[-1])(x)
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
            own = policy_of(policy, token_mixing, TOKEN_MIXING_PARTS)
            x = TokenMixing(rate, name=token_mixing, dtype=own)(x)
            own = policy_of(policy, channel_mixing, ChannelMixing.PARTS)
            x = ChannelMixing(expansion, rate, name=channel_mixing, dtype=own)(x)
    own = policy_of(policy, naming.NORM)
    x = BatchNormalization(name=naming.NORM, dtype=own)(x)

    # ---- head -----------------------------------------------------------------------------------
    if include_top or pooling == "avg":
        own = policy_of(policy, naming.AVG_POOL)
        x = keras.layers.GlobalAveragePooling2D(LAST, name=naming.AVG_POOL, dtype=own)(x)
    elif pooling == "max":
        own = policy_of(policy, naming.MAX_POOL)
        x = keras.layers.GlobalMaxPooling2D(LAST, name=naming.MAX_POOL, dtype=own)(x)
    if include_top:
        x = classifier(x, classes, classifier_activation, policy)

    inputs = images if input_tensor is None else model_inputs(input_tensor)
    return loading.load(PortableModel(inputs, x, name=name), source)


def policy_of(policy, name, parts=()):
    """What the layer of this name takes as `dtype`, of a map by paths what is its own.

    Args:
        policy: Dtype policy of the network, or a `DTypePolicyMap`.
        name: Name of the layer.
        parts: Paths of its parts, relative to it.

    Returns:
        A `keras.DTypePolicy`, or a `DTypePolicyMap` by the paths of the parts that have another.
    """
    if not isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return policy
    paths = {part: keras.dtype_policies.get(policy[f"{name}/{part}"]) for part in parts}
    inside = {part: own for part, own in paths.items() if own != policy.default_policy}
    own = keras.dtype_policies.get(policy[name])
    is_usable = own.quantization_mode is None or name == naming.HEAD
    if not is_usable or not {x.compute_dtype for x in (own, *inside.values())} <= {*checks.FLOATS}:
        allowed = f"unquantized for {name!r} and compute in one of {checks.FLOATS}"
        raise checks.refusal("dtype", own, allowed)
    return keras.dtype_policies.DTypePolicyMap(own, inside) if inside else own


def patch_conv(x, channels, size, name, policy):
    """A convolution with `kernel_size == strides`: the stem, and the downsampling of a stage."""
    layer = PatchConv(
        channels,
        size,
        use_bias=False,
        kernel_initializer=TorchUniform(fan_in=size * size * x.shape[-1]),
        name=name,
        dtype=policy_of(policy, name),
    )
    return layer(x)


def classifier(x, classes, activation, policy):
    """The head: a dense layer, in float32 under policies that compute in 16 bits."""
    own = policy_of(policy, naming.HEAD)
    if own.quantization_mode is None and own.compute_dtype in ("float16", "bfloat16"):
        own = "float32"
    return dense(classes, x.shape[-1], activation=activation, name=naming.HEAD, dtype=own)(x)


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
        classes: int = variant.classes,
        classifier_activation: str | Callable | None = "softmax",
        include_preprocessing: bool = True,
        drop_path_rate: float | None = None,
        name: str = f"smlpnet_{variant.name}",
        dtype: str | keras.DTypePolicy | None = None,
    ) -> keras.Model:
        return SMLPNet(
            variant.dim,
            variant.depths,
            expansion=variant.expansion,
            patch_size=variant.patch_size,
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
    constructor.__doc__ = variant_doc(SMLPNet.__doc__, constructor_name, variant)
    return constructor


def variant_doc(doc, constructor_name, variant):
    """The docstring of a variant: from `include_top` on, arguments and errors are those of `doc`.

    Args:
        doc: The docstring of `SMLPNet`, with the indentation of the source, as Python up to 3.12
            keeps it, or without it, as from 3.13 on; `None` under `python -OO`.
        constructor_name: String.
        variant: `keras_smlp.variants.Variant`.

    Returns:
        A string without indentation.
    """
    _, first, rest = inspect.cleandoc(doc or "").partition("    include_top:")
    arguments = first + rest.partition("Example:\n")[0]
    return f"""sMLPNet-{variant.name.capitalize()}.

dim={variant.dim}, depths={variant.depths}, {variant.parameters:,} parameters; published top-1
accuracy on ImageNet-1K {variant.published_top1}%. `drop_path_rate` defaults to
{variant.drop_path_rate}, as in the official training.

Args:
{arguments}Example:

>>> model = keras_smlp.{constructor_name}(weights=None)
>>> model.predict_on_batch(np.zeros((1, 224, 224, 3), "uint8")).shape
(1, 1000)
"""


SMLPNetTiny = named_constructor("SMLPNetTiny", VARIANTS["tiny"])
SMLPNetSmall = named_constructor("SMLPNetSmall", VARIANTS["small"])
SMLPNetBase = named_constructor("SMLPNetBase", VARIANTS["base"])
