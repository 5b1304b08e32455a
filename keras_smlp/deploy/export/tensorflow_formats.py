"""What TensorFlow writes: SavedModel, under JAX too, and LiteRT."""

import contextlib
import io
import zipfile

import keras
import tensorflow as tf

from keras_smlp.data import decode
from keras_smlp.naming import takes_pixels
from keras_smlp.preprocessing import shorter_side


def tf_saved_model(model, path, precision, metadata):
    """Writes a SavedModel: images as float32, and where the model normalizes, uint8 and JPEG."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    shape = model.input_shape

    def run(images):
        return model(images, training=False)

    def images(dtype):
        return [keras.InputSpec(shape=shape, dtype=dtype, name="images")]

    archive.add_endpoint("serve", run, images("float32"))
    if takes_pixels(model):
        uint8 = archive.add_endpoint("serve_uint8", run, images("uint8"))
        jpeg = jpeg_endpoint(uint8, *shape[1:3])
        archive.add_endpoint("serve_jpeg", jpeg)
    archive.write_out(path, verbose=False)
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "metadata.json").write_text(metadata)


def jpeg_endpoint(serve, height, width):
    """The function of JPEG files, a string tensor `(batch,)`, that sees the evaluation's view."""
    size = (height, width)
    crop = decode.CenterCrop(size, tuple(map(shorter_side, size)))

    def picture(content):
        is_jpeg = tf.strings.substr(content, 0, tf.minimum(3, tf.strings.length(content)))
        # not its first bytes: Python cannot decode a message with such in it
        message = "`jpeg` must hold whole JPEG files. Received another one of this many bytes:"
        data = [message, tf.strings.length(content)]
        check = tf.debugging.Assert(is_jpeg == b"\xff\xd8\xff", data)
        with tf.control_dependencies([check]):
            content = tf.identity(content)
        return decode.decode_jpeg(content, crop)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="jpeg")], autograph=False)
    def serve_jpeg(jpeg):
        return serve(tf.map_fn(picture, jpeg, fn_output_signature=tf.uint8))

    serve_jpeg.get_concrete_function()  # Keras takes one that was traced
    return serve_jpeg


def litert(model, path, precision, metadata):
    """Writes a LiteRT file, with the metadata in a zip at its end, as LiteRT's tools leave it."""
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(path, format="litert", verbose=False, **REDUCED[precision])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", metadata)


# precision -> what TensorFlow's converter is told
REDUCED: dict[str, dict] = {
    "float32": {},
    "float16": {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "target_spec": {"supported_types": [tf.float16]},
    },
    "int8": {"optimizations": [tf.lite.Optimize.DEFAULT]},
}
WRITERS = {"tf_saved_model": tf_saved_model, "litert": litert}
