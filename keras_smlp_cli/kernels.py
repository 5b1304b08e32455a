"""`keras-smlp kernels`: a picture of the kernels that mix rows and columns.

keras-smlp kernels kernels.png --weights runs/mine/best.keras
"""

from keras_smlp_cli.arguments import Parser, located, open_model, png
from keras_smlp_cli.failures import run


def main(argv: list[str], prog: str = "keras-smlp kernels") -> int:
    """Draws the kernels of a network; returns the exit status."""
    parser = Parser(__doc__, prog)
    parser.add_argument("picture", metavar="FILE.png", type=png, help="picture to write")
    parser.add_argument(
        "--weights",
        default="imagenet",
        help="imagenet (default), the path of a weights file or hf://ACCOUNT/NAME@REVISION",
    )
    parser.add_variant_option()
    return run(prog, kernels, parser, argv, errors=(ValueError, OSError))


def kernels(parser, argv):
    arguments = parser.parse_args(argv)
    import matplotlib as matplotlib  # now, not after the work

    from keras_smlp.analysis import explain, plots

    weights, _ = located(arguments.weights, "--weights")
    model = open_model(weights, arguments.variant, "--weights")
    plots.plot_kernels(arguments.picture, explain.axial_kernels(model))
