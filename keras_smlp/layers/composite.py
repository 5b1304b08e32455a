"""Base of layers made of other layers: how it calls them, and saves those that are quantized."""

from typing import Any

import keras
from keras import ops

from keras_smlp.checks import check_unquantized
from keras_smlp.layers import backend


class Composite(keras.Layer):
    """Base of the layers that are made of named sublayers, their parts.

    Keras gives a quantized layer a dtype policy of its own. Where a part has another policy than
    this layer, this layer's config must say so, or a quantized file would not load: its `dtype` is
    then a `DTypePolicyMap`, from the part's path (`"dense1"`, `"mix/fuse"`) to the part's policy.

    Args:
        dtype: Dtype policy of the layer and its parts, or such a map. Defaults to the global one.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`.

    Raises:
        ValueError: If a key of the map names no part, or the layer's own policy is quantized.
    """

    PARTS: tuple[str, ...] = ()  # the attributes that hold them

    def __init__(self, dtype: Any = None, **kwargs: Any):
        policy = keras.dtype_policies.get(dtype)
        others: dict[str, Any] = {}
        if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
            others = {path: keras.dtype_policies.get(other) for path, other in policy.items()}
            policy = policy.default_policy
        unknown = [path for path in others if path.split("/")[0] not in self.PARTS]
        if unknown:
            raise ValueError(
                f"`dtype` of a {type(self).__name__} must be a policy or a map whose keys begin "
                f"with one of {self.PARTS}. Received: {unknown}"
            )
        super().__init__(dtype=policy, **kwargs)
        check_unquantized(self)
        self.given_policies = others

    def part_arguments(self, name):
        """What a part's constructor is called with: its name and its policy, or map of policies."""
        policy: Any = self.given_policies.get(name, self.dtype_policy)
        prefix = f"{name}/"
        below = {
            path.removeprefix(prefix): other
            for path, other in self.given_policies.items()
            if path.startswith(prefix)
        }
        if below:
            policy = keras.dtype_policies.DTypePolicyMap(policy.name, below)
        return {"name": name, "dtype": policy}

    def run(self, part, x, **kwargs):
        """Calls a part; by its `call`, without `Layer.__call__`, where its policy is this layer's.

        `Layer.__call__` would repeat what this layer's own has done: cast the inputs, open the
        autocast scope, resolve `training`. On PyTorch that costs more than a small layer's
        arithmetic. A part with another policy (quantized, or kept in float32) needs it all.

        Args:
            part: A built part; a `keras.layers.Dense` takes rows `(n, channels)` here.
            x: Tensor in this layer's compute dtype.
            **kwargs: Call arguments of the part, `training` among them where it takes one.

        Returns:
            A tensor in this layer's compute dtype. Unless it is `x`, it may be overwritten.
        """
        if not self.shares_policy(part):
            y = ops.cast(part(x, **kwargs), self.compute_dtype)
            return backend.copy_if_inplace(y)  # a hook of the part may hold what it returned
        if type(part) is keras.layers.Dense:
            return backend.dense(x, backend.tensor(part.kernel, x), backend.tensor(part.bias, x))
        return part.call(x, **kwargs)

    def shares_policy(self, part):
        """Whether a part has this layer's policy: a quantized one has not."""
        return part.dtype_policy == self.dtype_policy

    def other_policies(self):
        """The policies of the parts that have another than the layer, by path."""
        if not self.built:
            return dict(self.given_policies)
        found = {}
        for name in self.PARTS:
            part = getattr(self, name)
            if not self.shares_policy(part):
                found[name] = part.dtype_policy
            if isinstance(part, Composite):
                found |= {f"{name}/{path}": x for path, x in part.other_policies().items()}
        return found

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config, others = super().get_config(), self.other_policies()
        if others:
            policies = keras.dtype_policies.DTypePolicyMap(self.dtype_policy.name, others)
            config["dtype"] = keras.dtype_policies.serialize(policies)
        return config
