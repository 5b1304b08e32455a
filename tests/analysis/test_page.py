"""The page of a report: escaped, alone, readable with many classes, written whole or not at all."""

import errno
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.html_pages import Page, assert_stands_alone

pytest.importorskip("PIL.Image", reason="encodes the pictures")

from keras_smlp.analysis import charts, page  # noqa: E402 - asked for first
from keras_smlp.analysis.findings import IMAGE, Findings, Mistake  # noqa: E402

pytestmark = pytest.mark.once

ODD = ("<script>alert(1)</script>", "a \"quoted\" & 'name'", "\udcff\n", "x" * 300)


def findings(classes, count, seed=0):
    """Random predictions, a third of them right."""
    rng = np.random.default_rng(seed)
    found = Findings()
    images = np.zeros(count, IMAGE)
    images["index"] = np.arange(count)
    images["label"] = rng.integers(0, classes, count)
    other = rng.integers(0, classes, count)
    images["predicted"] = np.where(rng.uniform(size=count) < 0.3, images["label"], other)
    images["right"] = images["label"] == images["predicted"]
    images["confidence"] = rng.uniform(0.3, 1, count)
    found.images = images
    return found


def test_names_are_text_everywhere(tmp_path):
    found = findings(4, 60)
    pixels = np.zeros((8, 8, 3), "uint8")
    worst = [Mistake(3.0, 0, b'/d/<b>"it\'s".png', 0, 1, 0.9, pixels)]
    sections = [
        ("<i>", page.notes(["<b>"]) + page.code("a: '<b>'\nb: 2") + page.numbers([("<u>", "<s>")])),
        ("Classes", page.classes(found, ODD)),
        ("Confusions", page.confusions(found, ODD)),
        ("Calibration", page.calibration(found, hint="<tt>")),
        ("Worst", page.mistakes(worst, np.ones((1, *page.display_size(pixels))), ODD)),
        ("Nothing", ""),
    ]
    page.write(tmp_path / "a.html", "<title>", "</p>", sections)
    content = (tmp_path / "a.html").read_text("utf-8")
    read = assert_stands_alone(content)
    for words in ("<i>", "<b>", "<u>", "<s>", "<tt>", "<title>", "</p>", "a: '<b>'\nb: 2"):
        assert words in read.text
    for words in (ODD[0], ODD[1], "\\udcff\\n", '/d/<b>"it\'s".png'):
        assert words in read.text
    assert not {"tt", "u", "s"} & {tag for tag, _ in read.elements}
    assert "Nothing" not in read.text
    # in the matrix a name is short, and whole where one points
    titles = [x for x in re.findall(r"<title>(.*?)</title>", content) if "taken for" in x]
    assert any("&lt;script&gt;alert(1)&lt;/script&gt; taken for" in x for x in titles)


@pytest.mark.parametrize(("classes", "has_matrix"), [(3, True), (50, True), (51, False)])
def test_a_matrix_only_where_it_is_readable(classes, has_matrix):
    found = findings(classes, 2000)
    names = [f"class {k}" for k in range(classes)]
    content = page.confusions(found, names)
    assert ('aria-label="confusion matrix"' in content) == has_matrix
    if not has_matrix:
        return
    cells = re.findall(r"<title>class (\d+) taken for class (\d+): (\d+)</title>", content)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (found.images["label"], found.images["predicted"]), 1)
    assert {(int(a), int(b)): int(n) for a, b, n in cells} == {
        (a, b): counts[a, b] for a, b in zip(*np.nonzero(counts), strict=True)
    }


def rows_of(content):
    return [
        [re.sub("<small>.*</small>|<[^>]*>", "", cell).strip() for cell in cells]
        for row in re.findall("<tr>(.*?)</tr>", content)
        if (cells := re.findall("<td>(.*?)</td>", row))
    ]


def test_the_classes_are_sorted_from_the_worst_with_their_numbers():
    found = findings(8, 300)
    found.images["label"][found.images["label"] == 7] = 6  # a class without an image
    found.images["right"] = found.images["label"] == found.images["predicted"]
    content = page.classes(found, list("abcdefgh"))
    rows = rows_of(content)
    assert "not in this table: h." in Page(content).text
    expected = []
    for k in range(7):
        own = found.images[found.images["label"] == k]
        accuracy = np.mean(own["right"])
        expected.append((accuracy, -len(own), ["abcdefg"[k], f"{len(own)}", f"{accuracy:.1%}"]))
    assert rows == [row for *_, row in sorted(expected)]


def test_a_thousand_classes(tmp_path):
    names = [f"a rather long name of a class, number {k}, of a thousand" for k in range(1000)]
    found = findings(1000, 50_000)
    sections = [("A", page.classes(found, names)), ("B", page.confusions(found, names))]
    page.write(tmp_path / "a.html", "title", "subtitle", sections)
    assert (tmp_path / "a.html").stat().st_size < 1e6
    content = (tmp_path / "a.html").read_text("utf-8")
    assert_stands_alone(content)
    before, _, folded = content.partition("<details>")
    assert len(rows_of(before)) == page.LISTED
    assert len(rows_of(folded.partition("</details>")[0])) == 1000
    assert len(rows_of(folded.partition("</details>")[2])) == page.LISTED


# ---- charts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 2, 10, 300])
def test_curves_mark_the_best_epoch(epochs):
    keys = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
    rows = [{"epoch": i + 1, **dict.fromkeys(keys, 1 / (i + 1))} for i in range(epochs)]
    names = {"": "training", "val_": "validation", "ema_": "EMA"}
    best = {"epoch": max(epochs // 2, 1), "weights": "val"}
    content = page.curves(rows, best, names)
    assert content.count("<svg") == 3 and content.count('class="best" cx') == 2
    assert f"over the epochs, the best epoch {best['epoch']}" in content
    assert "validation" in content and "EMA" not in content
    assert "nan" not in content and "inf" not in content


def test_a_loss_that_is_not_finite_is_left_out():
    drawn = charts.curves([("s0", [1, 2, 3], [1.0, float("nan"), 0.5])], "loss", (3, 0.5))
    assert "nan" not in drawn and drawn.count('<circle class="s0"') == 2


@pytest.mark.parametrize("ends", [(0, 1), (0.2, 0.21), (1e-6, 3e-3), (0, 49_999), (0.6, 10.4)])
def test_ticks_are_few_and_within(ends):
    for whole in (False, True):
        found = charts.ticks(ends, whole)
        assert len(found) <= 7 and all(ends[0] - 1e-9 <= x <= ends[1] * 1.000001 for x in found)
        assert not whole or all(x == round(x) for x in found)
    assert len(charts.ticks(ends)) >= 3


# ---- pictures and files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((32, 32), (128, 128)),
        ((224, 224), (224, 224)),
        ((448, 300), (224, 150)),
        ((8, 1), (128, 16)),
    ],
)
def test_pictures_have_a_size_for_people(shape, shown):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype("uint8")
    assert page.display_size(pixels) == shown
    picture = page.enlarged(pixels)
    assert picture.shape == (*shown, 3)
    if shown[0] > shape[0]:
        factor = shown[0] // shape[0]
        np.testing.assert_array_equal(picture[::factor, ::factor], pixels)
    assert page.heated(picture, np.ones(shown)).shape == picture.shape


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.html"
    path.write_text("old")
    write = Path.write_text

    def full(self, content, *rest):
        write(self, content[:10], *rest)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError) as caught:
        page.write(path, "title", "subtitle", [])
    assert str(caught.value) == f"{path}: the report cannot be written (No space left on device)"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
