"""The dense layer inside the blocks: Keras' own, whose LoRA products survive saving."""

import keras
import numpy as np
from keras import ops

from keras_smlp.layers.initializers import TorchUniform

# how the names of what Keras does not save begin; its own are numbers
OWN = "own_"
ALPHA = f"{OWN}lora_alpha"


@keras.saving.register_keras_serializable(package="keras_smlp")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense`, whose LoRA products survive saving.

    Keras saves the sum of the kernel and the low-rank products, and loads it with both factors
    zero, which no gradient can change. This layer saves the sum, for networks without LoRA, and
    also each variable as it is. Weights of a layer without LoRA leave the first factor as it was.
    """

    def enable_lora(self, rank, lora_alpha=None, a_initializer=None, b_initializer="zeros"):
        """As Keras has it; the initial values of the first factor are by default PyTorch's."""
        lora_alpha = self.lora_alpha if lora_alpha is None else lora_alpha  # of the config
        a_initializer = a_initializer or TorchUniform(self.kernel.shape[0])
        super().enable_lora(rank, lora_alpha, a_initializer, b_initializer)

    def quantize(self, mode=None, type_check=True, **kwargs):
        # Keras takes no subclass, for it may compute something else
        super().quantize(mode, type_check=False, **kwargs)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.lora_enabled:
            store[ALPHA] = np.float32(self.lora_alpha)
            for variable in self.variables:
                store[OWN + variable.name] = variable

    def load_own_variables(self, store):
        first = ops.convert_to_numpy(self.lora_kernel_a).copy() if self.lora_enabled else None
        super().load_own_variables({key: store[key] for key in filter(str.isdigit, store.keys())})
        if first is None:
            return
        self.lora_kernel_a.assign(first)
        if self.has_saved(store):
            for variable in self.variables:
                variable.assign(store[OWN + variable.name])

    def has_saved(self, store):
        """Whether a store is of a layer with the same variables and weight of the products."""
        return (
            ALPHA in store
            and store[ALPHA] == np.float32(self.lora_alpha)
            and all(
                OWN + x.name in store and store[OWN + x.name].shape == x.shape
                for x in self.variables
            )
        )
