"""Serve a SavedModel: `POST /predict` names what a JPEG file shows.

    keras-smlp serve served
    keras-smlp serve served --with litserve --port 8080
    curl -F photo=@photo.jpg 127.0.0.1:8000/predict

FOLDER is what `keras-smlp export --format tf_saved_model --out FOLDER` wrote. The server needs
TensorFlow, but neither Keras nor keras_smlp: `python -m serve FOLDER` is the same command where
this folder `serve` was copied to. It ends at Ctrl-C and SIGTERM, after the answers that it owes.
"""

import argparse
import importlib
import socket

from .model import read_names

SERVERS = ("tensorflow", "litserve")
TOP = 5  # as `keras-smlp predict` and the page of the web export, neither of which is imported here
HOSTS_OF_LITSERVE = ("127.0.0.1", "0.0.0.0", "::")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as those of all commands; status 2."""

    def error(self, message):
        line = "".join(x if x.isprintable() else " " for x in message)
        self.exit(2, f"{self.prog}: error: {' '.join(line.split())}\n")


def main(argv: list[str] | None = None, prog: str = "python -m serve") -> int:
    """Serves a SavedModel until it is ended; returns the exit status."""
    style = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog, description=__doc__, formatter_class=style)
    parser.add_argument("folder", metavar="FOLDER", help="a SavedModel")
    parser.add_argument(
        "--with",
        dest="server",
        choices=SERVERS,
        default=SERVERS[0],
        help="tensorflow (default): one process, uvicorn in front of TensorFlow; "
        "litserve: LitServe",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=port, default=8000, help="default: 8000")
    parser.add_argument(
        "--top", type=positive, default=TOP, help=f"classes in an answer (default: {TOP}, or all)"
    )
    parser.add_argument(
        "--max-mb", type=positive, default=20, help="largest request in 10^6 bytes (default: 20)"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive,
        default=30,
        help="seconds in which a request must arrive (default: 30)",
    )
    parser.add_argument(
        "--connections",
        type=positive,
        default=64,
        help="most connections at a time (default: 64)",
    )
    try:
        return serve(parser, argv) or 0
    except SystemExit as stop:  # after --help, or the parser's own line
        return int(stop.code or 0)
    except KeyboardInterrupt:  # before it serves
        return 130


def serve(parser, argv):
    """Checks what can be checked at once, then serves."""
    options = parser.parse_args(argv)
    try:
        names = read_names(options.folder)
        if options.server == "litserve" and (
            options.host not in HOSTS_OF_LITSERVE or options.port < 1024
        ):
            allowed = f"{', '.join(HOSTS_OF_LITSERVE)} and 1024 to 65535"
            raise ValueError(
                f"--host and --port: {options.host} and {options.port}, allowed with litserve: "
                f"{allowed}"
            )
        if not options.host:
            raise ValueError("--host must be an address or a name, not empty")
        listener = bound(options.host, options.port)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        with listener:
            server = importlib.import_module(f".with_{options.server}", __package__)
            host = f"[{options.host}]" if ":" in options.host else options.host
            print(
                f"{parser.prog}: {len(names)} classes, http://{host}:{options.port}/predict "
                f"takes JPEG files (once /health answers)",
                flush=True,
            )
            return server.run(options, listener)
    except ModuleNotFoundError as error:
        if error.name not in ("tensorflow", "litserve", "starlette", "uvicorn", "python_multipart"):
            raise
        parser.error(f'{error.name} is not installed: pip install "keras-smlp[serve]"')
    except ValueError as error:  # TensorFlow cannot load it
        parser.error(str(error))


def bound(host, port):
    """A socket at this address, which is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # two servers can bind one address, but not listen at it
        listener.listen()
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise ValueError(
            f"--host and --port: {host} and {port} cannot be used: {reason}"
        ) from error
    return listener


def positive(text):
    """A positive integer from the command line."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"must be a positive integer. Received: {text!r}")
    return int(text)


def port(text):
    """A port from the command line."""
    if positive(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be 1 to 65535. Received: {text}")
    return int(text)
