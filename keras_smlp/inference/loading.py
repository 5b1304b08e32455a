"""Any file of an sMLPNet -> the model, its architecture read off the file."""

from os import PathLike

import keras

from keras_smlp.checks import check_boolean, check_text
from keras_smlp.model import SMLPNet
from keras_smlp.weights import identify, loading


def load_model(path: str | PathLike, compile: bool = True, key: str = "model") -> keras.Model:
    """Loads a model from any file of this package, or from an official checkpoint.

    A `.keras` file holds the whole model, with layers of your own and as it was compiled. For the
    weights in other files an `SMLPNet` is built whose architecture is read off their shapes, its
    classifier, if there is one, with softmax.

    Args:
        path: Path of a `.keras`, `.weights.h5`, `.safetensors` or `.pth` file, the last two with
            the official keys.
        compile: Boolean. Whether to compile a model that was saved compiled. Defaults to `True`.
        key: String. Which entry holds the weights, if a `.pth` file is a whole training checkpoint.
            Defaults to `"model"`.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If the path has another ending, or the file is damaged or holds no sMLPNet.
        FileNotFoundError: If there is no such file.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> model.save_weights("mine.weights.h5")
    >>> keras_smlp.load_model("mine.weights.h5").output_shape
    (None, 3)
    """
    compile = check_boolean("compile", compile)
    key = check_text("key", key)
    file = loading.check_path(path, "path")
    if file.suffix == ".keras":
        return keras.saving.load_model(file, compile=compile)
    weights = identify.read(file, key)
    architecture = identify.architecture_of(weights)
    return loading.fill(SMLPNet(**architecture.arguments()), weights)
