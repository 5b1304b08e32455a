"""The image classifier: a backbone, its preprocessor, and the network's head."""

import itertools
from collections.abc import Callable
from os import PathLike
from typing import Any

import keras

from keras_smlp import checks, naming
from keras_smlp.deploy.quantization import MODES
from keras_smlp.hubs.keras_hub.backbone import SMLPNetBackbone, opened, refuse_quantized
from keras_smlp.hubs.keras_hub.needed import keras_hub
from keras_smlp.hubs.keras_hub.preprocessing import (
    SMLPNetImageClassifierPreprocessor,
    SMLPNetImageConverter,
)
from keras_smlp.preprocessing import OFFSET, SCALE, of_channels
from keras_smlp.saving import PortableModel

# in a compile config: whether the file has the optimizer's variables
OPTIMIZER_BUILT = "optimizer_built"
POOLING = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
}


@keras.saving.register_keras_serializable(package="keras_smlp")
class SMLPNetImageClassifier(keras_hub.models.ImageClassifier, PortableModel):
    """KerasHub's image classifier on an sMLPNet: mean over the positions, dense layer.

    It saves and loads as a `keras_smlp.PortableModel`.

    Args:
        backbone: An `SMLPNetBackbone`.
        num_classes: Positive integer. Outputs of the dense layer.
        preprocessor: An `SMLPNetImageClassifierPreprocessor`, another layer or a callable; `None`:
            the images are resized and normalized already. Defaults to `None`.
        pooling: `"avg"` or `"max"`. Defaults to `"avg"`.
        activation: Activation of the dense layer; `None`, the default, gives logits.
        dropout: Float in `[0, 1)`. Rate of the dropout before the dense layer. Defaults to `0.0`.
        head_dtype: Dtype policy of what comes after the backbone. Defaults to the backbone's, but
            float32 where that computes in 16 bits.
        head_quantization: `"int8"`: the dense layer is quantized, as the config of a quantized
            classifier says it. Defaults to `None`.
        **kwargs: `name`, and `compile`: whether to compile it with KerasHub's defaults, which it
            does where this is not `False`.

    Example:

    >>> from keras_smlp.hubs import keras_hub
    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> classifier = keras_hub.SMLPNetImageClassifier.from_keras_smlp(model)
    >>> classifier.predict(np.zeros((2, 40, 50, 3), "uint8"), verbose=0).shape
    (2, 3)
    """

    backbone_cls = SMLPNetBackbone
    preprocessor_cls = SMLPNetImageClassifierPreprocessor

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        preprocessor: Any = None,
        pooling: str = "avg",
        activation: str | Callable | None = None,
        dropout: float = 0.0,
        head_dtype: str | keras.DTypePolicy | None = None,
        head_quantization: str | None = None,
        **kwargs: Any,
    ):
        mode = checks.check_choice("head_quantization", head_quantization, MODES, none=True)
        # KerasHub sets it too, but after it has compiled the model with a loss that depends on it
        self.activation = activation
        super().__init__(
            backbone,
            num_classes,
            preprocessor=preprocessor,
            pooling=pooling,
            activation=activation,
            dropout=dropout,
            head_dtype=head_dtype or head_policy(backbone),
            **kwargs,
        )
        if mode:
            self.output_dense.quantize(mode)

    @classmethod
    def from_keras_smlp(
        cls,
        model: keras.Model | str | PathLike,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ) -> "SMLPNetImageClassifier":
        """A classifier with the weights of a network of this package, or an official checkpoint.

        Its preprocessor resizes, crops and normalizes as `keras_smlp.load_image` and the network
        did together.

        Args:
            model: A model that `keras_smlp.SMLPNet` or a training made, or one that ends as they
                do: pooling, perhaps dropout, a dense layer, perhaps a softmax; or the path of a
                file that `keras_smlp.load_model` reads.
            dtype: Dtype policy of the backbone. Defaults to the model's own.
            **kwargs: `name` and `compile`, as of the constructor.

        Returns:
            An `SMLPNetImageClassifier`, whose weights are a copy.

        Raises:
            ValueError: If the model is no whole sMLPNet with such a classifier, or is folded,
                quantized or has LoRA.
            FileNotFoundError: If `model` is a path where no file is.

        Example:

        >>> from keras_smlp.hubs.keras_hub import SMLPNetImageClassifier
        >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
        >>> SMLPNetImageClassifier.from_keras_smlp(model).num_classes
        3
        """
        model = opened(model)
        pooling, dropout, dense, activation = head_of(model)
        backbone = SMLPNetBackbone.from_keras_smlp(model, dtype)
        height, width, channels = backbone.image_shape
        converter = SMLPNetImageConverter(
            (height, width),
            scale=of_channels(SCALE, channels),
            offset=of_channels(OFFSET, channels),
        )
        classifier = cls(
            backbone,
            dense.units,
            SMLPNetImageClassifierPreprocessor(converter),
            pooling=pooling,
            activation=activation,
            dropout=dropout,
            **kwargs,
        )
        classifier.output_dense.set_weights(dense.get_weights())
        return classifier

    def get_config(self):
        config = super().get_config()
        policy, mode = self.pooler.dtype_policy, self.output_dense.quantization_mode
        if policy != keras.dtype_policies.get(head_policy(self.backbone)):
            config["head_dtype"] = keras.dtype_policies.serialize(policy)
        return {**config, "head_quantization": mode} if mode else config

    def get_compile_config(self):
        config = super().get_compile_config()
        return config and {**config, OPTIMIZER_BUILT: self.optimizer.built}

    def compile_from_config(self, config):
        """As Keras has it, which refuses classes with their own `compile`, as KerasHub's are."""
        config = keras.saving.deserialize_keras_object(config)
        is_built = config.pop(OPTIMIZER_BUILT)
        self.compile(**config)
        if is_built:  # for the values in the file
            self.optimizer.build(self.trainable_variables)

    def save_to_preset(self, preset_dir: str | PathLike, **kwargs: Any) -> None:
        refuse_quantized(self.backbone)
        super().save_to_preset(preset_dir, **kwargs)


