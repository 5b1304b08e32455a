"""Base of layers made of other layers: how it calls them, and what it saves of their state."""

from typing import Any

import keras
from keras import ops

from keras_smlp.checks import check_unquantized, shown
from keras_smlp.layers import backend
from keras_smlp.layers.dense import Dense

# characters of a pattern, which a key of a Keras policy map may be
PATTERN = frozenset("*+?[](){}|^$\\")


class Composite(keras.Layer):
    """Base of the layers that are made of named sublayers, their parts.

    Keras saves nothing of a part but its weights. What else has been changed in one must stand in
    this layer's config, or it would not survive saving, cloning and pickling:

    - Keras gives a quantized layer a dtype policy of its own. Where a part has another policy than
      this layer, the config's `dtype` is a `DTypePolicyMap`, from the part's path (`"dense1"`,
      `"mix/fuse"`) to the part's policy.
    - The config's `parts` says which parts, and which of their variables, are trainable where the
      layer around them is not, or the other way round, and which dense layers have LoRA.

    A subclass creates its parts in `build_parts`.

    Args:
        dtype: Dtype policy of the layer and its parts, or such a map. The keys of the map may also
            be the paths of layers in a model, as Keras and KerasHub write them; those of other
            layers are left out. Defaults to the global policy.
        parts: Dict or `None`. The entry `parts` of a config.
        **kwargs: Keyword arguments of `keras.Layer`, such as `name`.

    Raises:
        ValueError: If a key of the map or of `parts` names no part, or the layer's own policy is
            quantized.
    """

    PARTS: tuple[str, ...] = ()  # the attributes that hold them

    def __init__(self, dtype: Any = None, parts: dict | None = None, **kwargs: Any):
        policy = keras.dtype_policies.get(dtype)
        others: dict[str, Any] = {}
        if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
            policy, others = self.own_policies(policy, kwargs.get("name"))
        super().__init__(dtype=policy, **kwargs)
        check_unquantized(self)
        self.given_policies = others
        parts = parts or {}
        self.given_flags = dict(parts.get("trainable", {}))
        self.given_lora = dict(parts.get("lora", {}))
        unknown = [x for y in parts.values() for x in y if x.split("/")[0] not in self.PARTS]
        if unknown:
            raise ValueError(
                f"`parts` of a {type(self).__name__} must be what its config has, with paths that "
                f"begin with one of {self.PARTS}. Received: {shown(unknown)}"
            )

    def own_policies(self, policies, name):
        """This layer's share of a map of policies.

        Args:
            policies: A `DTypePolicyMap`. Its keys are paths of parts, such as `dense1`, or of
                layers in a model, which begin with the name of the layer that has the part, such
                as `stage1_block1_channel_mixing/dense1`.
            name: String or `None`. This layer's name.

        Returns:
            This layer's own policy, and a dict from a part's path to the part's policy.
        """
        every = {key: keras.dtype_policies.get(policy) for key, policy in policies.items()}
        relative = {key for key in every if self.is_part(key, name)}
        # Keras writes the policies of quantized layers
        of_model = any("/" in x or every[x].quantization_mode for x in every.keys() - relative)
        found: dict[str, Any] = {}
        unknown = []
        for key, policy in every.items():
            path, known = key, (key in relative) != of_model and not PATTERN & set(key)
            if known and of_model:
                _, mine, path = f"/{key}/".partition(f"/{name}/")
                if not mine:
                    continue
                path = path.rstrip("/")
            known = known and (not path or path.split("/")[0] in self.PARTS)
            if not known or found.setdefault(path, policy) != policy:
                unknown.append(key)
        if unknown:
            raise ValueError(
                f"`dtype` of a {type(self).__name__} must be a policy or a map whose keys begin "
                f"with one of {self.PARTS}, or are all paths of layers in a model. "
                f"Received: {shown(unknown)}"
            )
        return found.pop("", policies.default_policy), found

    def is_part(self, path, name):
        """Whether a path begins with a part's name, of this layer or of another with parts."""
        first = path.split("/")[0]
        kinds = Composite.__subclasses__()
        for kind in kinds:
            kinds += kind.__subclasses__()
        return first in self.PARTS or (first != name and any(first in x.PARTS for x in kinds))

    def build(self, input_shape):
        self.build_parts(input_shape)
        self.restore(self.given_flags, self.given_lora)

    def build_parts(self, input_shape):
        """Creates and builds the parts; those that `__init__` created are built already."""
        raise NotImplementedError

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
        if type(part) is Dense:
            return backend.dense(x, backend.tensor(part.kernel, x), backend.tensor(part.bias, x))
        return part.call(x, **kwargs)

    def all_parts(self):
        """Path, part and the layer around it, for each part and each part of a part."""
        for name in self.PARTS:
            part = getattr(self, name)
            yield name, part, self
            if isinstance(part, Composite):
                for path, inner, outer in part.all_parts():
                    yield f"{name}/{path}", inner, outer

    def shares_policy(self, part):
        """Whether a part has this layer's policy: a quantized one has not."""
        return part.dtype_policy == self.dtype_policy

    def other_policies(self):
        """The policies of the parts that have another than the layer, by path."""
        if not self.built:
            return dict(self.given_policies)
        return {
            path: part.dtype_policy
            for path, part, outer in self.all_parts()
            if not outer.shares_policy(part)
        }

    @property
    def trainable(self):
        """Boolean, whether this layer should be trainable. Setting it sets it for all parts."""
        return super().trainable

    @trainable.setter
    def trainable(self, value):
        keras.Layer.trainable.fset(self, value)
        if not self.built:
            self.given_flags.clear()

    def flags(self):
        """Which parts and variables, by path, differ in `trainable` from the layer around them."""
        if not self.built:
            return dict(self.given_flags)
        found = {}
        for path, part, outer in self.all_parts():
            if part.trainable != outer.trainable:
                found[path] = part.trainable
            if not isinstance(part, Composite):
                apart = [v for v in part.weights if differs(v, part)]
                found |= {f"{path}/{v.name}": v.trainable for v in apart}
        return found

    def lora(self):
        """The `[rank, alpha]` of the dense layers that have low-rank products, by path."""
        if not self.built:
            return dict(self.given_lora)
        return {
            path: [int(part.lora_rank), float(part.lora_alpha)]
            for path, part, _ in self.all_parts()
            if getattr(part, "lora_enabled", False)
        }

    def restore(self, flags, lora):
        """Gives the new parts what `flags` and `lora` returned."""
        for path, part, outer in self.all_parts():
            part.trainable = flags.get(path, outer.trainable)
            if isinstance(part, Composite):
                continue
            if path in lora:
                rank, alpha = lora[path]
                part.enable_lora(rank, lora_alpha=alpha)
            for variable in part.weights:
                key = f"{path}/{variable.name}"
                variable.trainable = flags.get(key, variable.trainable)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config, others = super().get_config(), self.other_policies()
        if others:
            policies = keras.dtype_policies.DTypePolicyMap(self.dtype_policy.name, others)
            config["dtype"] = keras.dtype_policies.serialize(policies)
        state = {"trainable": self.flags(), "lora": self.lora()}
        if parts := {key: found for key, found in state.items() if found}:
            config["parts"] = parts
        return config


def products(layer):
    """The kernels and biases that a layer and its parts multiply in another dtype than their own.

    Those of dense layers that are quantized or have LoRA are left out: Keras reads them.
    """
    parts = [x for _, x, _ in layer.all_parts()] if isinstance(layer, Composite) else [layer]
    for part in parts:
        mixed = part.compute_dtype != part.variable_dtype
        if mixed and not part.quantization_mode and not getattr(part, "lora_enabled", False):
            both = (getattr(part, name, None) for name in ("kernel", "bias"))
            yield from (x for x in both if isinstance(x, keras.Variable))


def differs(variable, layer):
    """Whether somebody set a variable's `trainable` apart from its layer's."""
    name = variable.name
    never = name.startswith("moving_") or name == "kernel_scale" or "int" in variable.dtype
    of_sum = name == "kernel" and getattr(layer, "lora_enabled", False)
    return variable.trainable != (layer.trainable and not never and not of_sum)
