"""Atomic writes, and a functional model that saves by them and loads on every backend."""

import contextlib
import errno
import functools
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_smlp.checks import shown
from keras_smlp.layers import backend
from keras_smlp.layers.composite import Composite, products
from keras_smlp.preprocessing import fix_axes

LEGACY = (".h5", ".hdf5")  # endings of Keras 2's format


@contextlib.contextmanager
def replacing(path):
    """Atomic write: yields a temporary path, which replaces `path` when the block succeeds.

    A reader of `path` sees the old file or the new one, never a part of it. If the block
    raises (Ctrl-C included), the temporary file is removed and the old file stays.

    Args:
        path: Path of the file to write. Its folder must exist. If it is a symbolic link, its target
            is written and the link stays.

    Yields:
        A `pathlib.Path` in the file's folder with the endings of `path`.

    Raises:
        OSError: If the path is something else than a file, or links lead in a circle.
    """
    target = link_target(path)
    # the whole name stays at the end: Keras and others choose a format by `.weights.h5`
    temporary = target.with_name(f".{secrets.token_hex(4)}.{Path(path).name}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_beside(path, prefix):
    """A temporary folder on the file system of a path, for what is then moved there.

    Args:
        path: A `pathlib.Path`.
        prefix: String, what the folder's name begins with.

    Yields:
        The folder, a `pathlib.Path`.

    Raises:
        OSError: If nothing can be written there; it names the path.
    """
    try:
        scratch = tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    with scratch as folder:
        yield Path(folder)


def link_target(path):
    """The path of the file to write, which is another than `path` where that is a symbolic link."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "there is something else than a file", str(path))
    return target


def sync_folder(folder):
    """Has a renaming in a folder survive a power failure, where the platform can."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def checking_shape(method):
    """A method of a model that first refuses images, `x`, of another size than the model's."""

    @functools.wraps(method)
    def checked(self, x=None, *args, **kwargs):
        check_shape(self, x)
        return method(self, x, *args, **kwargs)

    return checked


def check_shape(model, x):
    """Refuses images that do not have the shape of a model's inputs.

    Keras would name a layer inside, and on JAX leave the model without its variables. Looked at are
    arrays, a `tf.data.Dataset` and the first batch of a `keras.utils.PyDataset`; not a generator,
    whose first batch would be lost.
    """
    if isinstance(x, keras.utils.PyDataset) and x.num_batches:
        spec = x[0]
    else:
        spec = getattr(x, "element_spec", x)
    if spec is not x and isinstance(spec, tuple):  # images, labels
        spec = spec[0]
    given = keras.tree.flatten(spec)
    if len(given) != len(model.inputs) or (isinstance(spec, dict) and len(given) > 1):
        return
    for array, expected in zip(given, model.inputs, strict=True):
        try:
            shape = tuple(array.shape)
        except (AttributeError, TypeError, ValueError):  # no array, or of unknown rank
            continue
        wanted = tuple(expected.shape)
        if abs(len(shape) - len(wanted)) == 1 and max(shape, wanted, key=len)[-1] == 1:
            continue  # Keras adds or removes this axis
        known = [(a, b) for a, b in zip(shape[1:], wanted[1:], strict=False) if None not in (a, b)]
        if len(shape) != len(wanted) or any(a != b for a, b in known):
            size = ", ".join(str(side) for side in wanted[1:])
            raise ValueError(
                f"`x` must have the shape (batch, {size}) of the model's input "
                f"{shown(expected.name)!r}. Received: x with the shape {shape}"
            )


def remove_leftovers(folder, names):
    """Removes what killed processes left of atomic writes; no other may be writing these files.

    Args:
        folder: Path of a folder.
        names: Names of the files that were written there.
    """
    for path in Path(folder).glob(".*"):
        written = re.fullmatch(r"\.[0-9a-f]{8}\.(.+)", path.name, re.DOTALL)
        if written and written[1] in names and path.is_file() and not path.is_symlink():
            path.unlink()


@keras.saving.register_keras_serializable(package="keras_smlp")
class PortableModel(keras.Model):
    """A functional `keras.Model` that saves atomically and reloads compiled on any backend.

    - `save` and `save_weights` write under a temporary name and rename: a crash never leaves a
      damaged file in place of a good one.
    - A compiled model saved under PyTorch names PyTorch's optimizer class, and one saved under JAX
      names `jit_compile=True`; neither is what another backend should do, so the file gets
      `keras.optimizers` and `"auto"`.
    - The model has the dtype policy of its blocks (a plain functional model has the global one),
      so that `compile` scales the loss under `mixed_float16`.

    `keras_smlp.SMLPNet` and its named variants return one; build one yourself around a body to
    fine-tune. Saving in shards or in an unzipped folder is Keras' own.

    Args:
        inputs: Symbolic tensor, or a list or dict of them.
        outputs: Symbolic tensor, or a list or dict of them.
        name: String. Name of the model.
        **kwargs: Keyword arguments of a functional `keras.Model`.

    Example:

    >>> body = keras_smlp.SMLPNet(8, (1, 1), include_top=False, pooling="avg")
    >>> outputs = keras.layers.Dense(10, activation="softmax")(body.output)
    >>> keras_smlp.PortableModel(body.input, outputs, name="mine").output_shape
    (None, 10)
    """

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any):
        super().__init__(inputs, outputs, name=name, **kwargs)
        for layer in self.layers:
            fix_axes(layer)
        # a global map would take it up, as an entry for this model
        policy = keras.config.dtype_policy()
        has_map = isinstance(policy, keras.dtype_policies.DTypePolicyMap)
        for layer in self.layers:
            if isinstance(layer, Composite) and not has_map:
                self.dtype_policy = layer.dtype_policy
                break

    def __call__(self, *args, **kwargs):
        if self.compute_dtype == self.variable_dtype:
            return super().__call__(*args, **kwargs)
        mixed = (x for x in self.layers if x.compute_dtype == self.compute_dtype)
        variables = [variable for layer in mixed for variable in products(layer)]
        with backend.casting(variables, self.compute_dtype):
            return super().__call__(*args, **kwargs)

    fit = checking_shape(keras.Model.fit)
    evaluate = checking_shape(keras.Model.evaluate)
    predict = checking_shape(keras.Model.predict)
    train_on_batch = checking_shape(keras.Model.train_on_batch)
    test_on_batch = checking_shape(keras.Model.test_on_batch)
    predict_on_batch = checking_shape(keras.Model.predict_on_batch)

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        if str(filepath).endswith(LEGACY):
            raise ValueError(
                "`filepath` must end in `.keras`, for Keras could not load the model from HDF5 "
                f"(`save_weights` writes `.weights.h5`). Received: filepath={shown(filepath)!r}"
            )
        if zipped is False or kwargs or not is_replaceable(filepath, ".keras", overwrite):
            return super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)
        with replacing(filepath) as temporary:
            super().save(temporary)

    def save_weights(self, filepath, overwrite=True, max_shard_size=None):
        if max_shard_size is not None or not is_replaceable(filepath, ".weights.h5", overwrite):
            return super().save_weights(filepath, overwrite, max_shard_size)
        with replacing(filepath) as temporary:
            super().save_weights(temporary)

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        optimizer = config.get("optimizer")
        while isinstance(optimizer, dict) and "config" in optimizer:
            if "torch.optimizers" in (optimizer.get("module") or ""):
                optimizer.update(module="keras.optimizers", registered_name=None)
            optimizer = optimizer["config"].get("inner_optimizer")
        config["jit_compile"] = "auto"
        return config


# the name that `keras.saving.save_model` writes into HDF5 files
keras.saving.get_custom_objects()["PortableModel"] = PortableModel


def is_replaceable(filepath, ending, overwrite):
    """Whether a local file of this ending can be written here without asking to overwrite.

    The rest (another format, `hf://`, a missing folder, an existing file with `overwrite=False`) is
    left to Keras.
    """
    path = Path(filepath)
    may_write = overwrite or not path.exists()
    return may_write and str(filepath).endswith(ending) and path.parent.is_dir()
