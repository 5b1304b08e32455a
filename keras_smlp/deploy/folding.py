"""Folding: normalizations merged into the linear layers beside them, for inference.

pixels -> normalization -> stem            the normalization goes into the stem
norm1 -> gelu                              norm1 becomes one scale and shift per channel
depthwise -> norm2 -> gelu                 norm2 goes into the depthwise convolution
layer norm's scale and shift -> dense1     they go into dense1
norm -> mean over positions -> head        norm goes into the head
"""

import keras
import numpy as np
from keras import ops, tree

from keras_smlp import naming
from keras_smlp.layers.folded import Affine, FoldedChannelMixing, FoldedTokenMixing
from keras_smlp.layers.mixing import ChannelMixing, TokenMixing
from keras_smlp.layers.normalization import BatchNormalization
from keras_smlp.preprocessing import is_normalization


def fold(model: keras.Model) -> keras.Model:
    """A copy of a network for inference, with the same outputs and fewer operations.

    Merged is what is linear once the statistics of batch normalization are fixed: the normalization
    of the pixels into the stem (under float32; 16-bit policies keep it, for they would round raw
    pixels), the second batch normalization of each token mixing into its depthwise convolution, the
    scale and shift of each layer normalization into `dense1`, the last batch normalization through
    the mean over the positions into the head. A batch normalization with nothing linear beside it
    (the first of a token mixing; the last without a dense head) becomes one factor and one summand
    per channel.

    The copy is not for training, which raises an error; its weights are not trainable. It saves and
    loads like any model, and `keras_smlp.quantize` and `keras_smlp.feature_extractor` take it.

    Args:
        model: A model that `keras_smlp.SMLPNet` made, or a functional one on its tensors (a new
            head, several outputs). It is not changed. It must not be compiled: load a trained file
            with `compile=False`.

    Returns:
        A model of the class of `model`, not compiled. Its attribute `folding`, a tuple of strings,
        says what was merged (not saved with it).

    Raises:
        ValueError: If the model has no sMLPNet in it, is compiled, folded already, quantized, or
            has LoRA layers.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> for line in keras_smlp.fold(model).folding: print(line)
    preprocessing -> stem
    norm -> predictions
    norm1 -> a factor and a summand, norm2 -> conv, in 2 token mixings
    scale and shift of norm -> dense1, in 2 channel mixings
    """
    naming.refuse(model, "compiled", "folded", "quantized", "adapted by LoRA")
    merges = {source.name: target for source, target in linear_pairs(model)}
    sources = {target.name: model.get_layer(name) for name, target in merges.items()}
    copies = {}

    def clone(layer):
        if layer.name in merges:
            return Omitted(name=layer.name)
        copies[layer.name] = counterpart(layer, layer.name in sources)
        return copies[layer.name]

    def call(layer, *args, **kwargs):
        if isinstance(layer, Omitted):
            # images may be integers, and a convolution takes none
            return args[0] if args[0].dtype == "float32" else ops.cast(args[0], "float32")
        # Keras calls a batch normalization with `mask=None`
        return layer(*args) if isinstance(layer, Affine) else layer(*args, **kwargs)

    folded = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for layer in model.layers:
        if layer.name in copies:
            fill(copies[layer.name], layer, sources.get(layer.name))
    folded.trainable = False
    folded.folding = summary(folded, merges)
    return folded


class Omitted(keras.layers.Identity):
    """Takes the place of a merged layer while the copy is made; not part of the copy."""


# ---- what can be merged -------------------------------------------------------------------------
def linear_pairs(model):
    """The pairs (affine layer, linear layer after it) of which only the second one is needed."""
    readers = only_readers(model)
    layers = {layer.name: layer for layer in model.layers}

    def after(layer):
        return layers.get(readers.get(layer.name))

    pairs = []
    for layer in model.layers:
        following = after(layer)
        # not a user's own: of a stem with a bias it would not be known what it takes
        if is_normalization(layer) and following is layers[naming.STEM]:
            if layer.compute_dtype == following.compute_dtype == "float32":
                pairs.append((layer, following))
        elif is_last_norm(layer):
            if type(following) is keras.layers.GlobalAveragePooling2D:
                following = after(following)
            if type(following) is keras.layers.Dense:
                pairs.append((layer, following))
    return pairs


def is_last_norm(layer):
    """Whether it is the batch normalization after the last block."""
    kinds = (BatchNormalization, keras.layers.BatchNormalization)  # the second in older files
    return layer.name == naming.NORM and type(layer) in kinds


