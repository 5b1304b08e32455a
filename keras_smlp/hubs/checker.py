"""Check the files in this folder, without Keras and without keras_smlp.

    python check.py                    # everything: needs NumPy, onnxruntime and ai-edge-litert
    python check.py onnx               # one format: needs NumPy and onnxruntime
    python check.py --numbers-only     # without the hashes

Two things are checked. Each file has the SHA-256 that check.json lists. And the ONNX and the LiteRT
file answer the images in test_vectors.npz as the model in Keras did, whose answers are stored
there: this also notices a runtime or a processor that computes something else.

The exit status is 0 if all is well, 1 if something differs, 2 if something could not be checked.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

try:
    import numpy as np
except ModuleNotFoundError:
    print("NumPy is not installed: pip install numpy", file=sys.stderr)
    sys.exit(2)

LIST, VECTORS = "check.json", "test_vectors.npz"
# format -> its file, the package that runs it and how Python calls that
RUNS = {
    "onnx": ("model.onnx", "onnxruntime", "onnxruntime"),
    "litert": ("model.tflite", "ai-edge-litert", "ai_edge_litert"),
}
# the answers are compared by their logarithms where they are probabilities: so small ones count too
LOGARITHMS, VALUES = "logarithms", "values"
SMALLEST = 1e-30  # probabilities below are rounded to zero on some processors


def main(arguments=None):
    """Checks the folder of this file; returns the exit status."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("formats", metavar="FORMAT", nargs="*", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--numbers-only", action="store_true", help="do not compare the hashes")
    options = parser.parse_args(arguments)
    unknown = set(options.formats) - set(RUNS)
    if unknown:
        parser.error(f"FORMAT must be one of {', '.join(RUNS)}, not {', '.join(sorted(unknown))}")
    lines, status, _ = check(Path(__file__).parent, options.formats, not options.numbers_only)
    print("\n".join(lines))
    return status


def check(folder, formats=(), hashes=True):
    """Checks a folder.

    Args:
        folder: Path of the folder.
        formats: Names of the formats to run; none (default) is all that are there.
        hashes: Boolean. Whether to compare the hashes. Defaults to `True`.

    Returns:
        A list of lines that say what was found, the exit status, and the largest difference of
        the formats that were run.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / LIST).read_text("utf-8"))
        listed, may_change = dict(about["sha256"]), list(about["may_change"])
        compared, tolerance = str(about["compared"]), float(about["tolerance"])
    except Exception as error:  # missing, no text, no JSON, or of another form
        text = f"{type(error).__name__}: {error}"
        return [f"{LIST}: CANNOT BE READ ({text})", "SOMETHING DIFFERS"], 1, float("nan")
    lines, found, differences = [], {0}, [0.0]
    for name, expected in listed.items() if hashes else ():
        is_same, what = compare_hash(folder / name, expected)
        if not is_same and name in may_change:
            what += ", which it may"
        else:
            found.add(0 if is_same else 1)
        lines.append(f"{name}: {what}")
    try:
        with np.load(folder / VECTORS, allow_pickle=False) as vectors:
            images, expected = vectors["images"], vectors["outputs"]
    except Exception as error:  # of zipfile, zlib or NumPy
        lines += [f"{VECTORS}: CANNOT BE READ ({error})", "SOMETHING DIFFERS"]
        return lines, 1, float("nan")
    for name in formats or [x for x in RUNS if RUNS[x][0] in listed]:
        file, package, module = RUNS[name]
        try:
            answers = RUNNERS[name](str(folder / file), images.astype("float32"))
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != module:
                raise
            what, status = f"NOT RUN: {package} is not installed (pip install {package})", 2
        except Exception as error:  # each runtime has its own for a damaged file
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            what, status = f"DOES NOT RUN: {text}", 1
        else:
            largest = difference(answers, expected, compared)
            differences.append(largest)
            is_good = largest <= tolerance  # not, if it is not a number
            what = f"{largest:.1e} from the stored outputs, {tolerance:.1e} allowed"
            what, status = (what, 0) if is_good else (f"DIFFERS: {what}", 1)
        lines.append(f"{file}: {what}")
        found.add(status)
    status = 1 if 1 in found else max(found)
    lines.append({0: "all is well", 1: "SOMETHING DIFFERS", 2: "NOT ALL WAS CHECKED"}[status])
    return lines, status, float(np.max(differences))  # not a number, if one is none


def compare_hash(path, expected):
    """Whether a file has this SHA-256, and what to say about it."""
    if not path.is_file():
        return False, "MISSING"
    is_same = hashlib.sha256(path.read_bytes()).hexdigest() == expected
    return is_same, "SHA-256 as listed" if is_same else "CHANGED: another SHA-256 than listed"


def difference(found, expected, compared):
    """How far answers are from the expected ones; not a number if some of them are not.

    Args:
        found: Array `(images, classes)`.
        expected: Array of the same shape.
        compared: `"logarithms"`: the largest difference of a logarithm, that is, of probabilities
            the relative difference; `"values"`: the largest difference over the largest value.
    """
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    if found.shape != expected.shape:
        return float("nan")
    if compared == LOGARITHMS:
        with np.errstate(invalid="ignore"):
            logs = [np.log(np.where(x < SMALLEST, SMALLEST, x)) for x in (found, expected)]
        return float(np.abs(logs[0] - logs[1]).max())
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), SMALLEST))


def run_onnx(path, images):
    """The answers of an ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def run_litert(path, images):
    """The answers of a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path)
    answers = interpreter.get_signature_runner("serving_default")(images=images)
    return next(iter(answers.values()))


RUNNERS = {"onnx": run_onnx, "litert": run_litert}

if __name__ == "__main__":
    sys.exit(main())
