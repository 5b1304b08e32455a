"""Trains an sMLPNet: `python train.py [--config FILE] [--section.key value ...]`.

Without arguments: `configs/digits.yaml`. `KERAS_BACKEND` chooses tensorflow, jax or torch;
`python train.py --help` shows every key.
"""

import contextlib
import os
import shlex
import sys
import types
from pathlib import Path

ROOT = Path(__file__).parent
BACKENDS = ("tensorflow", "jax", "torch")
TRAIN_EXTRA = ("tensorflow", "jsonargparse", "matplotlib", "yaml", "sklearn", "tqdm")
USE = (
    "import sys, keras, keras_smlp; from keras_smlp.data import sources; "
    "data = sources.load('{data}'); model = keras.models.load_model(sys.argv[1]); "
    "x = keras.ops.image.resize(data.validation.images[:1], model.input_shape[1:3]); "
    "print('predicted', data.class_names[model.predict(x, verbose=0).argmax()], "
    "'label', data.class_names[data.validation.labels[0]])"
)


def train(config):
    """One run, from top to bottom."""
    # TensorFlow reports the processor's features otherwise
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # PyTorch's threads wait for work in a busy loop otherwise, and starve tf.data's: on two
    # processors with other work a step takes ten times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import keras

    import keras_smlp
    from keras_smlp.data import pipeline, sources
    from keras_smlp.files import replacing
    from keras_smlp.training.callbacks import Interruptible, Progress, Results

    epochs, batch_size = config.train.epochs, config.train.batch_size
    keras.utils.set_random_seed(config.train.seed)

    # ---- data -----------------------------------------------------------------------------------
    source = sources.load(config.data.name)
    if batch_size > len(source.train):
        fail(f"train.batch_size: {batch_size}, allowed: at most {len(source.train)}, all images")
    steps = len(source.train) // batch_size
    size, classes = config.model.input_size, len(source.class_names)
    training = pipeline.train_batches(
        source.train, size, batch_size, epochs, config.train.seed, config.data.max_shift
    )
    validation = pipeline.validation_batches(source.validation, size, batch_size)

    # ---- model ----------------------------------------------------------------------------------
    try:
        network = keras_smlp.SMLPNet(
            **config.model.architecture(),
            expansion=config.model.expansion,
            patch_size=config.model.patch_size,
            input_shape=(size, size, 3),
            classes=classes,
            classifier_activation=None,
            weights=config.model.weights,
            dtype=config.train.precision,
        )
    except (ValueError, OSError) as error:
        fail(f"model: {error}")
    # trained on logits, saved with probabilities: the layers are the same
    softmax = keras.layers.Softmax(name="probabilities", dtype="float32")
    classifier = keras_smlp.PortableModel(network.input, softmax(network.output), name=network.name)

    # ---- optimisation ---------------------------------------------------------------------------
    peak, warmup = config.optimizer.learning_rate, config.optimizer.warmup_epochs * steps
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else peak,
        max(epochs * steps - warmup, 1),  # all may be warm-up
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=config.optimizer.weight_decay, epsilon=1e-8
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])

    def loss(labels, logits):
        targets = keras.ops.one_hot(keras.ops.cast(labels, "int32"), classes)
        smoothing = config.optimizer.label_smoothing
        return keras.losses.categorical_crossentropy(
            targets, logits, from_logits=True, label_smoothing=smoothing
        )

    # ---- run ------------------------------------------------------------------------------------
    network.compile(
        optimizer,
        loss,
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
            # the loss without label smoothing, which is what evaluations report
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="cross_entropy"),
        ],
    )
    with replacing(Path(config.output_dir) / "config.yaml") as temporary:
        temporary.write_text(config.to_yaml())
    results = Results(classifier, config.output_dir)
    with contextlib.closing(Progress(epochs, steps * batch_size)) as progress:
        network.fit(
            training,
            epochs=epochs,
            steps_per_epoch=steps,
            validation_data=validation,
            callbacks=[progress, results, Interruptible()],
            shuffle=False,  # the batches come in their order
            verbose=0,
        )

    # ---- evaluate -------------------------------------------------------------------------------
    classifier.load_weights(results.best)
    score = network.evaluate(validation, return_dict=True, verbose=0)
    print(f"{results.best}, of epoch {results.best_epoch}, on {len(source.validation)} images:")
    print(
        f"* Acc@1 {100 * score['accuracy']:.3f} Acc@5 {100 * score['top5']:.3f} "
        f"loss {score['cross_entropy']:.3f}"
    )
    code, path = USE.format(data=config.data.name), shlex.quote(str(results.best))
    print(f'Use it: KERAS_BACKEND={keras.backend.backend()} python -c "{code}" {path}')


def read_config(argv):
    """Reads the configuration and makes its `output_dir`.

    All before `keras_smlp/__init__.py` is run, for that one imports Keras.
    """
    bare = types.ModuleType("keras_smlp")
    bare.__path__ = [str(ROOT / "keras_smlp")]
    package = sys.modules.setdefault("keras_smlp", bare)
    try:
        from keras_smlp.training.config import parse

        config = parse(argv)
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        return config
    except ValueError as error:
        fail(error)
    except OSError as error:
        fail(f"output_dir: {error}, allowed: a folder that can be written to")
    finally:
        if package is bare:
            for name in [name for name in sys.modules if name.split(".")[0] == "keras_smlp"]:
                del sys.modules[name]


def fail(message):
    """Ends the program with one line and exit code 2."""
    print("train.py: error:", " ".join(str(message).split()), file=sys.stderr)
    sys.exit(2)


def main(argv):
    """Reads the configuration and runs it; what the user can mend ends in one line."""
    backend = os.environ.get("KERAS_BACKEND") or None
    if backend not in (None, *BACKENDS):
        fail(f"KERAS_BACKEND: {backend}, allowed: {', '.join(BACKENDS)}")
    try:
        train(read_config(argv))
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in (*BACKENDS, *TRAIN_EXTRA):
            raise
        extras = "train" if missing in TRAIN_EXTRA else f"{missing},train"
        fail(f'{missing} is not installed: pip install -e ".[{extras}]"')
    except KeyboardInterrupt:
        print("train.py: interrupted; what was saved is whole", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