def only_readers(model):
    """By name, the one operation that takes another's output, if each of the two is called once."""
    # as a plain functional model, whose config tells every call in its graph
    config = keras.Model(model.input, model.output).get_config()
    calls = {x["name"]: len(x["inbound_nodes"]) for x in config["layers"]}
    readers: dict[str, list[str]] = {name: [] for name in calls}
    for x in config["layers"]:
        for name in tensor_sources(x["inbound_nodes"]):
            readers[name].append(x["name"])
    outputs = {
        operation.name
        for operation in model.operations
        if any(x is y for x in tree.flatten(operation.output) for y in model.outputs)
    }
    once = {name for name, n in calls.items() if n == 1}
    return {
        name: reader[0]
        for name, reader in readers.items()
        if len(reader) == 1 and {name, *reader} <= once and name not in outputs
    }


def tensor_sources(node):
    """The names of the operations whose tensors stand in a serialized call."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"][0]
            return
        node = node.values()
    if not isinstance(node, (str, int, float, type(None))):
        for part in node:
            yield from tensor_sources(part)


# ---- the copy -----------------------------------------------------------------------------------
def counterpart(layer, is_target):
    """A new layer for the copy, not built."""
    if not isinstance(layer, keras.Layer):
        return type(layer).from_config(layer.get_config())
    arguments = {"name": layer.name, "dtype": layer.dtype_policy}
    if isinstance(layer, TokenMixing):
        return FoldedTokenMixing(**arguments)
    if isinstance(layer, ChannelMixing):
        return FoldedChannelMixing(layer.expansion, **arguments)
    if is_last_norm(layer):
        return Affine(**arguments)
    config = layer.get_config()
    return type(layer).from_config({**config, "use_bias": True} if is_target else config)


def fill(copy, layer, source):
    """Gives a layer of the copy its weights; `source` is the affine layer merged into it."""
    if isinstance(layer, TokenMixing):
        assign((copy.norm1.scale, copy.norm1.shift), affine(layer.norm1))
        scale, shift = affine(layer.norm2)
        assign(copy.conv.weights, (numpy(layer.conv.kernel) * scale[:, None], shift))
        copy.mix.set_weights(layer.mix.get_weights())
    elif isinstance(layer, ChannelMixing):
        assign(copy.dense1.weights, merged(affine(layer.norm), layer.dense1))
        copy.dense2.set_weights(layer.dense2.get_weights())
    elif isinstance(copy, Affine):
        assign((copy.scale, copy.shift), affine(layer))
    elif source is not None:
        assign(copy.weights, merged(affine(source), layer))
    elif isinstance(layer, keras.Layer) and layer.weights:
        copy.set_weights(layer.get_weights())


def affine(layer):
    """Scale and shift per channel of a normalization; of a layer norm `gamma` and `beta` alone."""
    if isinstance(layer, keras.layers.Rescaling):
        return np.array(layer.scale, "float64"), np.array(layer.offset, "float64")
    scale, shift = numpy(layer.gamma), numpy(layer.beta)
    if isinstance(layer, keras.layers.BatchNormalization):
        scale = scale / np.sqrt(numpy(layer.moving_variance) + layer.epsilon)
        shift = shift - numpy(layer.moving_mean) * scale
    return scale, shift


def merged(affine, layer):
    """The kernel and the bias of a dense layer or convolution after `x * scale + shift`."""
    scale, shift = (x[..., None] for x in affine)
    kernel = numpy(layer.kernel)
    bias = 0.0 if layer.bias is None else numpy(layer.bias)
    return kernel * scale, bias + (kernel * shift).sum(tuple(range(kernel.ndim - 1)))


def assign(variables, values):
    """Assigns arrays to variables, all of them."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value.astype("float32"))


def numpy(variable):
    """A variable in float64."""
    return np.asarray(ops.convert_to_numpy(variable)).astype("float64")


def summary(folded, merges):
    """The attribute `folding` of a folded model: a line for each kind of merge."""
    blocks = [layer for layers in naming.mixings(folded).values() for layer in layers]
    tokens = sum(isinstance(layer, FoldedTokenMixing) for layer in blocks)
    lines = [f"{source} -> {target.name}" for source, target in merges.items()]
    lines += [
        f"norm1 -> a factor and a summand, norm2 -> conv, in {tokens} token mixings",
        f"scale and shift of norm -> dense1, in {len(blocks) - tokens} channel mixings",
    ]
    if any(layer.name == naming.NORM for layer in folded.layers):
        lines.append("norm -> a factor and a summand")
    return tuple(lines)
