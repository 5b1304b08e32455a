"""An extension of Griffe for the site: reads docstrings in Keras' style as Google's style.

Google's style has no `Call arguments`, `Input shape`, `Output shape` and `Reference`: these become
text under a title. It wants examples indented, under `Examples`. Markdown wants a row of a table in
one line. And a public name in backticks leads to its own docstring.
"""

import re
import textwrap
from pathlib import Path

import griffe

EXAMPLE = re.compile(r"^Example:\n\n(?=>>> )(.*)\Z", re.MULTILINE | re.DOTALL)
TITLES = ["Call arguments", "Input shape", "Output shape", "Reference"]
ARGUMENT = re.compile(r"^(\w+): ", re.MULTILINE)
HALF_A_ROW = re.compile(r"^(\|.*)\n(?=[^|\n].*\|$)", re.MULTILINE)
PAGE = Path(__file__).parents[1] / "docs" / "api.md"
PUBLIC = {*re.findall(r"^::: (\S+)", PAGE.read_text("utf-8"), re.MULTILINE)}
# alone or called
NAME = re.compile(r"(?<!\[)`(keras_smlp[\w.]+)(?:\([^`]*\))?`")


class KerasDocstrings(griffe.Extension):
    """Changes each docstring as it is read."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = google_style(obj.docstring.value, obj.is_class)


def google_style(text, is_class):
    """A docstring in Keras' style as one in Google's style.

    Args:
        text: String, without indentation.
        is_class: Boolean. What a layer returns is text too, as it has no type to be shown.

    Returns:
        A string.
    """
    text = EXAMPLE.sub(lambda found: "Examples:\n" + textwrap.indent(found[1], "    "), text)
    titles = "|".join([*TITLES, *(["Returns"] if is_class else [])])
    section = re.compile(rf"^({titles}):\n((?:    .*(?:\n|\Z)|\n)+)", re.MULTILINE)
    return NAME.sub(linked, HALF_A_ROW.sub(r"\1 ", section.sub(titled, text)))


def titled(found):
    """A section as text under a title; arguments become a list."""
    title, content = found[1], textwrap.dedent(found[2])
    if title == "Call arguments":
        content = ARGUMENT.sub(r"- `\1`: ", content)
    return f"**{title}:**\n\n{content}"


def linked(found):
    """A public name as a link to its docstring, if api.md has that."""
    return f"[{found[0]}][{found[1]}]" if found[1] in PUBLIC else found[0]
