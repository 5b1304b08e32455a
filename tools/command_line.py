"""What the tools' command lines share."""

import argparse


class Parser(argparse.ArgumentParser):
    """A parser that prints its description as it is, and errors as one line."""

    def __init__(self, description):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, formatter_class=form)

    def error(self, message):
        """Ends the program with one line and the status 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(str(message).split())}\n")


def positive(text):
    """A positive integer from the command line."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"must be a positive integer. Received: {text!r}")
    return int(text)
