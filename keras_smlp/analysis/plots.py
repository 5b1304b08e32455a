"""Pictures of predictions and of learned kernels, by matplotlib."""

from pathlib import Path

import numpy as np

from keras_smlp.checks import shown
from keras_smlp.inference.images import as_rgb
from keras_smlp.saving import replacing

CHARACTERS = 40  # of a name
MOST_BLOCKS = 4  # that are drawn of a stage; of a stage with more, the first and the last


def plot_kernels(path, kernels):
    """Draws the axial kernels: a row per stage, the width and the height matrix of its blocks.

    Of a stage of more than four blocks the first and the last are drawn. The colors of a stage
    are centered on zero and share a scale.

    Args:
        path: Path of the picture. Its folder must exist.
        kernels: What `keras_smlp.explain.axial_kernels` returns.

    Raises:
        ModuleNotFoundError: If matplotlib (the extra `predict`) is not installed.
    """
    from matplotlib.figure import Figure

    stages = [name.removesuffix("_width") for name in kernels if name.endswith("_width")]
    drawn_blocks = {stage: blocks_shown(len(kernels[f"{stage}_width"])) for stage in stages}
    columns = 2 * max(map(len, drawn_blocks.values()))
    size = (2.6 * columns + 1, 3 * len(stages))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(stages), columns, squeeze=False)
    for stage, row in zip(stages, grid, strict=True):
        pairs = [(axis, block) for block in drawn_blocks[stage] for axis in ("width", "height")]
        count = len(kernels[f"{stage}_width"])
        largest = max(np.abs(kernels[f"{stage}_{axis}"][block]).max() for axis, block in pairs) or 1
        for axes, (axis, block) in zip(row, pairs, strict=False):
            matrix = kernels[f"{stage}_{axis}"][block]
            drawn = axes.imshow(matrix, cmap="RdBu_r", vmin=-largest, vmax=largest)
            line = "column" if axis == "width" else "row"
            title = f"{stage.replace('stage', 'stage ')}, block {block + 1} of {count}, {axis}"
            axes.set_title(title, fontsize=8)
            axes.set_xlabel(f"input {line}", fontsize=8)
            axes.set_ylabel(f"output {line}", fontsize=8)
            axes.tick_params(labelsize=7)
            axes.locator_params(integer=True)
        for axes in row[len(pairs) :]:
            axes.axis("off")
        figure.colorbar(drawn, ax=row.tolist(), label="weight", pad=0.01)
    save(figure, path)


def blocks_shown(count):
    """Which blocks of a stage are drawn."""
    return range(count) if count <= MOST_BLOCKS else (0, count - 1)


def plot_predictions(path, titles, images, predictions, maps=None):
    """Draws images beside bars of their likeliest classes, a row each.

    Args:
        path: Path of the picture. Its folder must exist.
        titles: Sequence of `n` strings, one over each image.
        images: uint8 array `(n, height, width, channels)`, at least one; of other channels than RGB
            the first three are drawn, or one as gray.
        predictions: Sequence of `n` lists of `(name, probability)`, the likeliest first.
        maps: Array `(n, height, width)` in [0, 1], drawn over each image in a column of its own,
            such as `keras_smlp.explain.grad_cam` returns. Defaults to `None`.

    Raises:
        ModuleNotFoundError: If matplotlib (the extra `predict`) is not installed.
    """
    from matplotlib.figure import Figure

    columns = 2 if maps is None else 3
    figure = Figure(figsize=(3.2 * columns + 1, 2.6 * len(images)), layout="constrained")
    for i, axes in enumerate(figure.subplots(len(images), columns, squeeze=False)):
        for panel in axes[:-1]:
            panel.imshow(as_rgb(images[i]))
            panel.axis("off")
        # a name may have dollars, line breaks and what is no Unicode
        axes[0].set_title(shown(titles[i], CHARACTERS), fontsize=8, parse_math=False)
        names = [shown(name, CHARACTERS) for name, _ in predictions[i]]
        probabilities = [probability for _, probability in predictions[i]]
        if maps is not None:
            axes[1].imshow(maps[i], cmap="inferno", vmin=0, vmax=1, alpha=0.5)
            axes[1].set_title(f"Grad-CAM: {names[0]}", fontsize=8, parse_math=False)
        axes[-1].barh(range(len(names)), probabilities)
        axes[-1].set(xlim=(0, 1), xlabel="probability")
        axes[-1].set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
        axes[-1].invert_yaxis()
    save(figure, path)


def save(figure, path):
    """Writes a figure, atomically."""
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary)
