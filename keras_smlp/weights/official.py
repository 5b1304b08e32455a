"""Official checkpoints, read into a model and written from one, by a table of their keys."""

import contextlib
import json
import math
import operator
from os import PathLike

import keras
import numpy as np
from keras import ops

from keras_smlp import naming
from keras_smlp.checks import check_path, check_text, shown
from keras_smlp.saving import replacing
from keras_smlp.weights import pth
from keras_smlp.weights.stored import (
    Refused,
    Stored,
    one_sentence,
    open_regular,
    show,
    widen_bfloat16,
)
from keras_smlp.weights.strict import assign, file_shape

# what is written; and read: PyTorch's container has many endings
ENDINGS = (".pth", ".safetensors")
READABLE = (*ENDINGS, ".pt", ".pth.tar", ".ckpt", ".bin")
COUNTER = "num_batches_tracked"
# how the keys of the classifier begin
CLASSIFIER = "mlp_head."
# how every key of a state dict begins whose network was wrapped, for several devices or compiled
WRAPPERS = ("module.", "_orig_mod.")
MAX_HEADER = 16 << 20  # bytes; one of the official networks needs 0.1
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
@contextlib.contextmanager
def opened(path, key="model", called=None):
    """The official tensors in a file, without the batch counters, to be read while it is open.

    Where the name of every tensor begins with `module.` or `_orig_mod.`, as PyTorch names those of
    a network that runs on several devices or is compiled, this is left out.

    Args:
        path: Path that ends in one of `READABLE`.
        key: String. Entry of a `.pth` container to take. Defaults to `"model"`.
        called: What the file is called in messages. Defaults to its path.

    Yields:
        A dict of `stored.Stored` by official key.

    Raises:
        ValueError: If the file is damaged or of another kind.
        FileNotFoundError: If there is none.
    """
    ending = check_ending(path, READABLE)
    file = safetensors_file(path, called) if ending == ".safetensors" else None
    with file or pth.opened(path, key, called) as tensors:
        for prefix in WRAPPERS * 2:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): x for name, x in tensors.items()}
        yield {name: x for name, x in tensors.items() if not name.endswith(COUNTER)}


@contextlib.contextmanager
def safetensors_file(path, called=None):
    """The tensors in a `.safetensors` file, to be read while it is open; bfloat16 as float32."""
    called = path if called is None else called
    with contextlib.ExitStack() as stack:
        with one_sentence(called):
            file = stack.enter_context(open_regular(path))
            tensors = safetensors_in(file, path, called)
        yield tensors


def safetensors_in(file, path, called):
    """The tensors that the header of an open `.safetensors` file describes."""
    import safetensors

    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        raise Refused(f"is damaged or not a safetensors file: a header of {length} bytes.")
    with safetensors.safe_open(path, framework="np"):
        pass  # its checks: the types, the sizes, and that the tensors fill the file
    header = json.loads(file.read(length))

    def describe(name, kind, shape, data_offsets):
        if kind not in SAFETENSORS:
            raise Refused(
                f"must hold tensors of the types {list(SAFETENSORS)}. Received: "
                f"{shown(name)} of {kind}"
            )
        stored = np.dtype(SAFETENSORS[kind])

        def read():
            with one_sentence(called):
                file.seek(8 + length + data_offsets[0])
                flat = np.fromfile(file, stored, math.prod(shape))
                flat = widen_bfloat16(flat) if kind == "BF16" else flat
                return flat.reshape(shape)

        dtype = np.dtype("float32") if kind == "BF16" else stored
        return Stored(tuple(shape), dtype, read)

    header.pop("__metadata__", None)
    return {
        name: describe(name, x["dtype"], x["shape"], x["data_offsets"])
        for name, x in header.items()
    }


def load_official(model: keras.Model, path: str | PathLike, key: str = "model") -> keras.Model:
    """Fills a model from an official checkpoint, strictly.

    Every key of the file is used and every variable of the network filled, or nothing is changed.
    A model built with `include_top=False` leaves the file's classifier (`mlp_head`) out.

    Args:
        model: A model that `keras_smlp.SMLPNet` made.
        path: Path of a `.pth` or `.safetensors` file with the official keys. `.pth` files, which
            may also end in `.pt`, `.pth.tar`, `.ckpt` or `.bin`, are read without PyTorch, and
            nothing in them is executed.
        key: String. Which entry of a training container to take. Defaults to `"model"`; the
            official code's `"model_ema"` restarts from random weights on every resume.

    Returns:
        The model.

    Raises:
        ValueError: If the file is damaged, has values that are not finite, or does not fit: one
            message for all differences.
        FileNotFoundError: If there is none.

    Example:

    >>> model = keras_smlp.SMLPNetSmall()
    >>> keras_smlp.load_official(model, "smlp_s.pth")
    """
    expected = targets(model)
    with opened(path, check_text("key", key)) as tensors:
        assign(expected, tensors, path, CLASSIFIER)
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
    ending, expected = check_ending(path, ENDINGS), targets(model)
    for name, (variable, _) in expected.items():
        if "float" not in keras.backend.standardize_dtype(variable.dtype):
            raise ValueError(
                f"`model` must have floating-point weights. Received: {name} as {variable.dtype}"
            )
    if f"{CLASSIFIER}0.weight" not in expected:
        raise ValueError(
            "`model` must have its classifier (include_top=True), for the official network has one."
        )
    sides = {tuple(expected[f"token_mix.0.1.{x}.bias"][0].shape) for x in ("proj_h", "proh_w")}
    if len(sides) > 1:
        raise ValueError(
            "`model` must have a square input, for the official network has no other. "
            f"Received: input_shape={tuple(model.input_shape[1:])}"
        )
    tensors = {}
    for name, (variable, axes) in expected.items():
        x = ops.convert_to_numpy(variable)
        shape = file_shape(variable, axes)
        if axes is not None:
            x = x.reshape([shape[i] for i in axes]).transpose(np.argsort(axes))
        tensors[name] = np.ascontiguousarray(x, np.float32)
        if name.endswith("running_var"):
            counter = name.replace("running_var", COUNTER)
            tensors[counter] = np.zeros((), np.int64)
    if ending == ".pth":
        pth.write(path, tensors)
        return
    import safetensors.numpy

    with replacing(path) as temporary:
        # its `save_file` writes files that only their owner may read, whatever the umask is
        temporary.write_bytes(safetensors.numpy.save(tensors))


def check_ending(path, endings):
    """The ending of a path, if it is one of these."""
    file = check_path("path", path)
    found = next((ending for ending in endings if file.name.endswith(ending)), None)
    if found is None:
        raise ValueError(f"`path` must end in one of {endings}. Received: {show(path)}")
    return found
