"""The configurations that come with the package: the files of configs/.

It imports nothing of the package, so that `keras-smlp configs` can load it without Keras.
"""

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# in an installed package it is part of it, in a checkout beside it
FOLDER = next(
    (x for x in (PACKAGE / "configs", PACKAGE.parent / "configs") if x.is_dir()),
    PACKAGE / "configs",
)
DEFAULT = "digits"


def names() -> list[str]:
    """The names of the configurations, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def path_of(name: str) -> Path:
    """The file of a configuration; raises `ValueError` for a name that is none of them."""
    if name not in names():
        raise ValueError(f"NAME: {name!r}, allowed: one of {', '.join(names())}")
    return FOLDER / f"{name}.yaml"


def about(name: str) -> tuple[str, str]:
    """What a configuration trains, and what that reaches: two texts from the head of its file."""
    head = path_of(name).read_text().partition("\noutput_dir:")[0]
    lines = [line.removeprefix("#").strip() for line in head.splitlines()]
    paragraphs = [" ".join(part.split()) for part in "\n".join(lines).split("\n\n")]
    reaches = [x for x in paragraphs if x.startswith("Reaches: ")]
    first = re.match(r".*?\.(?= [A-Z]|$)", paragraphs[1])
    return first[0] if first else paragraphs[1], reaches[0].removeprefix("Reaches: ")
