"""`keras-smlp configs`: the configurations that `--config NAME` reads.

keras-smlp configs                         # their names, and what each reaches
keras-smlp configs finetune > mine.yaml    # one of them, to begin one's own with
"""

import importlib.util
import runpy
import types
from pathlib import Path

from keras_smlp_cli.arguments import Parser
from keras_smlp_cli.failures import run


def main(argv: list[str], prog: str = "keras-smlp configs") -> int:
    """Lists the configurations, or prints one; returns the exit status."""
    parser = Parser(__doc__, prog)
    parser.add_argument("name", metavar="NAME", nargs="?", help="print this one")
    return run(prog, configs, parser, argv, errors=(ValueError, OSError))


def configs(parser, argv):
    name = parser.parse_args(argv).name
    presets = loaded_alone()
    if name is not None:
        print(presets.path_of(name).read_text(), end="")
        return
    for name in presets.names():
        about, reaches = presets.about(name)
        print(f"{name}\n    {about}\n    Reaches: {reaches}")


def loaded_alone():
    """The module `keras_smlp.training.presets`, without its package, which would import Keras."""
    package = importlib.util.find_spec("keras_smlp")
    assert package and package.origin
    path = Path(package.origin).parent / "training" / "presets.py"
    return types.SimpleNamespace(**runpy.run_path(str(path)))
