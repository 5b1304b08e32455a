"""How cost grows with the batch, the input size and the variant: counted, and fitted to times."""

import math
import statistics

from benchmarks import tables
from reference import stand_in

EXPANSION, PATCH = 3, 4
NOISE = 0.05  # an exponent within it of 1 is linear
CASE = ("variant", "size", "batch")


def parts(variant, size, depths=None):
    """Multiply-adds of one image, by part of the network: those of its products and convolutions.

    Normalizations, GELU and sums are left out. A training step costs three times as many.
    """
    dim, own_depths, _, classes = stand_in.VARIANTS[variant]
    side, channels, before = size // PATCH, dim, 3 * PATCH**2
    names = ("patches", "depthwise", "axial", "fuse", "channel mixing", "head")
    found = dict.fromkeys(names, 0)
    for stage, depth in enumerate(depths or own_depths):
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


def macs(variant, size, depths=None):
    """Multiply-adds of one image, by default with the variant's own depths."""
    return sum(parts(variant, size, depths).values())


def exponent(x, y):
    """The slope of a straight line through the logarithms, by least squares; None of nothing."""
    if len(set(x)) < 2 or min(y) <= 0:
        return None
    logarithms = ([math.log(value) for value in values] for values in (x, y))
    return statistics.linear_regression(*logarithms).slope


# what a cost may grow with: which part of a case changes, and the number that stands for it
AXES = {
    "batch": ("batch", lambda row: row["batch"]),
    "pixels": ("size", lambda row: row["size"] ** 2),
    "multiply-adds": ("variant", lambda row: macs(row["variant"], row["size"])),
}


def points(rows, first, axis):
    """(number on the axis, row) of the rows that differ in nothing else from the first case."""
    changes, number = AXES[axis]
    fixed = {key: value for key, value in zip(CASE, first, strict=True) if key != changes}
    return [(number(row), row) for row in rows if fixed.items() <= row.items()]


def contenders(rows):
    """(contender, backend, precision) -> its rows."""
    found = {}
    for row in rows:
        found.setdefault((row["contender"], row["backend"], row["precision"]), []).append(row)
    return found


def call_time(row):
    """Milliseconds of a call."""
    return row["ms_per_image"] * row["batch"]


def fits(rows, first):
    """(contender, what it grows with) -> the exponents of a call's time and of its memory."""
    found = {}
    for name, own in contenders(rows).items():
        for axis in AXES:
            x, chosen = zip(*points(own, first, axis), strict=True)
            memory = [row["calls_memory_mb"] for row in chosen]
            found[name, axis] = exponent(x, list(map(call_time, chosen))), exponent(x, memory)
    return found


def report(rows, first):
    """Lines of Markdown: the exponents, and what grows faster than linear in the pixels."""
    found, variant = fits(rows, first), first[0]
    show = lambda x: "" if x is None else f"{x:.2f}"  # noqa: E731
    costs = [f"{cost} ~ {axis}^" for axis in AXES for cost in ("time", "memory")]
    yield tables.head("contender", "backend", "precision", *costs)
    for name in contenders(rows):
        yield tables.line(*name, *(show(x) for axis in AXES for x in found[name, axis]))
    sizes = sorted({row["size"] for _, row in points(rows, first, "pixels")})
    if len(sizes) < 2:
        return
    yield f"\n| part of {variant} | of the multiply-adds at {sizes[0]}, {sizes[-1]} | ~ pixels^ |"
    yield "|---|---|---|"
    counts, faster = [parts(variant, size) for size in sizes], {}
    for part in counts[0]:
        slope = exponent([size**2 for size in sizes], [count[part] for count in counts])
        shares = (count[part] / sum(count.values()) for count in (counts[0], counts[-1]))
        yield tables.line(part, ", ".join(f"{share:.1%}" for share in shares), show(slope))
        faster[f"{part} (counted"] = slope
    faster |= {f"{' '.join(name)} (timed": found[name, "pixels"][0] for name in contenders(rows)}
    lines = [f"{x}, pixels^{show(s)})" for x, s in faster.items() if s and s > 1 + NOISE]
    yield f"\nFaster than linear in the pixels: {'; '.join(lines) or 'nothing'}."


def plot(path, rows, first):
    """Draws the time of a call over batch, pixels and multiply-adds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(AXES), 4), layout="constrained")
    for axes, axis in zip(figure.subplots(1, len(AXES)), AXES, strict=True):
        for name, own in contenders(rows).items():
            times = sorted((x, call_time(row)) for x, row in points(own, first, axis))
            axes.loglog(*zip(*times, strict=True), marker="o", label=" ".join(name))
        axes.set(xlabel=axis, ylabel="ms per call")
        axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
    figure.savefig(path)
