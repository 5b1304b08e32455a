"""The backbone: the network without its classifier, and its feature pyramid."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import keras

from keras_smlp import checks, naming, shapes
from keras_smlp.analysis.features import stage_ends
from keras_smlp.hubs.keras_hub.needed import keras_hub
from keras_smlp.inference.loading import load_model
from keras_smlp.layers.composite import Composite
from keras_smlp.model import SMLPNet
from keras_smlp.saving import PortableModel
from keras_smlp.weights import identify, keras_files


@keras.saving.register_keras_serializable(package="keras_smlp")
class SMLPNetBackbone(keras_hub.models.FeaturePyramidBackbone, PortableModel):
    """sMLPNet without its classifier, as a backbone of KerasHub.

    It answers with the last feature map, after the network's final normalization. The outputs of
    the stages are its `pyramid_outputs`, by levels `"P2"`, `"P3"`, ... as of
    `keras_smlp.feature_extractor`. It saves and loads as a `keras_smlp.PortableModel`.

    Args:
        dim: Positive integer. Channels of the first stage; each later stage doubles them.
        depths: Sequence of positive integers. Blocks of each stage.
        expansion: Positive integer. Hidden width of the channel mixing, in multiples of the
            channels. Defaults to `3`.
        patch_size: Positive integer, a power of two. Side in pixels of the stem's patches.
            Defaults to `4`.
        drop_path_rate: Float in `[0, 1)`. Stochastic depth of the last block. Defaults to `0.0`.
        image_shape: `(height, width, channels)`, height and width multiples of
            `patch_size * 2 ** (len(depths) - 1)`. The axial kernels depend on it. Defaults to
            `(224, 224, 3)`.
        dtype: Dtype policy of the backbone, or a `keras.dtype_policies.DTypePolicyMap` by the
            paths of its layers. Defaults to the global policy.
        **kwargs: Keyword arguments of a functional `keras.Model`: `name`, `trainable`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_smlp.hubs.keras_hub import SMLPNetBackbone
    >>> backbone = SMLPNetBackbone(8, (1, 1), image_shape=(32, 32, 3))
    >>> {level: x.shape for level, x in backbone.pyramid_outputs.items()}
    {'P2': (None, 8, 8, 8), 'P3': (None, 4, 4, 16)}
    """

    def __init__(
        self,
        dim: int,
        depths: Sequence[int],
        expansion: int = 3,
        patch_size: int = 4,
        drop_path_rate: float = 0.0,
        image_shape: tuple[int, int, int] = shapes.DEFAULT_SHAPE,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ):
        depths = shapes.check_depths(depths)
        patch_size = checks.check_positive_integer("patch_size", patch_size)
        stride = patch_size * 2 ** (len(depths) - 1)
        images = shapes.check_input(None, image_shape, stride, "image_shape")
        network = SMLPNet(
            dim,
            depths,
            expansion=expansion,
            patch_size=patch_size,
            include_top=False,
            input_tensor=images,
            include_preprocessing=False,
            drop_path_rate=drop_path_rate,
            dtype=dtype,
        )
        super().__init__(inputs=network.input, outputs=network.output, **kwargs)
        self.pyramid_outputs = {level: layer.output for level, layer in stage_ends(network).items()}
        self.dim = int(dim)
        self.depths = depths
        self.expansion = int(expansion)
        self.patch_size = patch_size
        self.drop_path_rate = float(drop_path_rate)
        self.image_shape = tuple(images.shape[1:])
        self.data_format = "channels_last"  # KerasHub's classifier asks for it

    @classmethod
    def from_keras_smlp(
        cls,
        model: keras.Model | str | PathLike,
        dtype: str | keras.DTypePolicy | None = None,
        **kwargs: Any,
    ) -> "SMLPNetBackbone":
        """A backbone with the weights of a network of this package, or of an official checkpoint.

        Args:
            model: A model that `keras_smlp.SMLPNet` made or one built on its tensors, with or
                without a classifier; or a path or an address that `keras_smlp.load_model` takes. A
                normalization of the pixels inside it is left out: it is the preprocessor's here.
            dtype: Dtype policy of the backbone. Defaults to the model's own.
            **kwargs: Keyword arguments of a functional `keras.Model`: `name`, `trainable`.

        Returns:
            An `SMLPNetBackbone`, whose weights are a copy.

        Raises:
            ValueError: If the model is no whole sMLPNet, or is folded, quantized or has LoRA.
            FileNotFoundError: If `model` is a path where no file is.

        Example:

        >>> from keras_smlp.hubs.keras_hub import SMLPNetBackbone
        >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3))
        >>> SMLPNetBackbone.from_keras_smlp(model).output_shape
        (None, 4, 4, 16)
        """
        model = opened(model)
        found = identify.from_keras(
            {
                name: tuple(variable.shape)
                for name, (variable, _) in keras_files.targets(model).items()
            }
        )
        last = [layer for layers in naming.mixings(model).values() for layer in layers][-1]
        backbone = cls(
            found.dim,
            found.depths,
            expansion=found.expansion,
            patch_size=found.patch_size,
            drop_path_rate=last.drop_path.rate,
            image_shape=found.input_shape,
            dtype=last.dtype_policy if dtype is None else dtype,
            **kwargs,
        )
        for layer in backbone.layers:
            if layer.weights:
                layer.set_weights(model.get_layer(layer.name).get_weights())
        return backbone

    def policies(self):
        """The dtype policy; a map by paths if layers or their parts have others (8 bits)."""
        found = {}
        for layer in self.layers[1:]:  # the first is the input
            found[layer.name] = layer.dtype_policy
            if isinstance(layer, Composite):
                found |= {
                    f"{layer.name}/{path}": x.dtype_policy for path, x, _ in layer.all_parts()
                }
        default = self.dtype_policy
        others = {path: policy for path, policy in found.items() if policy != default}
        return keras.dtype_policies.DTypePolicyMap(default.name, others) if others else default

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "depths": self.depths,
            "expansion": self.expansion,
            "patch_size": self.patch_size,
            "drop_path_rate": self.drop_path_rate,
            "image_shape": self.image_shape,
            "dtype": keras.dtype_policies.serialize(self.policies()),
        }

    def default_lora_layer_names(self):
        return ["fuse", "dense1", "dense2"]

    def save_to_preset(self, preset_dir: str | PathLike, **kwargs: Any) -> None:
        refuse_quantized(self)
        super().save_to_preset(preset_dir, **kwargs)


def opened(model):
    """The model itself, or the one in a file; refuses what has not all plain weights."""
    if not isinstance(model, keras.Model):
        checks.check_path("model", model, "a Keras model or the path of a file")
        try:
            model = load_model(model, compile=False)  # as it is: an address is no path
        except (ValueError, FileNotFoundError) as error:  # it calls this argument `path`
            words = str(error).replace("`path`", "`model`", 1)
            raise type(error)(words.replace("Received: path=", "Received: model=", 1)) from error
    naming.refuse(model, "folded", "quantized", "adapted by LoRA")
    if naming.NORM not in {layer.name for layer in model.layers}:
        raise ValueError(
            f"`model` must be whole, up to its layer {naming.NORM!r}. "
            f"Received: {checks.received('model', model.name)}"
        )
    return model


def refuse_quantized(backbone):
    """Refuses to write a preset that KerasHub could not read.

    It reads the config of a preset's backbone with another `dtype`, so that which layers are
    quantized is lost.
    """
    if isinstance(backbone.policies(), keras.dtype_policies.DTypePolicyMap):
        raise ValueError(
            "KerasHub cannot read the preset of a backbone with more than one dtype policy, such "
            f"as a quantized one; `save` to a `.keras` file. Received: {backbone.name!r}"
        )
