"""The arithmetic of the layers, in the form that the backend runs fast.

One set of weights and one definition of each operation (`composed.py`); where a backend runs it
slowly, that backend has another form of it, with the same values and gradients
(`tests/layers/test_forms.py` compares them). The layers do not know which one they call.
"""

import keras

from keras_smlp.layers import composed

own = composed
if keras.backend.backend() == "tensorflow":
    from keras_smlp.layers import tensorflow_forms as own
elif keras.backend.backend() == "torch":
    from keras_smlp.layers import torch_forms as own
elif keras.backend.backend() == "jax":
    from keras_smlp.layers import jax_forms as own

NAMES = (
    "tensor",
    "rows",
    "as_map",
    "dense",
    "axial",
    "fuse",
    "unshared",
    "gelu",
    "add",
    "affine",
    "layer_norm",
    "batch_norm",
    "depthwise",
    "patches",
)
globals().update({name: getattr(own, name, getattr(composed, name)) for name in NAMES})
