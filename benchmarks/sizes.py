"""The accuracy of a trained model at other input sizes, for each way to resample its axial kernels.

python -m benchmarks.sizes best.keras images.npz --sizes 40x40 48x48 40x48

The validation images of the .npz file (as train.py's `data.name: npz` has them) are resized by PIL,
bicubic, to each size (height x width); prints a table of top-1 accuracies in percent.
"""

import argparse
import os

import numpy as np

from benchmarks import tables
from benchmarks.exports import validation_images

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("data", help="an .npz file")
    parser.add_argument("--sizes", nargs="+", required=True, metavar="HxW")
    parser.add_argument("--images", type=int, default=2000, help="how many, evenly spread")
    options = parser.parse_args()

    import keras
    from PIL import Image

    import keras_smlp
    from keras_smlp.weights.resizing import METHODS

    model = keras.models.load_model(options.model, compile=False)
    images, labels = validation_images(options.data, options.images)

    def accuracy(model):
        height, width = model.input_shape[1:3]
        views = [Image.fromarray(x).resize((width, height), Image.BICUBIC) for x in images]
        probabilities = model.predict(np.stack(views), batch_size=250, verbose=0)
        return 100 * np.mean(probabilities.argmax(axis=-1) == labels)

    height, width = model.input_shape[1:3]
    print(f"at its own size, {height} x {width}: {accuracy(model):.2f}\n")
    print(tables.head("", *METHODS))
    for size in options.sizes:
        shape = (*map(int, size.split("x")), 3)
        found = [accuracy(keras_smlp.resize_weights(model, shape, method)) for method in METHODS]
        print(tables.line(size.replace("x", " x "), *(f"{x:.2f}" for x in found)), flush=True)


if __name__ == "__main__":
    main()
