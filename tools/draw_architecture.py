"""Draw the folders of keras_smlp and what they import, into docs/architecture.md.

    python tools/draw_architecture.py            # writes the picture
    python tools/draw_architecture.py --check    # fails if it is out of date, as the lint does

An arrow that follows from two others is left out.
"""

import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the packages of this checkout, installed or not

from keras_smlp_cli.arguments import Parser  # noqa: E402

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "```mermaid\n", "```"


def main():
    parser = Parser(__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the page, write nothing")
    options = parser.parse_args()
    before = PAGE.read_text()
    start = before.index(BEGIN) + len(BEGIN)
    after = before[:start] + picture() + before[before.index(END, start) :]
    if not options.check:
        PAGE.write_text(after)
    elif after != before:
        parser.error("the picture in docs/architecture.md is out of date: run it without --check")


def picture():
    """The graph as Mermaid: a line per arrow."""
    graph = grimp.build_graph("keras_smlp")
    folders = graph.find_children("keras_smlp")
    for folder in folders:
        graph.squash_module(folder)
    for importer in graph.find_modules_that_directly_import("keras_smlp"):  # for the version
        graph.remove_import(importer=importer, imported="keras_smlp")
    lines = ["graph TD"]
    for above in sorted(folders):
        for below in sorted(graph.find_modules_directly_imported_by(above) - {above}):
            graph.remove_import(importer=above, imported=below)
            if not graph.chain_exists(importer=above, imported=below):
                graph.add_import(importer=above, imported=below)
                lines.append(f"  {above} --> {below}".replace("keras_smlp.", ""))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
