"""A layer made of other layers, in which a quantized part survives saving and loading."""

import keras


class Composite(keras.Layer):
    """Base of the layers that are made of named sublayers, their parts.

    Keras gives a quantized layer a dtype policy of its own. Those of the parts belong to the config
    of this layer, or a quantized file would not load: it carries a `DTypePolicyMap` from a part's
    path below this layer (`"dense1"`, `"mix/fuse"`) to its policy, where it has another.

    Args:
        dtype: Dtype policy of the layer and its parts, or such a map. Defaults to the global one.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`.

    Raises:
        ValueError: If a key of the map names no part.
    """

    PARTS = ()

    def __init__(self, dtype=None, **kwargs):
        policy, others = keras.dtype_policies.get(dtype), {}
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
        self.given_policies = others

    def part(self, name):
        """The arguments that a part is made with: its name and its policy (or map of policies)."""
        policy, prefix = self.given_policies.get(name, self.dtype_policy), f"{name}/"
        below = {
            path.removeprefix(prefix): other
            for path, other in self.given_policies.items()
            if path.startswith(prefix)
        }
        if below:
            policy = keras.dtype_policies.DTypePolicyMap(policy.name, below)
        return {"name": name, "dtype": policy}

    def other_policies(self):
        """The policies of the parts that have another than the layer, by path."""
        if not self.built:
            return dict(self.given_policies)
        found = {}
        for name in self.PARTS:
            part = getattr(self, name)
            if part.dtype_policy != self.dtype_policy:
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
