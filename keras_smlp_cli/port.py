"""Port sMLPNet weights between the official PyTorch format and Keras, either way.

    keras-smlp port smlp_s.pth smlp_s.weights.h5
    keras-smlp port runs/mine/best.keras mine.pth

The file endings say the direction: .pth and .safetensors are official (.pt, .pth.tar, .ckpt and
.bin are read as .pth), .weights.h5 and .keras are Keras'. SRC may be on the Hugging Face hub,
hf://ACCOUNT/NAME@REVISION/FILE. The architecture is read off the shapes.
What was written is read again, and the logits of both on a random image are compared; the exit
status is 1 where they differ.
"""

import os
from pathlib import Path

from keras_smlp_cli.arguments import VARIANTS, Parser, located
from keras_smlp_cli.failures import run

TOLERANCE = 1e-5


def main(argv: list[str], prog: str = "keras-smlp port") -> int:
    """Ports weights; returns the exit status."""
    parser = Parser(__doc__, prog)
    parser.add_argument("source", metavar="SRC", help="file to read, or hf://...")
    parser.add_argument("target", metavar="DST", help="file to write")
    parser.add_argument(
        "--variant",
        choices=VARIANTS,
        help="refuse a source of another width or depth (default: whatever the shapes say)",
    )
    parser.add_argument(
        "--key", default="model", help="entry of a .pth training container (default: model)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite DST if it exists")
    return run(prog, port, parser, argv, errors=(ValueError, OSError))


def port(parser, argv):
    """One port from top to bottom; returns the exit status."""
    arguments = parser.parse_args(argv)
    if Path(arguments.target).exists() and not arguments.force:
        parser.error(f"argument DST: {arguments.target} exists; --force overwrites it")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np

    import keras_smlp
    from keras_smlp import naming
    from keras_smlp.weights import identify, keras_files, loading, official

    # ---- source ---------------------------------------------------------------------------------
    source, target = located(arguments.source, "SRC")[0], arguments.target
    written = (*keras_files.ENDINGS, *official.ENDINGS)
    for path, endings in {source: loading.ENDINGS, target: written}.items():
        if not path.endswith(endings):
            raise ValueError(f"{path} must end in one of {endings}")
    if Path(source).resolve() == Path(target).resolve():
        raise ValueError(f"DST must be another file than SRC, {source}")
    with identify.opened(source, arguments.key) as file:
        network = identify.architecture_of(file)
        variant = network.variant()
        if arguments.variant not in (None, variant):
            raise ValueError(
                f"{source} holds dim={network.dim}, depths={network.depths}, "
                f"not {arguments.variant}"
            )
        identify.check_size(file, network)
        model = keras_smlp.SMLPNet(
            **network.arguments(),
            drop_path_rate=keras_smlp.VARIANTS[variant].drop_path_rate if variant else None,
            name=f"smlpnet_{variant or 'custom'}",
        )
        loading.fill(model, file)

    # ---- target ---------------------------------------------------------------------------------
    if target.endswith(official.ENDINGS):
        keras_smlp.save_official(model, target)
    elif target.endswith(".keras"):
        model.save(target)
    else:
        model.save_weights(target)

    # ---- comparison -----------------------------------------------------------------------------
    image = np.random.default_rng(0).uniform(0, 255, (1, *network.input_shape)).astype("float32")

    def logits(model):
        if network.classes:
            model.get_layer(naming.HEAD).activation = keras.activations.linear
        # the weights of a gray network that takes pixels are those of an RGB one
        return model.predict_on_batch(np.broadcast_to(image, (1, *model.input_shape[1:])))

    before, after = logits(model), logits(keras_smlp.load_model(target, compile=False))
    difference = np.linalg.norm(after - before) / np.linalg.norm(before)
    agree = bool(difference <= TOLERANCE)
    print(f"{source} -> {target}: sMLPNet-{variant or 'custom'}, {model.count_params():,} weights")
    print(f"    {network}")
    print(
        f"    logits on a random image, {keras.backend.backend()}: relative difference "
        f"{difference:.1e} (allowed {TOLERANCE:.0e}), largest {np.abs(after - before).max():.1e}: "
        f"{'equal' if agree else 'DIFFERENT'}"
    )
    return 0 if agree else 1
