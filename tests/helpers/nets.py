"""Small networks and their images; one network in each state that folding and others refuse."""

import functools

import keras
import numpy as np

import keras_smlp
from keras_smlp import naming
from reference import stand_in

BACKEND = keras.backend.backend()
FORMATS = (".pth", ".safetensors", ".weights.h5", ".keras")
SMALL = {"dim": 8, "depths": (1, 1), "input_shape": (16, 32, 3), "classes": 5}


def build(variant="micro", **arguments):
    """A network without preprocessing that answers with logits, as the golden files do."""
    dim, depths, side, classes = stand_in.VARIANTS[variant]
    own = {"input_shape": (side, side, 3), "classes": classes, "include_preprocessing": False}
    return keras_smlp.SMLPNet(dim, depths, **{**own, "classifier_activation": None, **arguments})


@functools.cache
def published(name):
    """The network of a published size, with random weights. Shared: do not change it."""
    return getattr(keras_smlp, f"SMLPNet{name.capitalize()}")()


def trained_like(model, seed=0):
    """The model, with every weight drawn as if it had been trained."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = variable.shape
        if variable.name in ("gamma", "moving_variance"):
            values = rng.uniform(0.5, 1.5, shape)
        elif variable.name == "kernel":
            summed = shape[:2] if shape[-1] == 1 else shape[:-1]  # a depthwise kernel ends in 1
            values = rng.uniform(-1, 1, shape) / np.sqrt(np.prod(summed))
        else:
            values = rng.normal(0, 0.3, shape)
        variable.assign(values)
    return model


def net(**arguments):
    """A small network whose logits are not squeezed by a softmax."""
    return trained_like(keras_smlp.SMLPNet(**{**SMALL, "classifier_activation": None, **arguments}))


def pixels(*shape, dtype="uint8"):
    """Random images with values from 0 to 255, by default a batch for `net()`."""
    shape = shape or (3, *SMALL["input_shape"])
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def draw(*shape):
    """Normally distributed float32 values, from the seed that every test begins with."""
    return np.random.normal(size=shape).astype("float32")


def to_train(**arguments):
    """A network of two blocks with logits of four classes, and images for it: `to_train_on`."""
    own = {"input_shape": (16, 16, 3), "patch_size": 2, "classes": 4}
    return keras_smlp.SMLPNet(8, (1, 1), classifier_activation=None, **own, **arguments)


def to_train_on(count):
    """The first images of an endless series, float32 (count, 16, 16, 3), and their labels."""
    x = np.random.default_rng(3).integers(0, 256, (count, 16, 16, 3)).astype("float32")
    return x, (np.arange(count) % 4).astype("int32")


def compiled():
    model = net()
    model.compile("sgd", "mse")
    return model


def adapted():
    model = net()
    keras_smlp.enable_lora(model, 2)
    return model


def quantized():
    model = net()
    keras_smlp.quantize(model)
    return model


def folded():
    return keras_smlp.fold(net())


def other():
    """A model that is no sMLPNet."""
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def linear():
    """A model of one weight that saves as an sMLPNet does."""
    inputs = keras.Input((1,))
    return keras_smlp.PortableModel(inputs, keras.layers.Dense(1, use_bias=False)(inputs))


def answer(model, images):
    """What a model answers at inference, as NumPy arrays; no graph is traced or compiled for it."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(images, training=False))


def drop_path_states(model):
    """The random states of the blocks that drop a path."""
    mixings = [layer for layers in naming.mixings(model).values() for layer in layers]
    states = [x.drop_path.seed_generator.state for x in mixings if x.drop_path.rate]
    return [np.copy(keras.ops.convert_to_numpy(state)) for state in states]


def assert_same_weights(found, expected):
    """Both models hold the same values, in the same order."""
    np.testing.assert_equal(found.get_weights(), expected.get_weights())


def save(model, path):
    """Saves a model in the format that the path ends with."""
    by_ending = {".keras": model.save, ".h5": model.save_weights}
    by_ending.get(path.suffix, lambda path: keras_smlp.save_official(model, path))(path)


def saved_in_each_format(model, folder):
    """Ending -> path of the model's weights."""
    paths = {ending: folder / f"model{ending}" for ending in FORMATS}
    for path in paths.values():
        save(model, path)
    return paths
