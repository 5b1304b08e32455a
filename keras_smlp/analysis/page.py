"""A report as one HTML file that needs nothing else: no network, no other file, no script."""

import base64
import io
from importlib import resources

import numpy as np

from keras_smlp.analysis import charts
from keras_smlp.analysis.charts import text
from keras_smlp.analysis.findings import expected_calibration_error
from keras_smlp.checks import shown
from keras_smlp.inference.images import as_rgb
from keras_smlp.saving import replacing

PICTURED = 50  # classes, at most, of a confusion matrix
LISTED = 20  # rows of a table that is not the whole
# sides of a picture in pixels: larger ones are made smaller, smaller ones larger
LARGEST, SMALLEST = 224, 128
# columns of a history that are drawn, and what the curves say; those that are parts of one
CURVES = {"accuracy": "accuracy", "map": "mAP", "loss": "loss", "learning_rate": "learning rate"}
PERCENTS = ("accuracy", "map")
STYLE = resources.files(__package__).joinpath("page.css").read_text("utf-8")
# a browser loads nothing from anywhere, whatever the names in the page are
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write(path, title, subtitle, sections):
    """Writes a page, as a whole or not at all.

    Args:
        path: Path of the file.
        title: String.
        subtitle: String.
        sections: List of pairs (heading, HTML), of which empty ones are left out.

    Raises:
        OSError: If it cannot be written.
    """
    sections = [(heading, content) for heading, content in sections if content]
    links = "".join(
        f'<a href="#part{i}">{text(heading)}</a>' for i, (heading, _) in enumerate(sections)
    )
    parts = "".join(
        f'<section id="part{i}"><h2>{text(heading)}</h2>{content}</section>'
        for i, (heading, content) in enumerate(sections)
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{text(title)}</h1><p>{text(subtitle, None)}</p><nav>{links}</nav></header>"
        f"<main>{parts}</main></body></html>\n"
    )
    try:
        with replacing(path) as temporary:
            temporary.write_text(page, "utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{shown(path)}: the report cannot be written ({reason})") from error


# ---- parts --------------------------------------------------------------------------------------
def numbers(pairs):
    """The most important numbers, large: pairs of what it is and the number."""
    return '<dl class="tiles">' + "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs
    ) + "</dl>"  # fmt: skip


def notes(sentences):
    """Paragraphs."""
    return "".join(f"<p>{text(sentence, None)}</p>" for sentence in sentences)


def code(words):
    """Something to copy: a command or a program."""
    return f"<pre>{text_of_lines(words)}</pre>"


def folded(summary, content):
    """What is shown when one asks for it."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def text_of_lines(value):
    """Several lines, of any length."""
    return "\n".join(text(line, None) for line in value.splitlines())


def table(heads, rows):
    """A table.

    Args:
        heads: List of strings, the first row. The first column has names, the others have numbers.
        rows: Lists of HTML.
    """
    head = "".join(f"<th>{text(x)}</th>" for x in heads)
    body = "".join(f"<tr>{''.join(f'<td>{x}</td>' for x in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def legend(names):
    """What the colors of a chart mean: pairs of the color's class and a name."""
    items = "".join(f'<li><i class="{kind}"></i>{text(name)}</li>' for kind, name in names)
    return f'<ul class="legend">{items}</ul>'


def part_bar(part, words):
    """A part of one as a bar and in words."""
    return f'<span class="part"><i style="width:{100 * part:.0f}%"></i></span> {text(words)}'


# ---- sections -----------------------------------------------------------------------------------
def curves(rows, best, names):
    """The curves of a run.

    Args:
        rows: List of dicts, the history: a row per epoch.
        best: Dict with the `epoch` that is best and the `weights` (a prefix) of it.
        names: Dict from prefixes of the keys of a row to names of curves.
    """
    drawn, epochs = [], [row["epoch"] for row in rows]
    kinds = dict(zip(names, ("s0", "s1", "s2"), strict=True))
    for name, label in CURVES.items():
        present = [prefix for prefix in names if prefix + name in rows[0]]
        if not present:
            continue
        series = [(kinds[x], epochs, [row[x + name] for row in rows]) for x in present]
        key = f"{best['weights']}_{name}"
        value = rows[best["epoch"] - 1].get(key)
        mark = None if value is None else (best["epoch"], value)
        drawn.append(f"<div>{charts.curves(series, label, mark, name in PERCENTS)}</div>")
    present = [x for x in names if x + "loss" in rows[0]]
    known = legend([(kinds[x], names[x]) for x in present] + [("best", "best epoch")])
    return f'{known}<div class="charts">{"".join(drawn)}</div>'


