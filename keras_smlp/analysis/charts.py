"""Charts as SVG text for a page: lines, calibration, a histogram, a confusion matrix.

Colors and fonts are those of the page: the classes `s0`, `s1` and `s2` are series, `grid`, `mark`
and so on what their names say. All text is escaped.
"""

import html
import math

import numpy as np

from keras_smlp.checks import shown

WIDTH, HEIGHT = 360, 230
# of a drawing, beside the axes
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 38
TICKS = 5
# of the name of a class at a matrix
CHARACTERS = 14
CELL, SMALL_CELL = 30, 13
NUMBERED = 20  # classes up to which the cells have numbers
NEITHER = (False, False)
LETTER = 6.2  # width of a character, at most, on average
# words of `calibration`
OF_PREDICTIONS = ("probability of the prediction", "part that is right", "images", "right")


def text(value, most=200):
    """A name from outside (a class's, a file's) for a page: escaped, and not too long."""
    return html.escape(shown(value, most))


class Axes:
    """A drawing with two axes; its methods add to it, `svg` gives it.

    Args:
        x: Pair of floats, the ends of the horizontal axis.
        y: Pair of floats, those of the vertical one.
        labels: Pair of strings, what the axes say.
        whole: Pair of booleans. Which axes have whole numbers only. Defaults to neither.
        percent: Pair of booleans. Which axes show parts of one as percents. Defaults to neither.
        height: Positive integer. Defaults to `230`.
    """

    def __init__(self, x, y, labels, whole=NEITHER, percent=NEITHER, height=HEIGHT):
        self.ends, self.height = (x, y), height
        bottom, right = height - BOTTOM, WIDTH - RIGHT
        self.parts = []
        for value in ticks(y, whole[1]):
            at = self.y(value)
            self.parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>')
            self.write(LEFT - 6, at + 4, number(value, percent[1]), "end")
        for value in ticks(x, whole[0]):
            self.write(self.x(value), bottom + 15, number(value, percent[0]), "middle")
        self.parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
        self.write((LEFT + right) / 2, height - 6, labels[0], "middle", "label")
        self.write(LEFT, 9, labels[1], "start", "label")

    def x(self, value):
        """Where a number is, in the units of the drawing."""
        low, high = self.ends[0]
        return LEFT + (value - low) / (high - low) * (WIDTH - RIGHT - LEFT)

    def y(self, value):
        """See `x`."""
        low, high = self.ends[1]
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - BOTTOM - TOP)

    def write(self, x, y, words, anchor, kind="tick"):
        """Adds text."""
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
        self.parts.append(f'<text class="{kind}" {place}>{text(words)}</text>')

    def line(self, xs, ys, kind):
        """Adds a line through the points whose values are finite; points alone, if they are few."""
        points = [(self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True) if np.isfinite(y)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        if len(points) > 1:
            self.parts.append(f'<path class="line {kind}" d="M{path}"/>')
        if len(points) < 30:
            self.parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
                           for x, y in points]  # fmt: skip

    def bar(self, left, right, low, high, kind, title):
        """Adds a rectangle, in the numbers of the axes, that says its title where one points."""
        x, y = self.x(left) + 1, self.y(high)
        size = f'width="{self.x(right) - x - 1:.1f}" height="{max(self.y(low) - y, 0):.1f}"'
        place = f'x="{x:.1f}" y="{y:.1f}"'
        self.parts.append(f'<rect class="{kind}" {place} {size}><title>{title}</title></rect>')

    def segment(self, start, end, kind):
        """Adds a straight line between two points."""
        a, b = (f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in (start, end))
        self.parts.append(f'<path class="{kind}" d="M{a}L{b}"/>')

    def svg(self, description):
        """The drawing; `description` is for those who do not see it."""
        return svg(WIDTH, self.height, self.parts, description)


def svg(width, height, parts, description):
    """An SVG element of some parts."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{text(description)}">'
        f"{''.join(parts)}</svg>"
    )


def ticks(ends, whole=False):
    """Some round numbers between the ends of an axis."""
    low, high = ends
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= raw * 0.999)
    if whole:
        step = max(math.ceil(step), 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value, percent=False):
    """A number at an axis."""
    return f"{100 * value:g}%" if percent else f"{value:.6g}".replace("e-0", "e-")


def ends(values, low=None, high=None):
    """The ends of an axis for some values, a little beyond them."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    least, most = (values.min(), values.max()) if values.size else (0.0, 1.0)
    room = 0.06 * (most - least) or abs(most) * 0.1 or 1.0
    return (
        least - room if low is None else max(low, least - room),
        most + room if high is None else min(high, most + room),
    )


def curves(series, label, best=None, percent=False):
    """Lines over the epochs.

    Args:
        series: List of `(kind, epochs, values)`; `kind` is the class that colors it.
        label: String. What the values are.
        best: Pair of the best epoch and its value, which are marked; `None` (default) for none.
        percent: Boolean. Whether the values are parts of one. Defaults to `False`.
    """
    epochs = [x for _, xs, _ in series for x in xs]
    values = [y for _, _, ys in series for y in ys]
    x = (min(epochs) - 0.4, max(epochs) + 0.4)
    y = ends(values, low=0, high=1 if percent else None)
    axes = Axes(x, y, ("epoch", label), whole=(True, False), percent=(False, percent))
    if best:
        axes.segment((best[0], y[0]), (best[0], y[1]), "mark")
    for kind, xs, ys in series:
        axes.line(xs, ys, kind)
    if best:
        place = f'cx="{axes.x(best[0]):.1f}" cy="{axes.y(best[1]):.1f}"'
        axes.parts.append(f'<circle class="best" {place} r="5"/>')
    marked = f", the best epoch {best[0]}" if best else ""
    return axes.svg(f"{label} over the epochs{marked}")


