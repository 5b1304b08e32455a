"""An HTML page, read as a browser does it."""

from html.parser import HTMLParser

EMPTY = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements and the text of a page.

    Attributes:
        elements: List of pairs (tag, dict of its attributes).
        text: The text outside of the style.
        errors: Tags that were closed and not open, or the other way round.
    """

    def __init__(self, content):
        super().__init__()
        self.elements, self.text, self.errors, self.open = [], "", [], []
        self.feed(content)
        self.close()
        self.errors += self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # of SVG
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.errors.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def addresses(self):
        """Whatever the page refers to."""
        names = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
        return [x[name] for _, x in self.elements for name in names if name in x]


def assert_stands_alone(content):
    """The page is whole, runs nothing and loads nothing; returns the `Page`."""
    page = Page(content)
    assert not page.errors
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "base"}
    assert all(x.startswith(("data:image/", "#part")) for x in page.addresses()), page.addresses()
    assert not [key for _, x in page.elements for key in x if key.startswith("on")]
    style = content.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme:dark" in style
    return page
