"""The paper's sparse MLP: linear layers along the width and the height, and their fusion."""

from typing import Any

import keras
from keras import ops

from keras_smlp.checks import check_boolean, check_choice, check_initializer, check_unquantized
from keras_smlp.layers import backend
from keras_smlp.layers.composite import Composite
from keras_smlp.layers.dense import Dense
from keras_smlp.layers.initializers import TorchUniform
from keras_smlp.shapes import check_map

AXES = ("height", "width")


@keras.saving.register_keras_serializable(package="keras_smlp")
class AxialLinear(keras.Layer):
    """A linear layer along one spatial axis, shared by all rows (or columns) and all channels.

    With `axis="width"`, `y[b, h, v, c] = sum_w kernel[v, w] * x[b, h, w, c] + bias[v]`; with
    `axis="height"` the same along the columns.

    Args:
        axis: `"height"` or `"width"`. The axis that is mixed.
        use_bias: Boolean. Whether to add one bias per output position. Defaults to `True`.
        kernel_initializer: Keras initializer of the kernel. `None` (default) is PyTorch's,
            U(-1/sqrt(size), 1/sqrt(size)), as in the official network.
        bias_initializer: Keras initializer of the bias. `None` (default) is the same distribution.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Input shape:
        `(batch, height, width, channels)`. The size of the mixed axis and the channels must be
        known when the layer is built; height and width may differ.

    Output shape:
        The input's.

    Raises:
        ValueError: If `axis` is neither of the two, another argument is invalid, or the input has
            another rank or an unknown size.

    Reference:
        [Sparse MLP for Image Recognition](https://arxiv.org/abs/2109.05422), section 3.2;
        `proj_h` (width) and `proh_w` (height) in the official `models/smlp.py`.

    Example:

    >>> x = np.zeros((2, 8, 12, 16), "float32")
    >>> layer = keras_smlp.layers.AxialLinear("width")
    >>> tuple(layer(x).shape), tuple(layer.kernel.shape)
    ((2, 8, 12, 16), (12, 12))
    """

    def __init__(
        self,
        axis: str,
        use_bias: bool = True,
        kernel_initializer: str | keras.Initializer | None = None,
        bias_initializer: str | keras.Initializer | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_unquantized(self)
        self.axis = check_choice("axis", axis, AXES)
        self.use_bias = check_boolean("use_bias", use_bias)
        self.kernel_initializer = check_initializer("kernel_initializer", kernel_initializer)
        self.bias_initializer = check_initializer("bias_initializer", bias_initializer)

    def build(self, input_shape):
        check_map(self, input_shape, self.axis, "channels")
        axis = 1 + AXES.index(self.axis)
        size = input_shape[axis]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={axis: size})
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size),
            initializer=self.kernel_initializer or TorchUniform(size),
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(size,),
                initializer=self.bias_initializer or TorchUniform(size),
            )

    def call(self, x):
        kernel, bias = backend.tensor(self.kernel, x), backend.tensor(self.bias, x)
        return backend.axial(x, kernel, bias, self.axis)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "axis": self.axis,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_smlp")
class SparseMLP(Composite):
    """The sparse MLP (sMLP): token mixing along rows and columns, fused with the identity.

    `fuse(concat([x, width(x), height(x)]))`, where `width` and `height` are `AxialLinear` layers
    and `fuse` is a dense layer on the channels, `3 * channels -> channels`, without a bias. Each
    output position sees its own row and column; two such layers see the whole feature map.

    Args:
        **kwargs: Keyword arguments of `keras.Layer`, such as `name` and `dtype`.

    Input shape:
        `(batch, height, width, channels)`, all but the batch known; height and width may differ.

    Output shape:
        The input's.

    Raises:
        ValueError: If the input has another rank or an unknown size.

    Reference:
        [Sparse MLP for Image Recognition](https://arxiv.org/abs/2109.05422), section 3.2;
        `sMLPBlock` in the official `models/smlp.py`, whose order of concatenation and fusion
        without a bias (the paper's pseudo-code has others) made the published weights.

    Example:

    >>> x = np.zeros((2, 8, 12, 16), "float32")
    >>> tuple(keras_smlp.layers.SparseMLP()(x).shape)
    (2, 8, 12, 16)
    """

    PARTS = ("width", "height", "fuse")

    def build_parts(self, input_shape):
        height, width, channels = check_map(self, input_shape, "height", "width", "channels")
        self.input_spec = keras.layers.InputSpec(shape=(None, height, width, channels))
        self.width = AxialLinear("width", **self.part_arguments("width"))
        self.height = AxialLinear("height", **self.part_arguments("height"))
        self.fuse = Dense(
            channels,
            use_bias=False,
            kernel_initializer=TorchUniform(3 * channels),
            **self.part_arguments("fuse"),
        )
        self.width.build(input_shape)
        self.height.build(input_shape)
        self.fuse.build((None, height, width, 3 * channels))

    def call(self, x):
        branches = [x, self.run(self.width, x), self.run(self.height, x)]
        if self.shares_policy(self.fuse):
            return backend.fuse(branches, backend.tensor(self.fuse.kernel, x))
        return self.run(self.fuse, ops.concatenate(branches, axis=-1))
