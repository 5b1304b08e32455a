"""Official checkpoints, read into a model and written from one, by a table of their keys."""

import operator
from os import PathLike
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_smlp import naming
from keras_smlp.checks import check_path, check_text
from keras_smlp.saving import replacing
from keras_smlp.weights import pth
from keras_smlp.weights.strict import assign, file_shape

ENDINGS = (".pth", ".safetensors")
COUNTER = "num_batches_tracked"
# how the keys of the classifier begin
CLASSIFIER = "mlp_head."
# NumPy has no bfloat16: it is read as 16 raw bits
SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}

# ---- the key map: official key -> (attribute of the layer, permutation to Keras' layout) --------
CONVOLUTION = (2, 3, 1, 0)  # (out, in, rows, columns) -> (rows, columns, in, out)
DEPTHWISE = (2, 3, 0, 1)  # (channels, 1, rows, columns) -> (rows, columns, channels, 1)
LINEAR = (1, 0)  # (out, in) -> (in, out)
AXIAL = (2, 3, 0, 1)  # (out, in, 1, 1) -> (out, in): kernel @ x, as PyTorch has it


def batch_norm(key, attribute):
    """The entries of a batch normalization, whose keys and attributes start so."""
    names = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    return {f"{key}{old}": (f"{attribute}{new}", None) for old, new in names.items()}


PATCHES = {"0.weight": ("kernel", CONVOLUTION)}
TOKEN_MIXING = {
    **batch_norm("0.conv_merge.BN.", "norm1."),
    "0.conv_merge.Conv.weight": ("conv.kernel", DEPTHWISE),
    **batch_norm("1.BN.", "norm2."),
    # named h and w after the axes that they do NOT mix: the official code permutes first
    "1.proj_h.weight": ("mix.width.kernel", AXIAL),
    "1.proj_h.bias": ("mix.width.bias", None),
    "1.proh_w.weight": ("mix.height.kernel", AXIAL),
    "1.proh_w.bias": ("mix.height.bias", None),
    "1.fuse.weight": ("mix.fuse.kernel", CONVOLUTION),
}
CHANNEL_MIXING = {
    "1.weight": ("norm.gamma", None),
    "1.bias": ("norm.beta", None),
    "2.net.0.weight": ("dense1.kernel", LINEAR),
    "2.net.0.bias": ("dense1.bias", None),
    "2.net.3.weight": ("dense2.kernel", LINEAR),
    "2.net.3.bias": ("dense2.bias", None),
}
HEAD = {"0.weight": ("kernel", LINEAR), "0.bias": ("bias", None)}


