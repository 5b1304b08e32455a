"""The names of an sMLPNet's layers, and the questions asked about a model by them.

The names of the graph's layers are built and parsed nowhere else. The model may be the network
itself, a part of it, folded or quantized, or a functional model around it with layers of the user's
own.
"""

import re

import keras

from keras_smlp.checks import received
from keras_smlp.layers.composite import Composite
from keras_smlp.layers.dense import Dense
from keras_smlp.layers.folded import FoldedChannelMixing, FoldedTokenMixing
from keras_smlp.layers.mixing import ChannelMixing, TokenMixing

FOLDED = (FoldedTokenMixing, FoldedChannelMixing)

# ---- names --------------------------------------------------------------------------------------
GRAY, PREPROCESSING, STEM, NORM = "gray_to_rgb", "preprocessing", "stem", "norm"
AVG_POOL, MAX_POOL, HEAD = "avg_pool", "max_pool", "predictions"
STAGE = re.compile(r"stage(\d+)_(?:downsample|block\d+_(?:token|channel)_mixing)")


def downsample(stage):
    """The name of the layer before the first block of a stage, from stage 2 on."""
    return f"stage{stage}_downsample"


def token_mixing(stage, block):
    """The name of a block's first half; stages and blocks count from 1."""
    return f"stage{stage}_block{block}_token_mixing"


def channel_mixing(stage, block):
    """The name of a block's second half."""
    return f"stage{stage}_block{block}_channel_mixing"


def stage_of(name):
    """The stage that a layer belongs to by its name, or `None`."""
    match = STAGE.fullmatch(name)
    return int(match[1]) if match else None


def has_weights(name):
    """Whether it is the name of one of the network's layers that have weights."""
    return name in (STEM, NORM, HEAD) or stage_of(name) is not None


# ---- layers -------------------------------------------------------------------------------------
def mixings(model):
    """The token and channel mixings of a model, in the order of the network.

    Args:
        model: What `keras_smlp.SMLPNet` returned, or a functional model on its tensors.

    Returns:
        A dict from the number of the stage (the first is 1) to the list of its layers: token mixing
        and channel mixing of the first block, and so on.

    Raises:
        ValueError: If the model has no sMLPNet in its graph.
    """
    layers = model.layers if isinstance(model, keras.Model) else []
    found: dict[int, list[keras.Layer]] = {}
    for layer in layers:
        stage = stage_of(layer.name)
        if stage and isinstance(layer, (TokenMixing, ChannelMixing, *FOLDED)):
            found.setdefault(stage, []).append(layer)
    if not found or not any(layer.name == STEM for layer in layers):
        inside = [x.name for x in layers if isinstance(x, keras.Model) and is_network(x)]
        what = f", with the network {inside[0]!r} as one of its layers" if inside else ""
        raise ValueError(
            "`model` must come from keras_smlp.SMLPNet, or be a functional model on its tensors. "
            f"Received: {received('model', getattr(model, 'name', model))}{what}"
        )
    return found


def is_network(model):
    """Whether a model is an sMLPNet, or has one among its layers."""
    names = {layer.name for layer in model.layers}
    inside = (layer for layer in model.layers if isinstance(layer, keras.Model))
    return {STEM, token_mixing(1, 1)} <= names or any(map(is_network, inside))


def every_layer(model):
    """The layers of a model, and after each that is a model its own, at any depth."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from every_layer(layer)


def network_of(model):
    """The model that has the network's layers: a model itself, or one among its layers."""
    for layer in model.layers:
        if isinstance(layer, keras.Model) and is_network(layer):
            return network_of(layer)
    return model


def is_gray_to_rgb(layer):
    """Whether it is the layer that makes RGB of a network's gray images."""
    return layer.name == GRAY and type(layer) is keras.layers.Concatenate


def body(model):
    """The layers of a model before its head: up to the final norm, or the last block without it."""
    blocks = [layer for layers in mixings(model).values() for layer in layers]
    ends = [i for i, x in enumerate(model.layers, start=1) if x in blocks or x.name == NORM]
    return model.layers[: max(ends)]


def dense_layers(model):
    """The dense layers by path: `fuse`, `dense1` and `dense2` of each block, and those of the head.

    Args:
        model: See `mixings`.

    Returns:
        A dict of `keras.layers.Dense`.
    """
    mixings(model)  # refuses what is no sMLPNet
    found = {}

    def collect(layer, path):
        if type(layer) in (keras.layers.Dense, Dense):
            found[path] = layer
        elif isinstance(layer, Composite):
            for name in layer.PARTS:
                collect(getattr(layer, name), f"{path}/{name}")

    for layer in model.layers:
        collect(layer, layer.name)
    return found


def is_folded(model):
    """Whether `keras_smlp.fold` made it."""
    return any(isinstance(layer, FOLDED) for layers in mixings(model).values() for layer in layers)


def is_quantized(model):
    """Whether a dense layer of it is quantized."""
    return any(layer.quantization_mode for layer in dense_layers(model).values())


def has_lora(model):
    """Whether a dense layer of it has a low-rank addition."""
    return any(layer.lora_enabled for layer in dense_layers(model).values())


# how a model in each state is recognized, and why functions that change models refuse it
STATES = {
    "compiled": (
        lambda model: model.compiled,
        "its training would not go on (load it with `compile=False`, compile it afterwards)",
    ),
    "folded": (is_folded, "its batch normalization is gone"),
    "quantized": (is_quantized, "its weights are rounded (quantize last)"),
    "adapted by LoRA": (has_lora, "its weights are sums (call keras_smlp.merge_lora first)"),
}


def refuse(model, *states):
    """Refuses a model that is no sMLPNet or is in one of the states, keys of `STATES`."""
    mixings(model)  # refuses what is no sMLPNet
    for state in states:
        applies, why = STATES[state]
        if applies(model):
            raise ValueError(f"`model` must not be {state}, for {why}. Received: {model.name!r}")
