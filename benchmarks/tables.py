"""What people see of the rows: Markdown and a picture."""

COLUMNS = {
    "contender": "{contender}",
    "backend": "{backend} {version}",
    "precision": "{precision}",
    "ms per image: minimum, median": "{ms_per_image:.2f}, {median_ms_per_image:.2f}",
    "images/s": "{images_per_second:.1f}",
    "to the peer": "{ratio_to_peer:.2f}",
    "to the float32 peer": "{ratio_to_float32_peer:.2f}",
    "to the limit": "{ratio_to_limit:.2f}",
    "memory, MB": "{memory_mb:.0f}",
    "of the device, MB": "{device_memory_mb:.0f}",
    "compiling, s": "{compile_seconds:.1f}",
    "called by": "{setting}",
    "difference": "{difference:.1e}",
}


def line(*cells):
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def head(*names):
    """The two lines that a Markdown table begins with."""
    return f"{line(*names)}\n{'|---' * len(names)}|"


def table(found):
    """Lines of Markdown: what the rows of a case share, then a line for each."""
    one = found[0]
    shared = [
        f"{one['variant']}, {one['size']} x {one['size']}, batch {one['batch']}, {one['mode']}",
        f"{one['threads']} threads",
        *dict.fromkeys(row["device"] for row in found),
        *dict.fromkeys(row["limit"] for row in found),
    ]
    yield f"\n{'; '.join(shared)}\n"
    columns = {name: [cell(form, row) for row in found] for name, form in COLUMNS.items()}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    if all(row["precision"] == "float32" for row in found):
        columns.pop("to the float32 peer", None)  # the same as the one before
    yield head(*columns)
    yield from map(line, *columns.values())


def cell(form, row):
    """A cell; empty where the row has no value for it."""
    try:
        return form.format(**{key: value for key, value in row.items() if value is not None})
    except KeyError:
        return ""


def plot(path, cases):
    """Draws a bar for each row, a panel for each case; dashed lines are the limits."""
    from matplotlib.figure import Figure

    size = (8 * len(cases), 0.35 * max(map(len, cases)) + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    for axes, found in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        one = found[0]
        names = [f"{row['contender']}, {row['backend']}, {row['precision']}" for row in found]
        times = [row["ms_per_image"] for row in found]
        colors = ["C7" if row["contender"].startswith("official") else "C0" for row in found]
        bars = axes.barh(range(len(found)), times, color=colors)
        axes.bar_label(bars, [f"{x:.3g}" for x in times], padding=3, fontsize=8)
        limits = {row["limit"]: row["ms_per_image"] / row["ratio_to_limit"] for row in found}
        for milliseconds in limits.values():
            axes.axvline(milliseconds, color="C3", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(found)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="ms per image", xlim=(0, 1.1 * max(times)))
        axes.set_title(f"{one['variant']}, {one['size']} px, batch {one['batch']}, {one['mode']}")
    figure.savefig(path)