def classes(findings, class_names):
    """The accuracy of each class, the worst first."""
    images, right = findings.of_classes(len(class_names))
    known = np.flatnonzero(images)
    accuracies = right[known] / images[known]
    # of equally bad ones the larger first
    order = known[np.lexsort((known, -images[known], accuracies))]
    mistaken: dict[int, list[str]] = {}
    for label, predicted, count in findings.confusions():
        mistaken.setdefault(label, []).append(f"{text(class_names[predicted], 60)} ({count})")
    heads = ["class", "images", "accuracy"]

    def row(k):
        others = f"<small>taken for {', '.join(mistaken[k][:3])}</small>" if k in mistaken else ""
        share = right[k] / images[k]
        return [
            f"{text(class_names[k])}{others}",
            f"{images[k]}",
            part_bar(share, f"{100 * share:.1f}%"),
        ]

    missing = [class_names[k] for k in np.flatnonzero(images == 0)]
    rows = [row(k) for k in order.tolist()]
    return worst_first(heads, rows, missing, charts.histogram(accuracies))


def worst_first(heads, rows, missing, chart):
    """A table of all classes, or of the worst beside a chart and of all to be unfolded.

    Args:
        heads: See `table`.
        rows: See `table`, a row for each class, the worst first.
        missing: List of the names of classes without an image.
        chart: SVG element that shows all classes.
    """
    parts = []
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        names = ", ".join(shown(name, 60) for name in missing[:LISTED])
        parts.append(notes([f"Without an image, and not in this table: {names}{more}."]))
    if len(rows) <= 1.5 * LISTED:
        return "".join([*parts, table(heads, rows)])
    worst = f"<h3>The worst {LISTED}</h3>{table(heads, rows[:LISTED])}"
    parts.append(f'<div class="side"><div class="chart">{chart}</div><div>{worst}</div></div>')
    parts.append(folded(f"All {len(rows):,} classes, the worst first", table(heads, rows)))
    return "".join(parts)


def confusions(findings, class_names):
    """Which classes are taken for which: a matrix, where there are few, and the most frequent."""
    pairs = findings.confusions()
    images, right = findings.of_classes(len(class_names))
    if not pairs:
        return notes(["No image was judged wrongly."])
    picture = ""
    if len(class_names) <= PICTURED:
        counts = np.diag(right)
        for label, predicted, count in pairs:
            counts[label, predicted] += count
        drawing, width = charts.matrix(counts, class_names)
        picture = f'<div class="scroll"><div style="width:{width}px">{drawing}</div></div>'
    rows = [
        [
            f"{text(class_names[label])} <b>→</b> {text(class_names[predicted])}",
            f"{count}",
            f"{100 * count / images[label]:.1f}%",
        ]
        for label, predicted, count in pairs[:LISTED]
    ]
    of = f"The {len(rows)} most frequent of {len(pairs):,}" if len(pairs) > LISTED else "All"
    listing = table(["true class → predicted", "images", "of the class"], rows)
    return f'<div class="side">{picture}<div><h3>{of} confusions</h3>{listing}</div></div>'


def calibration(findings, fitted=None, hint=""):
    """How sure the network is, and how sure it should be.

    Args:
        findings: The `Findings`.
        fitted: What a fitted temperature changed, an object with the attributes `nll` and `ece`
            (pairs, before and after), `loss_name` (of the first) and `bins`, the reliability with
            it; its `str` is shown too. Defaults to `None`.
        hint: String. What to say of a temperature, where there is none.
    """
    bins = findings.reliability()
    counts, confidences, right = bins.sum(axis=1)
    error = expected_calibration_error(bins)
    surer = "surer" if confidences > right else "less sure"
    said = (
        f"The network gives its predictions a probability of {100 * confidences / counts:.1f}% on "
        f"average, and {100 * right / counts:.1f}% of them are right: it is {surer} than it "
        f"should be. Expected calibration error (ECE, {bins.shape[1]} bins): {100 * error:.1f}%. "
        "Bars on the diagonal would be right as often as they are sure."
    )
    return notes([said]) + reliability(bins, charts.OF_PREDICTIONS, fitted, hint)


