"""What a run leaves for people: the summary and the pictures."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="train.py needs it")
matplotlib = pytest.importorskip("matplotlib", reason="draws the pictures")

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402 - asked for first

from keras_smlp.training import evaluation, report  # noqa: E402

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("best", "rows"), [(1, ["1", "3"]), (3, ["3"])])
def test_the_summary_has_a_row_for_the_best_and_the_last_epoch(best, rows, tmp_path):
    run = SimpleNamespace(
        engine=SimpleNamespace(is_main=True, describe=lambda: "a device"),
        rows=[{"epoch": i, "loss": 1 / i} for i in (1, 2, 3)],
        best_score={"epoch": best, "weights": "val"},
    )
    model = SimpleNamespace(count_params=lambda: 1000)
    score = evaluation.Score(9, 80.0, 90.0, 0.5, 87.5)
    report.Results(tmp_path, model, ["a"], run).end(score, 1.0)
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert "- balanced accuracy: 87.500, the mean over the classes" in lines
    table = lines[lines.index("| epoch | loss |") + 2 :]
    assert [line.split("|")[1].strip() for line in table] == rows


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Function that calls a function with a path, and gives the figure that it saves there."""

    def draw(function, *arguments):
        found = []
        save = matplotlib.figure.Figure.savefig

        def noting(self, path, **options):
            found.append(self)
            save(self, path, **options)

        monkeypatch.setattr(matplotlib.figure.Figure, "savefig", noting)
        function(tmp_path / "a.png", *arguments)
        return found[0]

    return draw


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 30])
def test_epochs_are_whole_numbers(figure, epochs):
    rows = [
        {"epoch": i + 1, "loss": 1.0, "accuracy": 0.5, "learning_rate": 1} for i in range(epochs)
    ]
    for axes in figure(report.plot_curves, rows).axes:
        low, high = axes.get_xlim()
        ticks = [x for x in axes.get_xticks() if low <= x <= high]
        assert ticks and all(x == round(x) and 1 <= x <= epochs for x in ticks), ticks


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 64, 64), (9, 32, 64), (2, 48, 24)])
def test_titles_are_inside_the_picture_and_beside_the_images(figure, shape):
    names = ["W" * 40, "cost $5 and $6", "a\nb"]
    targets = np.array([[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]] * 3)[: shape[0]]
    drawn = figure(report.plot_batch, np.zeros((*shape, 3)), targets, names)
    [axes] = drawn.axes
    renderer = FigureCanvasAgg(drawn).get_renderer()
    pictures = [image.get_window_extent(renderer) for image in axes.images]
    for text, picture in zip(axes.texts, pictures, strict=True):
        box = text.get_window_extent(renderer)
        assert box.y0 >= picture.y1 and box.y1 <= drawn.bbox.y1 and box.x0 >= 0
        assert box.x1 <= drawn.bbox.x1 and text.get_text().count("\n") == 1
        assert not any(box.overlaps(x) for x in pictures)


def test_a_class_alone_has_no_number_and_dollars_stay():
    names = ["cost $5 and $6", "cat\n", "\udcff"]
    assert report.in_words(np.array([1.0, 0, 0]), names) == "cost $5 and $6"
    assert report.in_words(np.array([0.03, 0.03, 0.94]), names) == "\\udcff"
    assert report.in_words(np.array([0.3, 0.7, 0]), names) == "cat\\n 0.70\ncost $5 and $6 0.30"


def test_names_with_dollars_are_drawn_as_they_are(figure):
    for name in ("$", "$$", "$\\frac$", "a $b", "\udcff", "{$}_^"):
        images, targets = np.zeros((1, 8, 8, 3)), np.ones((1, 1))
        [axes] = figure(report.plot_batch, images, targets, [name]).axes
        assert not axes.texts[0].get_parse_math()


@pytest.mark.parametrize(
    ("argv", "typed"),
    [
        (["/v/bin/keras-smlp", "train", "--data.dir", "a b"], "keras-smlp train --data.dir 'a b'"),
        (["train.py", "--eval"], "python train.py --eval"),
        (["/v/keras_smlp_cli/__main__.py", "train"], "python -m keras_smlp_cli train"),
    ],
)
def test_the_command_is_what_was_typed(argv, typed):
    assert report.command(argv) == typed
