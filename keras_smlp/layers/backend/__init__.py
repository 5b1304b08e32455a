"""The arithmetic of the layers, as the running backend computes it fastest.

`reference.py` defines each operation by Keras' own, for every backend. Where a backend runs one of
them slowly, its file has another implementation with the same values and gradients, which takes the
place of the reference here; tests/layers/test_backend.py compares the two. May import nothing of
keras_smlp but this folder.
"""

import keras

from keras_smlp.layers.backend.reference import add as add
from keras_smlp.layers.backend.reference import affine as affine
from keras_smlp.layers.backend.reference import as_map as as_map
from keras_smlp.layers.backend.reference import axial as axial
from keras_smlp.layers.backend.reference import batch_norm as batch_norm
from keras_smlp.layers.backend.reference import biased as biased
from keras_smlp.layers.backend.reference import casting as casting
from keras_smlp.layers.backend.reference import copy_if_inplace as copy_if_inplace
from keras_smlp.layers.backend.reference import dense as dense
from keras_smlp.layers.backend.reference import depthwise as depthwise
from keras_smlp.layers.backend.reference import fuse as fuse
from keras_smlp.layers.backend.reference import gelu as gelu
from keras_smlp.layers.backend.reference import layer_norm as layer_norm
from keras_smlp.layers.backend.reference import patches as patches
from keras_smlp.layers.backend.reference import rows as rows
from keras_smlp.layers.backend.reference import tensor as tensor
from keras_smlp.layers.backend.reference import updating_statistics as updating_statistics

if keras.backend.backend() == "tensorflow":
    from keras_smlp.layers.backend.tensorflow import axial as axial
    from keras_smlp.layers.backend.tensorflow import batch_norm as batch_norm
    from keras_smlp.layers.backend.tensorflow import gelu as gelu
    from keras_smlp.layers.backend.tensorflow import layer_norm as layer_norm
    from keras_smlp.layers.backend.tensorflow import patches as patches
elif keras.backend.backend() == "jax":
    from keras_smlp.layers.backend.jax import batch_norm as batch_norm
    from keras_smlp.layers.backend.jax import gelu as gelu
    from keras_smlp.layers.backend.jax import layer_norm as layer_norm
    from keras_smlp.layers.backend.jax import tensor as tensor
    from keras_smlp.layers.backend.jax_products import as_map as as_map
    from keras_smlp.layers.backend.jax_products import axial as axial
    from keras_smlp.layers.backend.jax_products import biased as biased
    from keras_smlp.layers.backend.jax_products import dense as dense
    from keras_smlp.layers.backend.jax_products import depthwise as depthwise
    from keras_smlp.layers.backend.jax_products import fuse as fuse
    from keras_smlp.layers.backend.jax_products import patches as patches
    from keras_smlp.layers.backend.jax_products import rows as rows
elif keras.backend.backend() == "torch":
    from keras_smlp.layers.backend.torch import add as add
    from keras_smlp.layers.backend.torch import affine as affine
    from keras_smlp.layers.backend.torch import as_map as as_map
    from keras_smlp.layers.backend.torch import axial as axial
    from keras_smlp.layers.backend.torch import batch_norm as batch_norm
    from keras_smlp.layers.backend.torch import casting as casting
    from keras_smlp.layers.backend.torch import copy_if_inplace as copy_if_inplace
    from keras_smlp.layers.backend.torch import dense as dense
    from keras_smlp.layers.backend.torch import depthwise as depthwise
    from keras_smlp.layers.backend.torch import fuse as fuse
    from keras_smlp.layers.backend.torch import gelu as gelu
    from keras_smlp.layers.backend.torch import layer_norm as layer_norm
    from keras_smlp.layers.backend.torch import patches as patches
    from keras_smlp.layers.backend.torch import rows as rows
    from keras_smlp.layers.backend.torch import tensor as tensor
    from keras_smlp.layers.backend.torch import updating_statistics as updating_statistics
