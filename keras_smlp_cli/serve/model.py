"""A SavedModel that `keras-smlp export` wrote, run by TensorFlow alone: JPEG files -> classes."""

import json
import logging
import os
import re
from pathlib import Path

# of one photo: 150 MB in memory while it is decoded
MAX_PIXELS = 50_000_000
# of a progressive JPEG file, which are some ten; each costs the time of a whole photo
MAX_SCANS = 100
# of a file, scans included; more would take long to count
MAX_SEGMENTS = 10_000
METADATA = Path("assets.extra", "metadata.json")
# what photos begin with that are no JPEG files
KINDS = {b"\x89PNG": "PNG", b"RIFF": "WebP", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}

# begins a segment: its kind, then two bytes with its length. Other kinds have no length: they stand
# in the data of a scan, or are invalid there, and a decoder goes on behind their two bytes.
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
SCAN, END = b"\xda", b"\xd9"


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: Integer, the HTTP status.
        reason: String, a sentence for the client.
    """

    def __init__(self, status, reason):
        super().__init__(status, reason)
        self.status, self.reason = status, reason


def read_names(folder):
    """The names of a SavedModel's classes.

    Args:
        folder: Path of the SavedModel.

    Returns:
        List of strings.

    Raises:
        ValueError: If it is none that can be served.
    """
    folder = Path(folder)
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(
            f"FOLDER must be a SavedModel of keras-smlp export --format tf_saved_model: {folder} "
            "has no saved_model.pb"
        )
    path = folder / METADATA
    try:
        about = json.loads(path.read_text("utf-8"))
        names, output = about["class_names"], about["output"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"FOLDER must have its metadata: {path} cannot be read") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"FOLDER must have the names of its classes, by keras-smlp export --classes: in {path} "
            f"class_names is {names}"
        )
    if output not in ("probabilities", "sigmoid"):
        raise ValueError(
            "FOLDER must answer with probabilities, or --outputs of keras-smlp export say that it "
            f"does: in {path} output is {output}"
        )
    return names


def segments_of(photo, most):
    """The markers of a JPEG file's first segments, up to the end of its image.

    What follows that, such as the film of a phone's photo, is not looked at.
    """
    found: list[bytes] = []
    place = 2
    while len(found) < most and (marker := MARKER.search(photo, place)) and marker[1] != END:
        found.append(marker[1])
        place = marker.end() + int.from_bytes(photo[marker.end() : marker.end() + 2], "big")
    return found


class Model:
    """A SavedModel in memory, which has answered once.

    Args:
        folder: Path of the SavedModel.
        top: Positive integer. Classes in an answer.

    Raises:
        ValueError: If TensorFlow cannot load it, or it takes no JPEG files.
    """

    def __init__(self, folder, top):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        # it warns of gradients, which nobody asks for here
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.tf, self.names = tf, read_names(folder)
        self.top = min(top, len(self.names))
        try:
            self.model = tf.saved_model.load(str(folder))
        except Exception as error:  # TensorFlow has many for damaged files
            raise ValueError(f"FOLDER: TensorFlow cannot load {folder}: {error}") from error
        if not hasattr(self.model, "serve_jpeg"):
            raise ValueError(
                f"FOLDER must take JPEG files: {folder} has no endpoint serve_jpeg, which "
                "keras-smlp export writes for models of pixels in [0, 255], RGB or gray"
            )
        gray = tf.io.encode_jpeg(tf.fill((64, 64, 3), tf.constant(128, tf.uint8))).numpy()
        found = self.probabilities([gray]).shape[1]
        if found != len(self.names):
            raise ValueError(f"FOLDER has {found} classes, but {len(self.names)} names of them")

    def probabilities(self, photos):
        """`(photos, classes)` of JPEG files."""
        return self.model.serve_jpeg(self.tf.constant(photos))["probabilities"].numpy()

    def check(self, photo):
        """Refuses a file that is no JPEG file, or too large; a damaged one only in part."""
        kind = KINDS.get(photo[:4]) or {b"ftyp": "HEIC or AVIF"}.get(photo[4:8])
        if photo[:3] != b"\xff\xd8\xff":
            raise Refused(415, f"photo must be a JPEG file, not {kind or 'another one'}")
        try:
            height, width, _ = self.tf.io.extract_jpeg_shape(photo).numpy()
        except self.tf.errors.InvalidArgumentError as error:
            raise Refused(400, "photo is a damaged JPEG file") from error
        if int(height) * int(width) > MAX_PIXELS:
            raise Refused(
                413, f"photo must have at most {MAX_PIXELS} pixels, not {width} x {height}"
            )
        segments = segments_of(photo, MAX_SEGMENTS + 1)
        for found, most, name in (
            (segments.count(SCAN), MAX_SCANS, "scans"),
            (len(segments), MAX_SEGMENTS, "segments"),
        ):
            if found > most:
                raise Refused(413, f"photo must have at most {most} {name}, not {found} or more")

    def answers(self, photos):
        """What each of some photos shows.

        Args:
            photos: List of bytes, JPEG files that `check` has let through.

        Returns:
            List: a dict `{"predictions": [...]}` with the `predictions` of `keras-smlp predict
            --json` (without `wnid`), or a `Refused` for a damaged file.
        """
        try:
            rows = self.probabilities(photos)
        except self.tf.errors.InvalidArgumentError:
            if len(photos) == 1:
                return [Refused(400, "photo is a damaged JPEG file")]
            # which one it is, TensorFlow does not say
            half = len(photos) // 2
            return self.answers(photos[:half]) + self.answers(photos[half:])
        return [self.named(row) for row in rows]

    def named(self, row):
        """The likeliest classes; of equally likely ones that with the lower index first."""
        order = (-row).argsort(kind="stable")[: self.top].tolist()
        return {
            "predictions": [
                {"class": k, "name": self.names[k], "probability": float(row[k])} for k in order
            ]
        }
