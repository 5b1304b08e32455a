"""Any file of an sMLPNet -> the model, its architecture read off the file."""

from os import PathLike

import keras

from keras_smlp import naming
from keras_smlp.checks import check_boolean, check_policy, check_text, shown
from keras_smlp.model import SMLPNet
from keras_smlp.weights import hub, identify, keras_files, loading
from keras_smlp.weights.stored import reason
from keras_smlp.weights.strict import check_finite


def load_model(path: str | PathLike, compile: bool = True, key: str = "model") -> keras.Model:
    """Loads a model from any file of this package, or from an official checkpoint.

    A `.keras` file holds the whole model, with layers of your own and as it was compiled. For the
    weights in other files an `SMLPNet` is built whose architecture is read off their shapes, its
    classifier, if there is one, with softmax.

    Args:
        path: Path of a `.keras`, `.weights.h5`, `.safetensors` or `.pth` file (also `.pt`,
            `.pth.tar`, `.ckpt`, `.bin`), all but the first two with the official keys. Code in a
            `.keras` file is refused, as Keras' `safe_mode` does. Or an address on the Hugging Face
            hub, `"hf://ACCOUNT/NAME@REVISION/FILE"`: the revision, a commit, tag or branch, is
            `main` where there is none, and the file `model.keras`. A line says which commit it is.
        compile: Boolean. Whether to compile a model that was saved compiled. Defaults to `True`.
        key: String. Which entry holds the weights, if a `.pth` file is a whole training checkpoint.
            Defaults to `"model"`.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If the path has another ending, or the file is damaged, holds no sMLPNet, or has
            weights in it that are not finite.
        FileNotFoundError: If there is no such file.
        PermissionError: If the hub asks for a login.
        ConnectionError: If the hub cannot be reached and the file is not in its cache.

    Example:

    >>> model = keras_smlp.SMLPNet(8, (1, 1), input_shape=(32, 32, 3), classes=3)
    >>> model.save_weights("mine.weights.h5")
    >>> keras_smlp.load_model("mine.weights.h5").output_shape
    (None, 3)
    """
    compile = check_boolean("compile", compile)
    key = check_text("key", key)
    file = loading.check_path(path, "path", hub.OF_MODELS)
    if file.suffix == ".keras":
        return load_keras(file, compile)
    with identify.opened(file, key) as weights:
        architecture = identify.architecture_of(weights)
        identify.check_size(weights, architecture)
        check_policy(None)  # the global one
        try:
            model = SMLPNet(**architecture.arguments())
        except ValueError as error:
            raise ValueError(f"{shown(file)} holds no sMLPNet: {error}") from error
        return loading.fill(model, weights)


def load_keras(file, compile):
    """The model in a `.keras` file, by Keras, once the archive has been checked."""
    keras_files.check(file)
    try:
        model = keras.saving.load_model(file, compile=compile)
    except Exception as error:  # damaged, Keras raises almost anything
        raise ValueError(f"{shown(file)} holds no model that loads: {reason(error)}") from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{shown(file)} holds a {type(model).__name__}, which is no model")
    network = (layer for layer in naming.every_layer(model) if naming.has_weights(layer.name))
    for variable in (variable for layer in network for variable in layer.weights):
        if "float" in variable.dtype:
            values = keras.ops.convert_to_numpy(variable).astype("float32")
            check_finite(variable.path, values, file)
    return model
