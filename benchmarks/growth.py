"""How cost grows with the batch, the input size and the variant: counted, and fitted to times."""

import math

from reference import stand_in

EXPANSION, PATCH = 3, 4
NOISE = 0.05  # an exponent within it of 1 is linear


def parts(variant, size):
    """Multiply-adds of one image, by part of the network: those of its products and convolutions.

    Normalizations, GELU and sums are left out. A training step costs three times as many.
    """
    dim, depths, _, classes = stand_in.VARIANTS[variant]
    side, channels, before = size // PATCH, dim, 3 * PATCH**2
    names = ("patches", "depthwise", "axial", "fuse", "channel mixing", "head")
    found = dict.fromkeys(names, 0)
    for stage, depth in enumerate(depths):
        if stage:
            side, channels, before = side // 2, 2 * channels, 4 * channels
        positions = side**2
        found["patches"] += positions * before * channels
        found["depthwise"] += depth * positions * 9 * channels
        found["axial"] += depth * positions * 2 * side * channels
        found["fuse"] += depth * positions * 3 * channels**2
        found["channel mixing"] += depth * positions * 2 * EXPANSION * channels**2
    found["head"] = channels * classes
    return found


def macs(variant, size):
    """Multiply-adds of one image."""
    return sum(parts(variant, size).values())


def exponent(x, y):
    """The slope of a straight line through the logarithms, by least squares; None of nothing."""
    if len(set(x)) < 2 or min(y) <= 0:
        return None
    x, y = [math.log(each) for each in x], [math.log(each) for each in y]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


SERIES = {
    "batch": lambda row: row["batch"],
    "pixels": lambda row: row["size"] ** 2,
    "multiply-adds": lambda row: macs(row["variant"], row["size"]),
}


def series(rows, first):
    """What is drawn over -> the rows that differ in nothing else from the first case."""
    variant, size, batch = first
    return {
        "batch": [row for row in rows if (row["variant"], row["size"]) == (variant, size)],
        "pixels": [row for row in rows if (row["variant"], row["batch"]) == (variant, batch)],
        "multiply-adds": [row for row in rows if (row["size"], row["batch"]) == (size, batch)],
    }


def contenders(rows):
    """(contender, backend, precision) -> its rows."""
    found = {}
    for row in rows:
        found.setdefault((row["contender"], row["backend"], row["precision"]), []).append(row)
    return found


def fits(rows, first):
    """(contender, what it grows with) -> the exponents of a call's time and of its memory."""
    found = {}
    for name, own in contenders(rows).items():
        for axis, chosen in series(own, first).items():
            x = [SERIES[axis](row) for row in chosen]
            seconds = [row["ms_per_image"] * row["batch"] for row in chosen]
            memory = [row["calls_memory_mb"] for row in chosen]
            found[name, axis] = exponent(x, seconds), exponent(x, memory)
    return found


def report(rows, first):
    """Lines of Markdown: the exponents, and what grows faster than linear in the pixels."""
    found = fits(rows, first)
    show = lambda x: "" if x is None else f"{x:.2f}"  # noqa: E731
    yield (
        "| contender | backend | precision | "
        + " | ".join(f"time ~ {axis}^ | memory ~ {axis}^" for axis in SERIES)
        + " |"
    )
    yield "|---" * (3 + 2 * len(SERIES)) + "|"
    for name in contenders(rows):
        cells = [show(x) for axis in SERIES for x in found[name, axis]]
        yield f"| {' | '.join((*name, *cells))} |"
    variant = first[0]
    sizes = sorted({row["size"] for row in series(rows, first)["pixels"]})
    if len(sizes) < 2:
        return
    least, most = sizes[0], sizes[-1]
    counts = [parts(variant, size) for size in sizes]
    yield f"\n| part of {variant} | of the multiply-adds at {least}, {most} | ~ pixels^ |"
    yield "|---|---|---|"
    pixels, faster = [size**2 for size in sizes], []
    for part in counts[0]:
        slope = exponent(pixels, [count[part] for count in counts])
        shares = (100 * count[part] / sum(count.values()) for count in (counts[0], counts[-1]))
        yield f"| {part} | {', '.join(f'{share:.1f}%' for share in shares)} | {show(slope)} |"
        if slope > 1 + NOISE:
            faster.append(f"{part} (counted, pixels^{show(slope)})")
    for name in contenders(rows):
        slope = found[name, "pixels"][0]
        if slope is not None and slope > 1 + NOISE:
            faster.append(f"{' '.join(name)} (timed, pixels^{show(slope)})")
    yield f"\nFaster than linear in the pixels: {'; '.join(faster) or 'nothing'}."


def plot(path, rows, first):
    """Draws the time of a call over batch, pixels and multiply-adds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(SERIES), 4), layout="constrained")
    for axes, axis in zip(figure.subplots(1, len(SERIES)), SERIES, strict=True):
        for name, own in contenders(rows).items():
            points = sorted(
                (SERIES[axis](row), row["ms_per_image"] * row["batch"])
                for row in series(own, first)[axis]
            )
            axes.loglog(*zip(*points, strict=True), marker="o", label=" ".join(name))
        axes.set(xlabel=axis, ylabel="ms per call")
        axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
    figure.savefig(path)