def calibration(bins, after=None, words=OF_PREDICTIONS):
    """How often predictions are right, over how sure they are; below, how many there are.

    Args:
        bins: What `findings.reliability` returns.
        after: The same with the fitted temperature, drawn as a line. Defaults to `None`.
        words: Four strings: what the axes say, what is counted, and of which a part is drawn.
            Defaults to the likeliest classes that are right.
    """
    *labels, counted, such = words
    counts, _, right = bins
    accuracies = np.divide(right, counts, out=np.zeros(len(counts)), where=counts > 0)
    edges = np.linspace(0, 1, len(counts) + 1)
    axes = Axes((0, 1), (0, 1), labels, percent=(True, True), height=270)
    for i in np.flatnonzero(counts):
        percents = [f"{100 * x:.0f}%" for x in (edges[i], edges[i + 1], accuracies[i])]
        title = f"{percents[0]} to {percents[1]} sure: {percents[2]} of {counts[i]:.0f} {such}"
        axes.bar(edges[i], edges[i + 1], 0, accuracies[i], "bar", title)
    axes.segment((0, 0), (1, 1), "mark")
    if after is not None:
        some = after[0] > 0
        axes.line(after[1][some] / after[0][some], after[2][some] / after[0][some], "s1")
    options = {"whole": (False, True), "percent": (True, False)}
    below = Axes((0, 1), (0, counts.max()), ("", counted), **options, height=130)
    for i in np.flatnonzero(counts):
        below.bar(edges[i], edges[i + 1], 0, counts[i], "soft-bar", f"{counts[i]:.0f} {counted}")
    description = f"{labels[1]}, by the {labels[0]}"
    return axes.svg(description) + below.svg(f"number of {counted} by the {labels[0]}")


def histogram(values, name="accuracy"):
    """How many classes have which accuracy, or another part of one, in tenths."""
    counts, edges = np.histogram(values, np.linspace(0, 1, 11))
    labels = (f"{name} of a class", "classes")
    options = {"whole": (False, True), "percent": (True, False)}
    axes = Axes((0, 1), (0, counts.max() * 1.06), labels, **options, height=200)
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        title = f"{count} classes from {100 * left:.0f}% to {100 * right:.0f}%"
        axes.bar(left, right, 0, count, "bar", title)
    return axes.svg(f"how many classes have which {name}")


def matrix(counts, class_names):
    """A confusion matrix: rows are the true classes, columns the predicted ones.

    Args:
        counts: Integer array `(n, n)`.
        class_names: The `n` names.

    Returns:
        The SVG element, and its width in pixels at which it is readable.
    """
    classes = len(class_names)
    has_numbers = classes <= NUMBERED
    cell = CELL if has_numbers else SMALL_CELL
    names = [text(name, CHARACTERS) for name in class_names]
    longest = max(len(shown(name, CHARACTERS)) for name in class_names)
    margin = 26 + longest * LETTER
    parts = [
        f'<text class="label" x="{margin + classes * cell / 2:.0f}" y="12" text-anchor="middle">'
        "predicted</text>",
        f'<text class="label" transform="translate(12 {margin + classes * cell / 2:.0f}) '
        'rotate(-90)" text-anchor="middle">true class</text>',
    ]
    for i, name in enumerate(names):
        middle = margin + (i + 0.5) * cell
        parts += [
            f'<text class="tick" x="{margin - 5:.0f}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{name}</text>",
            f'<text class="tick" transform="translate({middle + 4:.1f} {margin - 5:.0f}) '
            f'rotate(-90)">{name}</text>',
        ]
    totals = np.maximum(counts.sum(axis=1), 1)
    for i, row in enumerate(counts):
        for j in np.flatnonzero(row):
            x, y, part = margin + j * cell, margin + i * cell, row[j] / totals[i]
            kind = "right" if i == j else "wrong"
            title = f"{text(class_names[i])} taken for {text(class_names[j])}: {row[j]}"
            parts.append(
                f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{cell - 1}" '
                f'height="{cell - 1}" fill-opacity="{0.15 + 0.85 * math.sqrt(part):.2f}">'
                f"<title>{title}</title></rect>"
            )
            if has_numbers:
                kind = "cell strong" if part > 0.35 else "cell"
                place = f'x="{x + cell / 2:.0f}" y="{y + cell / 2 + 4:.0f}" text-anchor="middle"'
                parts.append(f'<text class="{kind}" {place}>{row[j]}</text>')
    side = margin + classes * cell
    parts.append(
        f'<rect class="frame" x="{margin:.0f}" y="{margin:.0f}" width="{classes * cell}" '
        f'height="{classes * cell}"/>'
    )
    return svg(math.ceil(side + 2), math.ceil(side + 2), parts, "confusion matrix"), int(side + 2)
