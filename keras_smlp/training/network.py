"""The network that a run trains: its initial weights, its head, what of it is frozen."""

import keras

from keras_smlp import naming
from keras_smlp.checks import shown
from keras_smlp.model import SMLPNet
from keras_smlp.saving import PortableModel
from keras_smlp.weights import identify, loading


def build(config, classes, dtype, channels=3):
    """The network of a configuration, with logits for `classes`.

    A file without a head, or with one for another number of classes, the published ones included,
    fills the body alone; the head is new then.

    Args:
        config: A `config.ModelConfig`.
        classes: Positive integer.
        dtype: Dtype policy.
        channels: Positive integer. Channels of the images. Defaults to `3`.

    Returns:
        The network; of a head that is new although there are weights, the number of classes that
        these have a head for, 0 where they have none, else `None`; and `(height, width, channels)`
        that the weights were trained at, `None` if these fit as they are.

    Raises:
        ValueError: If the weights do not fit; `OSError` if they cannot be read.
    """
    input_shape = (config.input_size, config.input_size, channels)
    architecture = {"expansion": config.expansion, "patch_size": config.patch_size}
    architecture |= config.architecture()
    drop_path_rate = architecture.pop("drop_path_rate")
    source = loading.check(config.weights, **architecture, include_top=False, classes=classes)
    with loading.opened(source) as file:
        if file is not None:
            origin = identify.architecture_of(file)
            check_same(origin, file.path, **architecture)
        network = SMLPNet(
            **architecture,
            input_shape=input_shape,
            classes=classes,
            classifier_activation=None,
            drop_path_rate=drop_path_rate,
            dtype=dtype,
        )
        left_out = trained_at = None
        if file is not None:
            filled = network
            if config.new_head or origin.classes != classes:
                left_out = origin.classes or 0
                filled = PortableModel(network.input, network.get_layer(naming.AVG_POOL).output)
            loading.fill(filled, file)
            # of gray images the stem is that of RGB
            stem = network.get_layer(naming.STEM).kernel.shape[2]
            if origin.input_shape != (*input_shape[:2], stem):
                trained_at = origin.input_shape
    freeze(network, config.freeze)
    return network, left_out, trained_at


def fitted_in_words(trained_at, network):
    """What was done to weights trained at `(height, width, channels)`, for a network."""
    stem, size = network.get_layer(naming.STEM).kernel.shape[2], network.input_shape[1:]
    words = []
    if trained_at[:2] != size[:2]:
        words.append(f"axial kernels resampled from {trained_at} to {size}")
    if trained_at[2] != stem:
        repeated = "" if stem == size[2] else f", which {size[2]} is repeated to,"
        words.append(f"a stem for {stem} channels{repeated} made of that for {trained_at[2]}")
    return ", ".join(words)


def check_same(origin, path, **architecture):
    """Refuses weights of another architecture: the configuration does not follow the file."""
    others = {k: getattr(origin, k) for k, v in architecture.items() if getattr(origin, k) != v}
    if others:
        wanted = ", ".join(f"{name}={architecture[name]}" for name in others)
        found = ", ".join(f"{name}={value}" for name, value in others.items())
        keys = ", ".join(f"--model.{name}" for name in others)
        raise ValueError(
            f"`weights` must be of the configured architecture, {wanted}. Received: {shown(path)} "
            f"with {found} (set {keys}, and --model.variant null)"
        )


def freeze(network, stages):
    """Keeps the stem and the first `stages` stages as they are, their statistics too."""
    for layer in network.layers:
        stage = 1 if layer.name == naming.STEM else naming.stage_of(layer.name)
        if stage and stage <= stages:
            layer.trainable = False


def with_probabilities(network, loss="softmax"):
    """The model that is saved: the network's own layers, and probabilities instead of logits.

    Args:
        network: The network.
        loss: The `train.loss` of the configuration: `"softmax"`, the default, or `"sigmoid"`.

    Returns:
        A `keras_smlp.PortableModel`.
    """
    if loss == "sigmoid":
        last = keras.layers.Activation("sigmoid", name="probabilities", dtype="float32")
    else:
        last = keras.layers.Softmax(name="probabilities", dtype="float32")
    return PortableModel(network.input, last(network.output), name=network.name)
