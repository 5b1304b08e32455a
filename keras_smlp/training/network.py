"""The network that a run trains: its initial weights, its head, what of it is frozen."""

import keras

from keras_smlp import naming
from keras_smlp.checks import check_policy
from keras_smlp.model import SMLPNet, classifier
from keras_smlp.saving import PortableModel
from keras_smlp.variants import VARIANTS
from keras_smlp.weights.identify import infer


def build(config, classes, dtype):
    """The network of a configuration, with logits for `classes`.

    A file with a head for another number of classes, the published ones included, gives the body
    alone; the head is new then.

    Args:
        config: A `config.ModelConfig`.
        classes: Positive integer.
        dtype: Dtype policy.

    Returns:
        The network; the number of classes of the head that was left out, `None` if none was; and
        `(height, width, channels)` that the weights were trained at, `None` if at this size.

    Raises:
        ValueError: If the weights do not fit; `OSError` if they cannot be read.
    """
    input_shape = (config.input_size, config.input_size, 3)
    arguments = {
        **config.architecture(),
        "expansion": config.expansion,
        "patch_size": config.patch_size,
        "input_shape": input_shape,
        "weights": config.weights,
        "dtype": dtype,
    }
    found, trained_at = origin(config.weights)
    if found in (None, classes) and not config.new_head:
        network = SMLPNet(**arguments, classes=classes, classifier_activation=None)
        found = None
    else:
        body = SMLPNet(**arguments, include_top=False, pooling="avg")
        logits = classifier(body.output, classes, None, check_policy(dtype))
        network = PortableModel(body.input, logits, name=body.name)
    freeze(network, config.freeze)
    return network, found, None if trained_at == input_shape else trained_at


def origin(weights):
    """Classes and input shape of the network in a weights file; `None` where there is none."""
    if weights is None:
        return None, None
    if weights == "imagenet":
        published = next(iter(VARIANTS.values()))
        return published.classes, (published.input_size, published.input_size, 3)
    architecture = infer(weights)
    return architecture.classes, architecture.input_shape


def freeze(network, stages):
    """Keeps the stem and the first `stages` stages as they are, their statistics too."""
    for layer in network.layers:
        stage = 1 if layer.name == naming.STEM else naming.stage_of(layer.name)
        if stage and stage <= stages:
            layer.trainable = False


def with_probabilities(network):
    """The model that is saved: the network's own layers, and probabilities instead of logits."""
    softmax = keras.layers.Softmax(name="probabilities", dtype="float32")
    return PortableModel(network.input, softmax(network.output), name=network.name)