def reliability(bins, words, fitted, hint):
    """The charts of a calibration, and what a temperature changed.

    Args:
        bins: What `findings.reliability` returns.
        words: See `charts.calibration`.
        fitted: See `calibration`.
        hint: See `calibration`.
    """
    drawing = charts.calibration(bins, fitted and fitted.bins, words)
    if not fitted:
        return f'<div class="charts"><div>{drawing}</div></div>' + (notes([hint]) if hint else "")
    rows = [
        [fitted.loss_name, *(f"{x:.4f}" for x in fitted.nll)],
        ["ECE", *(f"{100 * x:.2f}%" for x in fitted.ece)],
    ]
    said = notes([f"Fitted: {fitted}."]) + table(["", "before", "after"], rows)
    said += legend([("bar", "before, all images"), ("s1", "after, the other half")])
    return f'<div class="charts"><div>{drawing}</div><div>{said}</div></div>'


def mistakes(worst, maps, class_names):
    """The worst errors: pictures, and where the network looked.

    Args:
        worst: List of `findings.Mistake`.
        maps: Sequence of float arrays `(height, width)` in [0, 1], of the sizes that `display_size`
            gives, or `None`.
        class_names: The name of each class.
    """
    captions = [
        f"<b>{text(class_names[x.label])}</b> {percent(x.probability)}<br>"
        f'taken for <b class="no">{text(class_names[x.predicted])}</b> {percent(x.confidence)}'
        for x in worst
    ]
    return cards(worst, maps, captions)


def cards(worst, maps, captions):
    """Pictures with captions: see `mistakes`. A caption is HTML; the file's name follows it."""
    figures = []
    for i, (found, caption) in enumerate(zip(worst, captions, strict=True)):
        picture = enlarged(as_rgb(found.pixels))
        pictures = [picture] if maps is None else [picture, heated(picture, maps[i])]
        is_small = max(found.pixels.shape[:2]) < SMALLEST
        images = "".join(f'<img src="{data_uri(x, not is_small)}" alt="">' for x in pictures)
        name = found.name.decode("utf-8", "surrogateescape")
        figures.append(
            f'<figure><div class="pair">{images}</div><figcaption>{caption}'
            f"<small>{text(name)}</small></figcaption></figure>"
        )
    return f'<div class="cards">{"".join(figures)}</div>'


def percent(part):
    """A probability for people."""
    return f"{100 * part:.1f}%" if part >= 0.001 else "&lt;0.1%"


# ---- pictures -----------------------------------------------------------------------------------
def display_size(pixels):
    """The height and width at which a picture is shown."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    if longer < SMALLEST:
        factor: float = -(-SMALLEST // longer)
    else:
        factor = min(LARGEST / longer, 1)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def enlarged(pixels):
    """A picture at the size at which it is shown; small ones keep their pixels as squares."""
    from PIL import Image

    height, width = display_size(pixels)
    is_larger = height > pixels.shape[0]
    how = Image.Resampling.NEAREST if is_larger else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((width, height), how))


def heated(picture, heat):
    """A picture with a map over it: where it is large, colors; where it is small, dark gray."""
    gray = picture.mean(axis=-1, keepdims=True) * 0.55
    # black, violet, orange, yellow
    points = np.linspace(0, 1, 4)
    colors = np.array([(0, 0, 4), (120, 28, 109), (237, 105, 37), (252, 255, 164)])
    color = np.stack([np.interp(heat, points, colors[:, k]) for k in range(3)], axis=-1)
    weight = (0.15 + 0.55 * heat)[..., None]
    return np.clip(gray * (1 - weight) + color * weight, 0, 255).astype("uint8")


def data_uri(picture, as_jpeg):
    """A picture, uint8 `(height, width, 3)`, as the address of an image in the page itself."""
    from PIL import Image

    file, form = io.BytesIO(), "jpeg" if as_jpeg else "png"
    Image.fromarray(picture).save(file, form, **({"quality": 85} if as_jpeg else {}))
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture_file(path, description):
    """A picture from a file."""
    from PIL import Image

    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return f'<img class="wide" src="{data_uri(pixels, True)}" alt="{text(description)}">'
