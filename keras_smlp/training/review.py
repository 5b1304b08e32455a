"""What is made of the images of an evaluation beside its score: a report, and a temperature."""

import contextlib
import json
import os
import platform
import shlex
from pathlib import Path

import keras
import numpy as np

from keras_smlp.analysis import explain, findings, page, several, several_page
from keras_smlp.checks import shown
from keras_smlp.deploy.calibration import calibrate
from keras_smlp.inference.classes import CLASSES, read_names
from keras_smlp.saving import replacing
from keras_smlp.training.files import BATCH, CALIBRATED
from keras_smlp.training.known import inferred
from keras_smlp.training.report import NAMES
from keras_smlp.training.temperature import LOSSES, Logits
from keras_smlp.weights import loading

NAMED = 20  # damaged files
RESIZED = "resized.keras"
HINT = "--eval.calibrate true fits a temperature, by which probabilities become as sure as right."


class Review:
    """Looks at the images of an evaluation, for a report and for a temperature.

    All processes call the same methods; the main one writes.

    Args:
        config: The `config.Config`.
        engine: The `engines.Engine`.
        class_names: The name of each class.
    """

    # what is collected; which errors are the worst, and what is shown of them
    FINDINGS: type = findings.Findings
    ORDER = "those first whose own class has the lowest probability"
    LOOKED_AT = "the class that it was taken for"

    def __init__(self, config, engine, class_names):
        self.config, self.engine, self.class_names = config, engine, class_names
        self.findings = self.FINDINGS()
        self.logits = Logits(config.train.loss)
        self.fitted, self.hint = None, HINT
        # what `evaluation.evaluate` calls
        self.observers = [self.findings] + [self.logits] * config.eval.calibrate

    def calibrate(self, network, saved_model):
        """Fits a temperature and saves the network with it as `calibrated.keras`.

        Args:
            network: The network that was evaluated. The weights of its head are changed.
            saved_model: The model that is saved; it shares the network's layers.

        Returns:
            A sentence on it. There may be no temperature: then nothing is saved, and `fitted` stays
            `None`.

        Raises:
            ValueError: If the folder's `classes.json` names other classes, or it cannot be written.
        """
        folder = Path(self.config.output_dir)
        self.engine.on_main(lambda: self.name_classes(folder / CLASSES))
        try:
            fitted = self.logits.fit(self.engine, self.config.train.seed)
        except ValueError as error:
            self.hint = f"eval.calibrate: no temperature is best for these images: {error}"
            return self.hint
        calibrate(network, fitted.temperature)

        def save():
            with self.engine.saving():
                saved_model.save(folder / CALIBRATED)

        self.engine.on_main(save)
        self.fitted = fitted
        return f"eval.calibrate: {fitted}; saved as {shown(folder / CALIBRATED)}"

    def name_classes(self, path):
        """Writes the names beside the model, as predictions need them, unless they are there."""
        names = list(self.class_names)
        if not path.exists():
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(names), "utf-8")
            return
        try:
            wrong = "" if read_names(path) == names else f"{shown(path)} names other classes"
        except (ValueError, OSError) as error:
            wrong = str(error)
        if wrong:
            raise ValueError(f"output_dir: {wrong}, allowed: another folder for {CALIBRATED}")

    # ---- the report -----------------------------------------------------------------------------
    def report(self, path, score, network, weights, bad, run=None):
        """Writes the report.

        Args:
            path: Path of the HTML file.
            score: The `evaluation.Score`.
            network: The network that was evaluated.
            weights: The file of its weights, or their name.
            bad: The `decode.BadFiles`.
            run: The `run.Run`, if it was a training. Defaults to `None`: an evaluation.

        Raises:
            ValueError: If it cannot be written.
        """
        found = self.findings.gather(self.engine.gather)

        def write():
            calibrated = Path(self.config.output_dir) / CALIBRATED
            best = str(calibrated) if self.fitted else str(weights)
            side = 224 if best == "imagenet" else self.config.model.input_size
            if not (run or self.fitted):
                with contextlib.suppress(ValueError, OSError):  # imagenet; gone since it was read
                    side = inferred(loading.local(best)).input_shape[0]
            sections = [
                ("Result", self.result(score, network, bad, run)),
                ("Curves", run and page.curves(run.rows, run.best_score, NAMES)),
                *self.judged(found),
                ("Worst errors", self.worst(network)),
                ("A batch as it was trained on", run and self.batch()),
                ("Use it", uses(self.config, best, side, len(self.class_names))),
                ("Configuration", page.folded("All keys", page.code(self.config.to_yaml()))),
            ]
            title = f"{self.data()}: {'training' if run else 'evaluation'} of an sMLPNet"
            page.write(path, title, str(weights), sections)

        self.engine.on_main(write)

    def judged(self, found):
        """The sections on how classes were judged."""
        return [
            ("Classes", page.classes(found, self.class_names)),
            ("Confusions", page.confusions(found, self.class_names)),
            ("Calibration", page.calibration(found, self.fitted, self.hint)),
        ]

    def scores(self, score):
        """The most important numbers: pairs of what it is and the number."""
        pairs = [
            ("accuracy", f"{score.top1:.2f}%"),
            ("balanced accuracy", f"{score.balanced:.2f}%"),
        ]
        if len(self.class_names) > 5:
            pairs.append(("among the first five", f"{score.top5:.2f}%"))
        return pairs

    def mistakes(self, maps):
        """The pictures of the worst errors."""
        return page.mistakes(self.findings.worst, maps, self.class_names)

    def result(self, score, network, bad, run):
        """The section of the most important numbers, and what they were measured with."""
        error = findings.expected_calibration_error(self.findings.reliability())
        pairs = [
            *self.scores(score),
            (f"loss ({LOSSES[self.config.train.loss]})", f"{score.loss:.4f}"),
        ]
        pairs += [("calibration error", f"{100 * error:.2f}%"), ("images", f"{score.images:,}")]
        pairs.append(("classes", f"{len(self.class_names):,}"))
        said = [
            f"On the validation images of {self.data()}. {self.architecture()}, "
            f"{network.count_params():,} parameters; Keras {keras.__version__} on "
            f"{keras.backend.backend()}, Python {platform.python_version()}."
        ]
        if run:
            best = run.best_score
            average = ", the averaged weights (EMA)" if best["weights"] == "ema" else ""
            said.append(f"The best epoch is {best['epoch']} of {len(run.rows)}{average}.")
        if self.config.eval.real_labels:
            said.append(
                "An image is judged rightly if the prediction is among its labels in "
                f"{shown(self.config.eval.real_labels)}; images without any are left out."
            )
        content = page.numbers(pairs) + page.notes(said)
        if bad.names:
            some = [f"{shown(x)}: {why}" for x, why in list(bad.names.items())[:NAMED]]
            more = [f"and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
            heading = f"Files that cannot be decoded and are not used: {len(bad):,}"
            content += page.folded(heading, page.code("\n".join(some + more)))
        return content

    def data(self):
        """The name of the data set, or of its folder or file."""
        data = self.config.data
        return data.name if data.dir is None else os.path.basename(os.path.abspath(data.dir))

    def architecture(self):
        """What network it is, in words."""
        model = self.config.model
        sizes = f"dim {model.dim}, depths {list(model.depths or ())}"
        return f"sMLPNet ({model.variant or sizes}) at {model.input_size} pixels"

    def worst(self, network):
        """The section of the worst errors, if there are some."""
        worst = self.findings.worst
        if not worst:
            return ""
        errors = self.findings.errors
        which = f"{len(worst)} of {errors:,}" if errors > len(worst) else f"All {errors}"
        said = (
            f"{which} errors, {self.ORDER}, as the network saw them; beside each, what speaks for "
            f"{self.LOOKED_AT} (Grad-CAM)."
        )
        return page.notes([said]) + self.mistakes(self.looked_at(network))

    def looked_at(self, network):
        """Grad-CAM of the worst errors for their `shown_class`, in the size they are shown in."""
        norm, head = explain.classifier_layers(network)
        worst = self.findings.worst
        with self.engine.scope():
            body = keras.Model(network.input, norm.output)
        # each device of this process gets as many
        devices = self.engine.devices // self.engine.processes
        pixels = np.stack([x.pixels for x in worst])
        pixels = np.resize(pixels, (-(-len(worst) // devices) * devices, *pixels.shape[1:]))
        features = np.asarray(self.engine.forward(body)(pixels))[: len(worst)]
        classes = np.array([x.shown_class for x in worst])
        return explain.class_maps(features, head, classes, page.display_size(pixels[0]))

    def batch(self):
        """The section of the first training batch, if its picture is still there."""
        path = Path(self.config.output_dir) / BATCH
        with contextlib.suppress(OSError):
            return page.picture_file(path, "augmented training images with their targets")
        return page.notes([f"{path} cannot be read."])


class SeveralReview(Review):
    """The same for images with several labels each."""

    FINDINGS = several.Findings
    ORDER = "images with a label that is wrong or missing, by the mean loss of all classes"
    LOOKED_AT = "the class that was judged wrongly with the largest loss"

    def judged(self, found):
        return [
            ("Classes", several_page.classes(found, self.class_names)),
            ("Calibration", several_page.calibration(found, self.fitted, self.hint)),
        ]

    def scores(self, score):
        pairs = [("mAP", f"{score.map:.2f}%"), (several_page.F1, f"{score.f1:.2f}%")]
        if score.judged < score.classes:
            pairs.append(("classes in the mAP", f"{score.judged:,}"))
        return pairs

    def mistakes(self, maps):
        return several_page.mistakes(self.findings.worst, maps, self.class_names)


def review_of(config, engine, source):
    """The `Review` for the labels of a `splits.Source`."""
    kind = SeveralReview if source.several else Review
    return kind(config, engine, source.class_names)


def as_trained(config):
    """The options by which `keras-smlp predict` and `export` take photos as the training did."""
    size = config.data.shorter_side(config.model.input_size)
    turned = "--exif-orientation" if config.data.exif_orientation else "--no-exif-orientation"
    return ["--resize-size", str(size), turned]


def uses(config, weights, own_side, classes=1000):
    """The section on how to use a model: commands and a program.

    Args:
        config: The `config.Config`.
        weights: The path of its file, or `imagenet`.
        own_side: Integer. Side in pixels of the images that the file's network takes.
        classes: Integer. How many classes it has. Defaults to `1000`, which have ImageNet's names.
    """
    is_file, file = weights != "imagenet", weights
    variant = [] if is_file else ["--variant", config.model.variant]
    size, channels = config.model.input_size, config.data.channels
    load = f"keras_smlp.load_model({weights!r})"
    if not is_file:
        load = f'keras_smlp.SMLPNet{config.model.variant.capitalize()}(weights="imagenet")'
    program = f"import keras_smlp\n\nmodel = {load}\n"
    if size != own_side:
        file, variant = RESIZED, []
        program += f"model = keras_smlp.resize_weights(model, ({size}, {size}, {channels}))\n"
        program += f'model.save("{RESIZED}")\n'
    of_channels = "" if channels == 3 else f", channels={channels}"
    turned = ", exif_orientation=True" if config.data.exif_orientation else ""
    program += (
        f'photo = keras_smlp.load_image("photo.jpg", {size}, {config.data.shorter_side(size)}'
        f"{turned}{of_channels})\nprobabilities = model.predict(photo[None])"
    )
    # a run leaves its names beside the .keras file
    has_names = classes == 1000 or (file.endswith(".keras") and size == own_side)
    names = [] if has_names else ["--classes", CLASSES]
    backend = f"KERAS_BACKEND={keras.backend.backend()} "
    options = [*variant, *names, *as_trained(config)]
    predict = ["keras-smlp", "predict", "photo.jpg", "--weights", file, *options]
    export = ["keras-smlp", "export", file, *options, "--format", "onnx"]
    named = [
        ("Name what is on a photo:", backend + shlex.join(predict)),
        ("Export it:", backend + shlex.join([*export, "--out", "model.onnx"])),
        ("In Python:", program),
    ]
    if size != own_side:
        named = [("At the size of this evaluation:", program), *named[:2]]
    return "".join(page.notes([what]) + page.code(how) for what, how in named)
