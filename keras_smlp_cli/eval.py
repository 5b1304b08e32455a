"""`keras-smlp eval`: `keras-smlp train --eval`, with short names for what it is asked for most."""

from keras_smlp_cli import train

# and their values, where they take none
SHORT = {
    "--weights": ("--model.weights", None),
    "--predictions": ("--eval.predictions", None),
    "--probe": ("--eval.probe", "true"),
    "--report": ("--eval.report", None),
}
ABOUT = """Evaluates weights on validation images. --weights FILE is short for --model.weights,
--predictions, --report and --probe for the keys of eval."""


def main(argv: list[str], prog: str = "keras-smlp eval") -> int:
    """Evaluates weights on validation images; returns the exit status.

    Args:
        argv: List of strings: the options of `keras-smlp train`, and the short ones.
        prog: String. What the user typed, for messages. Defaults to the command.
    """
    line = ["--eval"]
    for word in argv:
        name, equals, value = word.partition("=")
        key, fixed = SHORT.get(name, (name, None))
        line.append(key + equals + value)
        line += [fixed] if fixed and not equals else []
    return train.main(line, prog, ABOUT)
