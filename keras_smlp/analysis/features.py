"""Features: the stages' outputs as a pyramid for other heads, and every block's output."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_smlp import naming
from keras_smlp.checks import check_names, refusal
from keras_smlp.saving import PortableModel


@keras.saving.register_keras_serializable(package="keras_smlp")
class FeatureExtractor(PortableModel):
    """A feature pyramid: a functional model with a dict of outputs, `{"P2": ..., "P3": ...}`.

    `feature_extractor` makes it. It has what heads for detection and segmentation ask a backbone
    for: `pyramid_level_inputs` as keras-cv's have it, `pyramid_outputs` as KerasHub's.

    Args:
        inputs: Symbolic tensor, or a list or dict of them.
        outputs: Dict of symbolic feature maps by level.
        name: String. Name of the model.
        **kwargs: Keyword arguments of a functional `keras.Model`.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3))
    >>> keras_smlp.feature_extractor(model).pyramid_level_inputs
    {'P2': 'stage1_block1_channel_mixing', 'P3': 'stage2_block1_channel_mixing'}
    """

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """The symbolic output of each level."""
        return dict(self.output)

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """The name of the layer that computes each level."""
        return {
            level: layer.name
            for level, tensor in self.output.items()
            for layers in naming.mixings(self).values()
            for layer in layers
            if layer.output is tensor
        }


def feature_extractor(model: keras.Model, levels: Sequence[str] | None = None) -> FeatureExtractor:
    """A model over the same layers whose outputs are those of the stages, a feature pyramid.

    A level is named after its stride: `"P2"` has one position for 4 x 4 pixels, `"P5"` one for
    32 x 32. The output of a stage is that of its last channel mixing, before the network's final
    normalization.

    Args:
        model: A model that `keras_smlp.SMLPNet` made, or one built on its tensors; folded and
            quantized ones too. The layers are shared: training one model changes the other.
        levels: Sequence of levels. Defaults to `None`, all: `("P2", "P3", "P4", "P5")` for four
            stages and patches of 4 pixels.

    Returns:
        A `FeatureExtractor`, whose output is a dict from level to map
        `(batch, height / stride, width / stride, channels)`.

    Raises:
        ValueError: If the model has no sMLPNet in it or no such level, or a stride is no power of
            two.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1, 1), input_shape=(64, 64, 3))
    >>> maps = keras_smlp.feature_extractor(model, ("P2", "P4"))
    >>> {level: x.shape for level, x in maps.predict_on_batch(np.zeros((1, 64, 64, 3))).items()}
    {'P2': (1, 16, 16, 8), 'P4': (1, 4, 4, 32)}
    """
    ends = stage_ends(model)
    allowed = f"some of {tuple(ends)}"
    names = tuple(ends) if levels is None else check_names("levels", levels, allowed)
    if not set(names) <= set(ends):
        raise refusal("levels", levels, allowed)
    outputs = {level: ends[level].output for level in names}
    return FeatureExtractor(model.input, outputs, name=f"{model.name}_features")


def stage_ends(model):
    """The last channel mixing of each stage, by the name of its level."""
    stages = naming.mixings(model)
    stride = model.get_layer(naming.STEM).strides[0]
    first = math.log2(stride)
    if not first.is_integer():
        raise ValueError(
            "`model` must have patches whose side is a power of two, for the levels are named "
            f"P{{log2(stride)}}. Received: patch_size={stride}"
        )
    return {f"P{int(first) + stage - 1}": layers[-1] for stage, layers in stages.items()}


def intermediate(model: keras.Model, x: ArrayLike) -> dict[str, np.ndarray]:
    """The output of each token mixing, channel mixing and stage of a network for one batch.

    Args:
        model: A model that `keras_smlp.SMLPNet` made, or one built on its tensors; folded and
            quantized ones too.
        x: What the model takes, one batch. All outputs are in memory at once: 32 MB per image for
            sMLPNet-Small.

    Returns:
        A dict from the layer's name to a NumPy array `(batch, height, width, channels)` in
        float32, in the order of the network: `"stage1_block1_token_mixing"`,
        `"stage1_block1_channel_mixing"`, ..., and after the last block of a stage `"stage1"`, which
        is the last channel mixing's.

    Raises:
        ValueError: If the model has no sMLPNet in it.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3))
    >>> list(keras_smlp.intermediate(model, np.zeros((1, 32, 32, 3))))[:3]
    ['stage1_block1_token_mixing', 'stage1_block1_channel_mixing', 'stage1']
    """
    stages = naming.mixings(model)
    outputs = {layer.name: layer.output for layers in stages.values() for layer in layers}
    answers = PortableModel(model.input, outputs).predict_on_batch(x)
    arrays: dict[str, np.ndarray] = {}
    for stage, layers in stages.items():
        arrays |= {layer.name: answers[layer.name].astype("float32") for layer in layers}
        arrays[f"stage{stage}"] = arrays[layers[-1].name]
    return arrays
