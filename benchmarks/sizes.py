"""The accuracy of a trained model at other input sizes, for each way to resample its axial kernels.

python -m benchmarks.sizes best.keras images.npz --sizes 40x40 48x48 40x48

The validation images of the .npz file (as train.py's `data.name: npz` has them) are resized by PIL,
bicubic, to each size (height x width); prints a table of top-1 accuracies in percent.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("data", help="an .npz file")
    parser.add_argument("--sizes", nargs="+", required=True, metavar="HxW")
    parser.add_argument("--images", type=int, default=2000, help="how many, evenly spread")
    options = parser.parse_args()

    import keras
    import numpy as np
    from PIL import Image

    import keras_smlp
    from keras_smlp.data import sources
    from keras_smlp.weights.resizing import METHODS

    model = keras.models.load_model(options.model, compile=False)
    split = sources.npz(options.data).validation
    chosen = np.linspace(0, len(split) - 1, min(options.images, len(split))).astype(int)
    images, labels, _ = split.read(chosen)

    def accuracy(model):
        height, width = model.input_shape[1:3]
        views = [Image.fromarray(x).resize((width, height), Image.BICUBIC) for x in images]
        probabilities = model.predict(np.stack(views), batch_size=250, verbose=0)
        return 100 * np.mean(probabilities.argmax(axis=-1) == labels)

    own = "{} x {}".format(*model.input_shape[1:3])
    print(f"at its own size, {own}: {accuracy(model):.2f}\n\n| | {' | '.join(METHODS)} |")
    print("|---" * (1 + len(METHODS)) + "|")
    for size in options.sizes:
        shape = (*map(int, size.split("x")), 3)
        found = [accuracy(keras_smlp.resize_weights(model, shape, method)) for method in METHODS]
        print(f"| {shape[0]} x {shape[1]} | {' | '.join(f'{x:.2f}' for x in found)} |", flush=True)


if __name__ == "__main__":
    main()
