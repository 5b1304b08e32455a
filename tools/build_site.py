"""Build the site: pages of docs/, README.md and the notebooks, with the API from the docstrings.

    python tools/build_site.py site     # then open site/index.html

Any warning is an error: a link that leads nowhere, an anchor or a name that is not there, a page
that is not in mkdocs.yml. Keras and the frameworks are not needed: the sources are read, not run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the packages of this checkout, installed or not

from keras_docstrings import NAME, linked  # noqa: E402

from keras_smlp_cli.arguments import Parser  # noqa: E402

CONFIG = ROOT / "mkdocs.yml"
# pages that are not in docs/, by their names on the site
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
ELSEWHERE["CHANGELOG.md"] = "changelog.md"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)  # in which nothing is a link
QUIET = re.compile(r"^(Build started|No issues found|Build finished.*|\s*)$")


def main():
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, help="where the site is written; replaced if there")
    options = parser.parse_args()
    if options.folder.exists() and not is_site(options.folder):
        parser.error(f"folder: {options.folder} is there and is no site")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            collect(Path(temporary))
            build(Path(temporary))
        except ValueError as error:
            sys.exit(f"{parser.prog}: error: {error}")
        shutil.rmtree(options.folder, ignore_errors=True)
        shutil.copytree(Path(temporary, "site"), options.folder)


def is_site(folder):
    """Whether a folder is empty or what this tool has written."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or {"index.html", "search.json", "site.css"} <= names


def pages():
    """The files that become pages, relative to the root, and their names on the site."""
    found = {**ELSEWHERE}
    for path in sorted((ROOT / "docs").rglob("*")):
        if path.suffix in (".md", ".ipynb") and ".ipynb_checkpoints" not in path.parts:
            name = path.relative_to(ROOT / "docs").with_suffix(".md")
            found[path.relative_to(ROOT).as_posix()] = name.as_posix()
    return found


def collect(folder):
    """Writes mkdocs.yml and the pages, with links as they are on the site, into a folder.

    Args:
        folder: Path of an empty folder.

    Raises:
        ValueError: If a link leads nowhere, or mkdocs.yml and the pages differ.
    """
    names = pages()
    config = CONFIG.read_text("utf-8")
    listed = re.findall(r": (\S+\.md)$", config.partition("\nnav:\n")[2], re.MULTILINE)
    if sorted(listed) != sorted(names.values()):
        odd = ", ".join(sorted({*listed} ^ {*names.values()})) or "a page twice"
        raise ValueError(f"mkdocs.yml must list each page once. Received: {odd}")
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in (".png", ".svg", ".css"):
            target = folder / "docs" / path.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    for path, name in names.items():
        text = (ROOT / path).read_text("utf-8")
        text = notebook_as_markdown(json.loads(text)) if path.endswith(".ipynb") else text
        target = folder / "docs" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(with_links_of_the_site(text, path, names), "utf-8")
    for path in ("keras_smlp", "tools"):
        (folder / path).symlink_to(ROOT / path)
    (folder / "mkdocs.yml").write_text(config, "utf-8")


def notebook_as_markdown(notebook):
    """The cells of a notebook, which has no outputs: text as it is, code as code."""
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"]).strip()
        cells.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(cells) + "\n"


def with_links_of_the_site(text, path, names):
    """A page whose links to files of the project lead to pages of the site, and names to the API.

    Args:
        text: String, Markdown.
        path: String. Where the text is, relative to the root.
        names: Dict from paths to names on the site, see `pages`.

    Returns:
        The text. Of a link to a file that is no page, only its words are left.

    Raises:
        ValueError: If there is no such file.
    """

    def changed(found):
        picture, words, target = found.groups()
        target, hash_, anchor = target.partition("#")
        if "://" in target or not target or target.startswith("mailto:"):
            return found[0]
        file = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if not (ROOT / file).exists():
            raise ValueError(f"{path}: no file {target}, to which a link leads")
        here = os.path.dirname(names[path]) or "."
        if file in names:
            return f"{picture}[{words}]({os.path.relpath(names[file], here)}{hash_}{anchor})"
        if picture and file.startswith("docs/"):
            return f"![{words}]({os.path.relpath(file.removeprefix('docs/'), here)})"
        return words

    parts = CODE.split(text)
    for i in range(0, len(parts), 2):
        parts[i] = NAME.sub(linked, LINK.sub(changed, parts[i]))
    return "".join(parts)


def build(folder):
    """Runs Zensical; any line that it prints beside its usual ones is an error."""
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    said = [line for line in said.splitlines() if not QUIET.match(line)]
    if done.returncode or said:
        raise ValueError("\n".join(["the site has warnings:", *said]))


if __name__ == "__main__":
    main()
