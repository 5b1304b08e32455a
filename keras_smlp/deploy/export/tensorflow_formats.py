"""What TensorFlow writes: SavedModel, under JAX too, and LiteRT."""

import contextlib
import io
import json
import tempfile
import zipfile

import keras
import tensorflow as tf

from keras_smlp.data import decode
from keras_smlp.deploy.export.web.site import MODEL
from keras_smlp.inference.photos import OF_PHOTOS
from keras_smlp.layers.backend.tensorflow import for_litert


def tf_saved_model(model, path, precision, metadata, takes_pixels):
    """Writes a SavedModel: images as float32, and where they are pixels, uint8 and JPEG."""
    archive, uint8 = served(model, takes_pixels, ("serve", "serve_uint8"))
    if takes_pixels and model.input_shape[-1] in OF_PHOTOS:
        archive.add_endpoint("serve_jpeg", jpeg_endpoint(uint8, model, metadata))
    archive.write_out(path, verbose=False)
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "metadata.json").write_text(metadata)


def served(model, takes_pixels, names, batch=None):
    """An archive with the endpoint for float32 images, and that for uint8 ones (or `None`)."""
    archive = keras.export.ExportArchive()
    archive.track(model)

    def run(images):
        return model(images, training=False)

    def images(dtype):
        shape = (batch, *model.input_shape[1:])
        return [keras.InputSpec(shape=shape, dtype=dtype, name="images")]

    archive.add_endpoint(names[0], run, images("float32"))
    uint8 = archive.add_endpoint(names[1], run, images("uint8")) if takes_pixels else None
    return archive, uint8


def jpeg_endpoint(serve, model, metadata):
    """The function of JPEG files, a string tensor `(batch,)`, that sees the evaluation's view."""
    *size, channels = model.input_shape[1:]
    size = tuple(size)
    crop = decode.CenterCrop(size, tuple(json.loads(metadata)["resize_size"]))

    def picture(content):
        beginning = tf.strings.substr(content, 0, tf.minimum(3, tf.strings.length(content)))
        # not its first bytes: Python cannot decode a message with such in it
        message = "`jpeg` must hold whole JPEG files. Received another one of this many bytes:"
        data = [message, tf.strings.length(content)]
        check = tf.debugging.Assert(beginning == b"\xff\xd8\xff", data)
        with tf.control_dependencies([check]):
            content = tf.identity(content)
        # TensorFlow and PIL read CMYK in the same way only if the file says how it is written
        is_cmyk = tf.io.extract_jpeg_shape(content)[2] == 4
        is_adobe = tf.strings.regex_full_match(content, r"\C*\x00\x0eAdobe\C*")
        message = "`jpeg` must hold CMYK files with the marker of Adobe. Received one without it"
        check = tf.debugging.Assert(~is_cmyk | is_adobe, [message])
        with tf.control_dependencies([check]):
            content = tf.identity(content)
        return decode.decode_jpeg(content, crop, takes_cmyk=True, channels=channels)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="jpeg")], autograph=False)
    def serve_jpeg(jpeg):
        pictures = tf.TensorSpec((*size, channels), tf.uint8)
        return tf.cond(
            tf.size(jpeg) > 0,
            lambda: serve(tf.map_fn(picture, jpeg, fn_output_signature=pictures)),
            # what JAX wrote takes no empty batch
            lambda: {name: tf.zeros((0, x.shape[1] or 0)) for name, x in model.output.items()},
        )

    serve_jpeg.get_concrete_function()  # Keras takes one that was traced
    return serve_jpeg


def litert(model, path, precision, metadata, takes_pixels):
    """Writes a LiteRT file, with the metadata in a zip at its end, as LiteRT's tools leave it."""
    # of an endpoint "serve" TensorFlow would convert that alone; the first in alphabetical order
    # is the one that `Interpreter.invoke` runs
    names = ("serving_default", "serving_uint8")
    path.write_bytes(converted(model, path.parent, precision, names[: 1 + takes_pixels]))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", metadata)


def web(model, path, precision, metadata, takes_pixels):
    """Writes a folder with a LiteRT file for one image at a time, the fastest in a browser."""
    path.mkdir()
    data = converted(model, path.parent, precision, ("serving_default",), batch=1)
    (path / MODEL).write_bytes(data)


def converted(model, folder, precision, names, batch=None):
    """The content of a LiteRT file.

    Args:
        model: What `writing.endpoint` returned.
        folder: Path of a folder to write to meanwhile.
        precision: One of those of the format.
        names: Names of the signatures, for float32 images and, if there are two, uint8 ones.
        batch: Positive integer. How many images it takes at a time; `None` is any number.

    Returns:
        Bytes.
    """
    with tempfile.TemporaryDirectory(dir=folder) as saved:
        # for the page alone, which may run on a GPU; docs/web.md has the times on CPUs
        with for_litert() if batch == 1 else contextlib.nullcontext():
            served(model, len(names) > 1, names, batch)[0].write_out(saved, verbose=False)
        with contextlib.redirect_stdout(io.StringIO()):
            converter = tf.lite.TFLiteConverter.from_saved_model(saved, signature_keys=list(names))
            converter.experimental_enable_resource_variables = True
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.TFLITE_BUILTINS,
                tf.lite.OpsSet.SELECT_TF_OPS,
            ]
            if precision != "float32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if precision == "float16":
                converter.target_spec.supported_types = [tf.float16]
            return converter.convert()


WRITERS = {"tf_saved_model": tf_saved_model, "litert": litert, "web": web}
