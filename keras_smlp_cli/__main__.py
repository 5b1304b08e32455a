"""`keras-smlp COMMAND ...`; `python -m keras_smlp_cli` is the same."""

import importlib.util
import re
import sys
from pathlib import Path

from keras_smlp_cli.huge_pages import restart_with_huge_pages

COMMANDS = {
    "train": "train a network, or go on with a run",
    "eval": "evaluate weights on validation images",
    "predict": "name what photos show",
    "export": "write a network for servers and devices",
    "port": "convert weights between the official format and Keras'",
    "serve": "serve a SavedModel: a photo in, its classes out",
    "publish": "write a folder for the Hugging Face hub, and upload it",
    "kernels": "draw the kernels that mix rows and columns",
    "configs": "list the configurations for train and eval",
}
PROG = "keras-smlp"
HELP = f"""usage: {PROG} COMMAND [OPTIONS]

sMLPNet (sparse MLP for image recognition) in Keras 3.

commands:
{"".join(f"  {name:9}{text}" + chr(10) for name, text in COMMANDS.items())}
`{PROG} COMMAND --help` lists the options of a command; `{PROG} --version` prints the version.
KERAS_BACKEND=tensorflow, jax or torch chooses the backend.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: List of strings: a command's name, then its options. Defaults to `None`: those of the
            process.

    Returns:
        The exit status.
    """
    own = argv is None
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if name == "--version":
        print(PROG, version())
        return 0
    if name not in COMMANDS:
        print(f"{PROG}: error: COMMAND: {name!r}, allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if own and name in ("train", "eval"):
        restart_with_huge_pages()
    if own:
        # names of files need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    module = importlib.import_module(f"keras_smlp_cli.{name}")
    return module.main(rest, f"{PROG} {name}")


def version() -> str:
    """The version of the package, read off its text: importing it would import Keras."""
    package = importlib.util.find_spec("keras_smlp")
    assert package and package.origin
    found = re.search(r'^__version__ = "(.+)"$', Path(package.origin).read_text("utf-8"), re.M)
    assert found
    return found[1]


if __name__ == "__main__":
    sys.exit(main())