def head_policy(backbone):
    """The dtype policy of a classifier's head where none is given."""
    policy = backbone.dtype_policy
    return "float32" if policy.compute_dtype in ("float16", "bfloat16") else policy


def head_of(model):
    """What follows the final normalization of a model: pooling, dropout, dense layer, activation.

    Args:
        model: A model of `opened`.

    Returns:
        `"avg"` or `"max"`, the rate of the dropout, the `keras.layers.Dense`, and its activation or
        that of the layer after it, as it stands in a config.
    """
    pool, *rest = model.layers[len(naming.body(model)) :] or [None]
    pooling = [name for name, kind in POOLING.items() if isinstance(pool, kind)]
    given = [model.get_layer(naming.NORM), pool, *rest]
    is_chain = pooling and all(y.input is x.output for x, y in itertools.pairwise(given))
    dropout = rest.pop(0).rate if rest and isinstance(rest[0], keras.layers.Dropout) else 0.0
    dense, *last = rest or [None]
    functions = [activation_of(x) for x in (dense, *last)]
    used = [x for x in functions if x != "linear"]
    if (
        not is_chain
        or model.output is not given[-1].output
        or not isinstance(dense, keras.layers.Dense)
        or len(last) > 1
        or any(isinstance(x, keras.layers.Dense) for x in last)
        or None in functions
        or len(used) > 1
    ):
        received = checks.received("model", model.name)
        raise ValueError(
            "`model` must end in a pooling, perhaps a dropout, a dense layer and perhaps an "
            f"activation; SMLPNetBackbone takes one without these. Received: {received}"
        )
    return pooling[0], dropout, dense, used[0] if used else None


def activation_of(layer):
    """The activation of a layer as in a config; `None` if it is a layer of another kind."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    if isinstance(layer, (keras.layers.Dense, keras.layers.Activation)):
        return keras.activations.serialize(layer.activation)
    return None