def targets(model):
    """The variables of a model by their official keys, in the official order.

    Args:
        model: A model that `keras_smlp.SMLPNet` made.

    Returns:
        A dict from official key to `(variable, axes)`; `axes` is the permutation from the official
        layout to Keras', or `None`.

    Raises:
        ValueError: If the model has no sMLPNet in it, is cut before its final normalization or
            folded.
    """
    naming.refuse(model, "folded")
    layers = {layer.name: layer for layer in model.layers}
    if naming.NORM not in layers:
        raise ValueError(
            f"`model` must have the network's final normalization. Received: {model.name!r}"
        )
    depths = {stage: len(found) // 2 for stage, found in naming.mixings(model).items()}
    blocks = [(stage, i) for stage, depth in depths.items() for i in range(1, depth + 1)]
    patches = [naming.STEM] + [naming.downsample(stage) for stage in depths if stage > 1]
    places: list[tuple[str, str, dict]] = []  # how the keys begin, layer, the rest of the keys
    places += [(f"to_patch_embedding.{i}.", name, PATCHES) for i, name in enumerate(patches)]
    for k, block in enumerate(blocks):
        places.append((f"token_mix.{k}.", naming.token_mixing(*block), TOKEN_MIXING))
    for k, block in enumerate(blocks):
        places.append((f"channel_mix.{k}.", naming.channel_mixing(*block), CHANNEL_MIXING))
    places.append(("batch_norm.", naming.NORM, batch_norm("", "")))
    if naming.HEAD in layers:
        places.append((CLASSIFIER, naming.HEAD, HEAD))
    return {
        prefix + key: (operator.attrgetter(attribute)(layers[name]), axes)
        for prefix, name, keys in places
        for key, (attribute, axes) in keys.items()
    }


# ---- reading ------------------------------------------------------------------------------------
def read(path, key="model"):
    """The official tensors in a `.pth` or `.safetensors` file, without the batch counters.

    Args:
        path: Path ending in `.pth` or `.safetensors`.
        key: String. Entry of a `.pth` container to take. Defaults to `"model"`.

    Returns:
        A dict of NumPy arrays by official key.

    Raises:
        ValueError: If the file is damaged or of another kind.
        FileNotFoundError: If there is none.
    """
    ending = check_ending(path)
    tensors = pth.read(path, key) if ending == ".pth" else read_safetensors(path)
    return {name: x for name, x in tensors.items() if not name.endswith(COUNTER)}


def read_safetensors(path):
    """The tensors in a `.safetensors` file, as NumPy arrays; bfloat16 as float32."""
    import safetensors

    try:
        entries = safetensors.deserialize(Path(path).read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    tensors = {}
    for name, entry in entries:
        kind = entry["dtype"]
        if kind not in SAFETENSORS:
            raise ValueError(
                f"{path} must hold tensors of the types {list(SAFETENSORS)}. "
                f"Received: {name} of {kind}"
            )
        flat = np.frombuffer(entry["data"], SAFETENSORS[kind])
        flat = pth.widen_bfloat16(flat) if kind == "BF16" else flat
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


def load_official(model: keras.Model, path: str | PathLike, key: str = "model") -> keras.Model:
    """Fills a model from an official checkpoint, strictly.

    Every key of the file is used and every variable of the network filled, or nothing is changed.
    A model built with `include_top=False` leaves the file's classifier (`mlp_head`) out.

    Args:
        model: A model that `keras_smlp.SMLPNet` made.
        path: Path of a `.pth` or `.safetensors` file with the official keys. `.pth` files are read
            without PyTorch, and nothing in them is executed.
        key: String. Which entry of a training container to take. Defaults to `"model"`; the
            official code's `"model_ema"` restarts from random weights on every resume.

    Returns:
        The model.

    Raises:
        ValueError: If the file is damaged, or does not fit: one message for all differences.
        FileNotFoundError: If there is none.

    Example:

    >>> model = keras_smlp.SMLPNetSmall()
    >>> keras_smlp.load_official(model, "smlp_s.pth")
    """
    assign(targets(model), read(path, check_text("key", key)), path, CLASSIFIER)
    return model


# ---- writing ------------------------------------------------------------------------------------
def save_official(model: keras.Model, path: str | PathLike) -> None:
    """Writes a model's weights as a checkpoint that the official code loads with `strict=True`.

    Args:
        model: A model that `keras_smlp.SMLPNet` made, with its classifier and a square input.
        path: Path ending in `.pth` (a container `{"model": state dict}`, as the official files) or
            `.safetensors`. It is replaced at once when the file is complete.

    Raises:
        ValueError: If the official network cannot hold the model: no classifier, an input that is
            not square, quantized weights; or the path has another ending.

    Example:

    >>> keras_smlp.save_official(model, "mine.pth")
    """
    ending = check_ending(path)
    tensors = {}
    for name, (variable, axes) in targets(model).items():
        x = ops.convert_to_numpy(variable)
        if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
            raise ValueError(
                f"`model` must have floating-point weights. Received: {name} as {x.dtype}"
            )
        shape = file_shape(variable, axes)
        if axes is not None:
            x = x.reshape([shape[i] for i in axes]).transpose(np.argsort(axes))
        tensors[name] = np.ascontiguousarray(x, np.float32)
        if name.endswith("running_var"):
            counter = name.replace("running_var", COUNTER)
            tensors[counter] = np.zeros((), np.int64)
    if f"{CLASSIFIER}0.weight" not in tensors:
        raise ValueError(
            "`model` must have its classifier (include_top=True), for the official network has one."
        )
    sides = {tensors[f"token_mix.0.1.{name}.bias"].shape for name in ("proj_h", "proh_w")}
    if len(sides) > 1:
        raise ValueError(
            "`model` must have a square input, for the official network has no other. "
            f"Received: input_shape={tuple(model.input_shape[1:])}"
        )
    if ending == ".pth":
        pth.write(path, tensors)
        return
    import safetensors.numpy

    with replacing(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary)


def check_ending(path):
    """The file ending, if it is one of the official formats."""
    ending = check_path("path", path).suffix
    if ending not in ENDINGS:
        raise ValueError(f"`path` must end in one of {ENDINGS}. Received: {str(path)!r}")
    return ending
