"""Draw the folders of keras_smlp and what they import, into docs/architecture.md.

    python tools/draw_architecture.py            # writes the picture
    python tools/draw_architecture.py --check    # fails if it is out of date, as the lint does

An arrow that follows from two others is left out.
"""

import sys
from pathlib import Path

import grimp
from command_line import Parser

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "```mermaid\n", "```"


def main():
    parser = Parser(__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the page, write nothing")
    options = parser.parse_args()
    before = PAGE.read_text()
    start = before.index(BEGIN) + len(BEGIN)
    after = before[:start] + picture() + before[before.index(END, start) :]
    if options.check and after != before:
        parser.error("the picture in docs/architecture.md is out of date: run it without --check")
    PAGE.write_text(after)


def picture():
    """The graph as Mermaid: a line per arrow."""
    graph = grimp.build_graph("keras_smlp")
    above = {}
    inner = graph.modules - {"keras_smlp"}
    for module in inner:
        for imported in graph.find_modules_directly_imported_by(module) & inner:
            if folder(module) != folder(imported):
                above.setdefault(folder(module), set()).add(folder(imported))
    arrows = sorted((one, other) for one, others in above.items() for other in others)
    lines = ["graph TD", *(f"  {a} --> {b}" for a, b in arrows if not is_implied(above, a, b))]
    return "\n".join(lines) + "\n"


def folder(module):
    """The entry of keras_smlp that a module belongs to."""
    return module.split(".")[1]


def is_implied(above, one, other):
    """Whether another way leads from one folder to the other."""
    reached, waiting = set(), [x for x in above[one] if x != other]
    while waiting:
        here = waiting.pop()
        if here not in reached:
            reached.add(here)
            waiting += above.get(here, ())
    return other in reached


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # the package of this checkout, installed or not
    main()
