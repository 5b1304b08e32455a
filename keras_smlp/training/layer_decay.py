"""Layer-wise learning-rate decay: the first layers of a network learn more slowly than the last."""

import keras
from keras import ops

from keras_smlp import naming

BACKEND = keras.backend.backend()


def layer_factors(network, decay):
    """The factor of the learning rate of each layer, as BEiT and timm have it.

    Of `n` blocks the `i`th, from 1, gets `decay ** (n + 1 - i)`, the stem `decay ** (n + 1)`, the
    final norm and the head 1. The downsampling before a stage goes with its first block, as in
    timm's networks of stages.

    Args:
        network: What `keras_smlp.SMLPNet` returned.
        decay: Float in `(0, 1]`.

    Returns:
        Dict from the names of layers to floats; layers that it does not name have the factor 1.

    Reference:
        [BEiT](https://arxiv.org/abs/2106.08254); timm's `param_groups_layer_decay`.
    """
    of_stage = naming.mixings(network)
    left = sum(len(layers) // 2 for layers in of_stage.values())  # blocks from this one on
    factors = {naming.STEM: decay ** (left + 1)}
    for stage, layers in of_stage.items():
        factors[naming.downsample(stage)] = decay**left
        for i, layer in enumerate(layers):
            factors[layer.name] = decay ** (left - i // 2)
        left -= len(layers) // 2
    return factors


def with_factors(kind, factors):
    """A class of optimizers with a factor of the learning rate for each layer.

    Keras' optimizers have one learning rate. What an update of AdamW adds to a variable, its decay
    included, is proportional to it: so each update is made in full, and that part of it kept.

    Args:
        kind: Class of Keras' optimizers whose updates are proportional to the learning rate.
        factors: What `layer_factors` returned.

    Returns:
        A subclass whose optimizers have the same variables.
    """
    return type(kind.__name__, (LayerFactors, kind), {"factors": factors})


class LayerFactors:
    """What `with_factors` adds to the class of an optimizer."""

    factors: dict[str, float]

    def build(self, variables):
        super().build(variables)  # type: ignore[misc]
        of_factor: dict[float, list] = {}
        for variable in variables:
            factor = self.factors.get(variable.path.partition("/")[0], 1.0)
            if factor != 1:
                of_factor.setdefault(factor, []).append(variable)
        groups = list(of_factor.items())
        # a function: variables in an attribute would be saved as the optimizer's own
        self.groups = lambda: groups

    def apply(self, grads, trainable_variables=None):
        groups = self.groups()
        before = [[ops.copy(v) for v in variables] for _, variables in groups]
        super().apply(grads, trainable_variables)  # type: ignore[misc]
        for (factor, variables), old in zip(groups, before, strict=True):
            keep_part(factor, variables, old)


def keep_part(factor, variables, old):
    """Moves variables back to a part of the way from their old values."""
    if BACKEND == "torch":  # by one operation
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        get_ema_multi_avg_fn(factor)([x.value.detach() for x in variables], old, None)
        return
    for variable, value in zip(variables, old, strict=True):
        variable.assign(value + factor * (variable - value))
