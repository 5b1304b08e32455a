"""How many flipped weights the check of a published folder notices by the models' answers alone.

python -m benchmarks.flipped FOLDER --flips 200

In turn one weight of the ONNX and of the LiteRT file, drawn at random, has a bit changed: the sign,
or the highest bit of the exponent. Prints a table of how many changes are noticed, and how far the
answers then are from the stored ones, as `check.py` measures it.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import tables
from keras_smlp_cli.arguments import Parser, positive

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
BITS = {"sign": 0x80, "exponent": 0x40}  # of a float's last byte


def places(data, model):
    """Where weights of a model are in an exported file.

    Args:
        data: Bytes, the content of the file.
        model: The `keras.Model` that was exported.

    Returns:
        A list of `(path, start, count)`: the path of a variable, and where in the file so many of
        its float32 values begin. Variables that an exporter changes are not in it.
    """
    found = []
    for variable in model.weights:
        values = variable.numpy()
        if values.dtype != np.float32 or values.size < 8:  # fewer bytes are found by chance
            continue
        layouts = [values, values.T]
        if values.ndim == 4:
            layouts += [np.moveaxis(values, -1, 0), np.moveaxis(values, -2, 0)]
            layouts += [values.transpose(3, 2, 0, 1), values.transpose(2, 3, 0, 1)]
        for layout in layouts:
            start = data.find(layout.tobytes())
            if start >= 0:
                found.append((variable.path, start, values.size))
                break
    return found


def flipped(data, position, bit):
    """The data with one bit of the float32 at a position changed."""
    changed = bytearray(data)
    changed[position + 3] ^= BITS[bit]
    return changed


def main():
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, help="what keras-smlp publish wrote")
    parser.add_argument("--flips", type=positive, default=200, help="weights a file")
    options = parser.parse_args()

    import keras_smlp
    from keras_smlp.hubs import checker

    for file in ("model.keras", checker.LIST, *(file for file, *_ in checker.RUNS.values())):
        if not (options.folder / file).is_file():
            parser.error(f"FOLDER must have all that keras-smlp publish writes, not without {file}")
    model = keras_smlp.load_model(options.folder / "model.keras", compile=False)
    about = json.loads((options.folder / checker.LIST).read_text())
    print(f"allowed: {about['tolerance']:.1e}\n")
    print(tables.head("file", "bit", "weights found", "flips", "noticed", "smallest", "1%", "5%"))
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "folder"
        shutil.copytree(options.folder, copy)
        for name, (file, *_) in checker.RUNS.items():
            data = (options.folder / file).read_bytes()
            found = places(data, model)
            sizes = np.array([count for *_, count in found])
            for bit in BITS:
                rng = np.random.default_rng(0)
                drawn = rng.choice(len(found), options.flips, p=sizes / sizes.sum())
                differences, noticed = [], 0
                for k in drawn:
                    position = found[k][1] + 4 * int(rng.integers(sizes[k]))
                    (copy / file).write_bytes(flipped(data, position, bit))
                    _, status, largest = checker.check(copy, [name], hashes=False)
                    noticed += status == 1
                    differences.append(largest if np.isfinite(largest) else np.inf)
                (copy / file).write_bytes(data)
                quantiles = np.quantile(differences, [0, 0.01, 0.05], method="lower")
                share = f"{sizes.sum():,} of {model.count_params():,}"
                row = (file, bit, share, len(drawn), noticed, *(f"{x:.1e}" for x in quantiles))
                print(tables.line(*map(str, row)), flush=True)


if __name__ == "__main__":
    main()
