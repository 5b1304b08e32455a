"""The names of an sMLPNet's layers, and what of an sMLPNet is in a model.

A name is built and parsed here alone. The model may be whole, cut, folded or quantized, or have
layers of the user's own.
"""

import re

import keras

from keras_smlp.layers.composite import Composite
from keras_smlp.layers.folded import FoldedChannelMixing, FoldedTokenMixing
from keras_smlp.layers.mixing import ChannelMixing, TokenMixing

FOLDED = (FoldedTokenMixing, FoldedChannelMixing)

# ---- names --------------------------------------------------------------------------------------
PREPROCESSING, STEM, NORM = "preprocessing", "stem", "norm"
AVG_POOL, MAX_POOL, HEAD = "avg_pool", "max_pool", "predictions"
STAGE = re.compile(r"stage(\d+)_(?:downsample|block\d+_(?:token|channel)_mixing)")


def downsample(stage):
    """The name of the layer before the first block of a stage, from 2."""
    return f"stage{stage}_downsample"


def token_mixing(stage, block):
    """The name of a block's first half; stages and blocks count from 1."""
    return f"stage{stage}_block{block}_token_mixing"


def channel_mixing(stage, block):
    """The name of a block's second half."""
    return f"stage{stage}_block{block}_channel_mixing"


def stage_of(name):
    """The stage that a layer's name says, or `None`."""
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
    found = {}
    for layer in layers:
        stage = stage_of(layer.name)
        if stage and isinstance(layer, (TokenMixing, ChannelMixing, *FOLDED)):
            found.setdefault(stage, []).append(layer)
    if not found or not any(layer.name == STEM for layer in layers):
        raise ValueError(
            "`model` must come from keras_smlp.SMLPNet, or be a functional model on its tensors. "
            f"Received: {getattr(model, 'name', model)!r}"
        )
    return found


def body(model):
    """The layers of a model up to the network's last one before the head."""
    blocks = [layer for layers in mixings(model).values() for layer in layers]
    ends = [model.layers.index(x) for x in model.layers if x in blocks or x.name == NORM]
    return model.layers[: max(ends) + 1]


def dense_layers(model):
    """The dense layers by path: `fuse`, `dense1` and `dense2` of each block, and those of the head.

    Args:
        model: See `mixings`.

    Returns:
        A dict of `keras.layers.Dense`.
    """
    mixings(model)
    found = {}

    def collect(layer, path):
        if type(layer) is keras.layers.Dense:
            found[path] = layer
        elif isinstance(layer, Composite):
            for name in layer.PARTS:
                collect(getattr(layer, name), f"{path}/{name}")

    for layer in model.layers:
        collect(layer, layer.name)
    return found


def takes_pixels(model):
    """Whether a model takes RGB in [0, 255], not normalized values.

    True for one that begins with the normalization, or holds it folded into the stem, which has a
    bias then; and for any that has no stem, of which nothing is known.
    """
    stems = [layer for layer in model.layers if layer.name == STEM]
    begins = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    return begins or all(stem.use_bias for stem in stems)


def is_folded(model):
    """Whether `keras_smlp.fold` made it."""
    return any(isinstance(layer, FOLDED) for layers in mixings(model).values() for layer in layers)


def is_quantized(model):
    """Whether a dense layer of it is quantized."""
    return any(layer.quantization_mode for layer in dense_layers(model).values())


def has_lora(model):
    """Whether a dense layer of it has a low-rank addition."""
    return any(layer.lora_enabled for layer in dense_layers(model).values())


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
    mixings(model)
    for state in states:
        is_so, why = STATES[state]
        if is_so(model):
            raise ValueError(f"`model` must not be {state}, for {why}. Received: {model.name!r}")
