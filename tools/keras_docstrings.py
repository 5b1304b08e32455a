"""An extension of Griffe for the site: reads docstrings in Keras' style as Google's style.

Google's style has no `Call arguments`, `Input shape`, `Output shape` and `Reference`: these become
text under a title. It wants examples indented, under `Examples`. And Markdown wants a row of a
table in one line.
"""

import re
import textwrap

import griffe

EXAMPLE = re.compile(r"^Example:\n\n(?=>>> )(.*)\Z", re.MULTILINE | re.DOTALL)
SECTION = re.compile(
    r"^(Call arguments|Input shape|Output shape|Reference):\n((?:    .*(?:\n|\Z)|\n)+)",
    re.MULTILINE,
)
ARGUMENT = re.compile(r"^(\w+): ", re.MULTILINE)
HALF_A_ROW = re.compile(r"^(\|.*[^|\n])\n(?=[^|\n].*\|$)", re.MULTILINE)


class KerasDocstrings(griffe.Extension):
    """Changes each docstring as it is read."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = google_style(obj.docstring.value)


def google_style(text):
    """A docstring in Keras' style, without its indentation, as one in Google's style."""
    text = EXAMPLE.sub(lambda found: "Examples:\n" + textwrap.indent(found[1], "    "), text)
    return HALF_A_ROW.sub(r"\1 ", SECTION.sub(titled, text))


def titled(found):
    """A section as text under a title; arguments become a list."""
    title, content = found[1], textwrap.dedent(found[2])
    if title == "Call arguments":
        content = ARGUMENT.sub(r"- `\1`: ", content)
    return f"**{title}:**\n\n{content}"
