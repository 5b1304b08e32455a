"""A figure that stands in several places is the same in each: README, docs, configs, the code."""

import re

import pytest
from helpers.processes import ROOT

import keras_smlp

yaml = pytest.importorskip("yaml", reason="reads configurations")
pytestmark = pytest.mark.once
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "configs").glob("*.yaml"),
    ]
}
RESULTS, SPEED = TEXTS["docs/results.md"], TEXTS["docs/performance.md"]


def table(text, begin):
    """The rows of the first table after some words, as lists of cells, the header first."""
    assert text.count(begin) == 1, begin
    found = re.search(r"(?:^\|.*\n)+", text[text.index(begin) :], re.MULTILINE)
    lines = [line for line in found[0].splitlines() if not re.fullmatch(r"[|: -]+", line)]
    assert len(lines) > 1, begin
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# ---- the published networks ----------------------------------------------------------------------


def test_published_figures_are_those_of_the_table_in_the_code():
    _, *rows = table(TEXTS["README.md"], "## The published networks")
    assert rows == [
        [
            f"`SMLPNet{v.name.capitalize()}`",
            f"{v.parameters:,}",
            f"{v.published_top1}%",
            f"`{v.checkpoint}`" if v.checkpoint else "none",
        ]
        for v in keras_smlp.VARIANTS.values()
    ]
    for v in keras_smlp.VARIANTS.values():
        config = TEXTS[f"configs/smlpnet_{v.name}_imagenet.yaml"]
        assert f"\n# Reaches: {v.published_top1}% (published by the authors" in config


def test_what_follows_from_their_sizes():
    tiny, small = keras_smlp.VARIANTS["tiny"], keras_smlp.VARIANTS["small"]
    millions = round(tiny.parameters / 1e6)
    assert f"and {millions} million weights:" in TEXTS["docs/accelerators.md"]
    blocks = sum(small.depths)
    stem = f"{0.9 ** (blocks + 1):.3f}", f"{0.75 ** (blocks + 1):.5f}"
    said = f"sMLPNet-small has {blocks} blocks: 0.9 gives the stem {stem[0]} of the rate,\n"
    assert said + f"0.75 gives it {stem[1]}." in TEXTS["docs/recipe.md"]


def test_they_stand_nowhere_else():
    elsewhere = re.compile(r"\b\d\d,\d{3},\d{3}\b|\b8[134]\.[149]%|\b8[134]\.[149] \(base")
    having = {name for name, text in TEXTS.items() if elsewhere.search(text)}
    configs = {f"configs/smlpnet_{name}_imagenet.yaml" for name in keras_smlp.VARIANTS}
    assert having - {"docs/results.md", "docs/performance.md"} == {"README.md", *configs}


# ---- parity and speed ----------------------------------------------------------------------------


def test_readmes_parity_is_that_of_the_results():
    readme = table(TEXTS["README.md"], "the logits differ from the official code's")
    results = table(RESULTS, "## Parity with the official code")
    logits = {row[0]: [cell.partition(" / ")[0] for cell in row[1:]] for row in results[1:]}
    assert [title.removesuffix(" logits / worst") for title in results[0]] == readme[0]
    assert {row[0]: row[1:] for row in readme[1:]} == {
        name: logits[name] for name in keras_smlp.VARIANTS
    }
    (steps,) = re.findall(r"the losses agree within (\S+)\.\n", TEXTS["README.md"])
    assert f"the losses differ from the official code's by at most {steps} on" in RESULTS


def test_readmes_speed_is_that_of_the_tables():
    header, *rows = table(TEXTS["README.md"], "The time of tiny at 224 x 224")
    assert header[1:] == ["TensorFlow", "JAX", "PyTorch", "exported, LiteRT", "LiteRT, 8 bits"]
    figures = {row[0]: row[1:] for row in rows}
    for batch, name in ((1, "inference, 1 image"), (8, "inference, 8 images")):
        begin = f"tiny, 224 x 224, batch {batch}, inference"
        ours = ratios(FLOAT32, begin, "keras_smlp")
        exported = ratios(FLOAT32, begin, "exported, litert")
        header, *lines = table(INT8, begin)
        ratio = header.index("to the float32 peer")
        (int8,) = [row[ratio] for row in lines if row[0::2][:2] == ["exported, litert", "int8"]]
        assert [*ours, *exported, int8] == figures[name]
    ours = ratios(HUGE_PAGES, "tiny, 224 x 224, batch 8, training", "keras_smlp")
    assert [*ours, "", ""] == figures["training, 8 images"]


def test_the_aims_are_compared_with_the_tables():
    measured = {row[0]: row[2] for row in table(SPEED, "## Aims and results")}
    for batch in (1, 8):
        said = []
        for kind in ("keras_smlp", "keras_smlp, folded"):
            tiny = ratios(FLOAT32, f"tiny, 224 x 224, batch {batch}, inference", kind)
            others = [
                ratios(LARGER, "| contender |", kind, f"{name}, batch {batch}")
                for name in ("small", "base")
            ]
            said.append([" / ".join(x) for x in (tiny, *others)])
        (tiny, small, base), folded = said
        assert measured[f"inference, batch {batch}: TensorFlow / JAX / PyTorch"].startswith(
            f"tiny {tiny}, small {small}, base {base}; folded {', '.join(folded)}:"
        )
    tiny = ratios(TRAINING, "tiny, 224 x 224, batch 8, training", "keras_smlp")
    said = [ratios(HUGE_PAGES, "tiny, 224 x 224, batch 8, training", "keras_smlp")]
    for name in ("small", "base"):
        said.append(ratios(LARGER_TRAINING, "| contender |", "keras_smlp", f"{name}, batch 8"))
    tiny, pages, small, base = (" / ".join(x) for x in (tiny, *said))
    assert measured["training, batch 8: TensorFlow / JAX / PyTorch"].startswith(
        f"tiny {tiny}; with huge pages tiny {pages}, small {small}, base {base}:"
    )


def between(begin, end):
    """A part of docs/performance.md."""
    assert SPEED.count(begin) == SPEED.count(end) == 1
    return SPEED[SPEED.index(begin) : SPEED.index(end)]


FLOAT32 = between("## Inference\n", "The larger networks: minimum")
LARGER = between("The larger networks: minimum", "In 8 bits (LiteRT's own")
INT8 = between("In 8 bits (LiteRT's own", "In bfloat16 (Keras' mixed")
TRAINING = between("## Training\n", "The same with the environment variable")
HUGE_PAGES = between("The same with the environment variable", "The larger networks in the same")
LARGER_TRAINING = between("The larger networks in the same", "## Growth with batch")


def ratios(text, begin, contender, title="to the peer"):
    """The ratios of a contender to the peer, in the order of the rows: TensorFlow, JAX, PyTorch.

    Args:
        text: String, a part of the page.
        begin: String. The words before the table.
        contender: String, the first cell of its rows.
        title: String. The column; its cells may be times, ratio to the peer, ratio to the limit.

    Returns:
        A list of strings.
    """
    header, *rows = table(text, begin)
    rows = [row for row in rows if row[0] == contender]
    names = [row[1].split()[0] for row in rows]
    assert names == ["tensorflow", "jax", "torch"] or len(names) == 1
    cells = [row[header.index(title)].split(", ") for row in rows]
    return [cell[1] if len(cell) == 3 else cell[0] for cell in cells]


# ---- results that are repeated -------------------------------------------------------------------


def test_the_digits():
    text = TEXTS["configs/digits.yaml"]
    model = yaml.safe_load(text)["model"]
    size = model.pop("input_size")
    network = keras_smlp.SMLPNet(**model, input_shape=(size, size, 3), classes=10)
    parameters = f"{network.count_params():,} parameters"
    assert f"({parameters})" in text and f"a network of {parameters}" in RESULTS
    _, *rows = table(RESULTS, "## The digits")
    seconds = [int(row[2].removesuffix(" s")) for row in rows]
    assert f"takes {min(seconds)} to {max(seconds)} s on" in text
    (accuracy,) = {re.search(r"Acc@1 (\S+)", row[1])[1] for row in rows}
    assert f"\n# Reaches: {float(accuracy):.1f}% (measured, seed 0;" in text
    notebook = (ROOT / "docs" / "notebooks" / "first_steps.ipynb").read_text()
    assert f"({parameters})" in notebook
    assert f"in ten epochs it reaches {float(accuracy):.0f}% (" in notebook
    for images in ("1,437 real", "360 "):
        assert images in text.replace("\n# ", " ") and images in RESULTS


def test_the_other_configurations_repeat_the_results():
    rows = table(RESULTS, "## CIFAR-10 against the official code")
    ours = [float(x) for row in rows[1:4] for x in row[1:] if x]
    said = re.search(
        r"reached ([\d.]+)\n# to ([\d.]+)% in ten epochs", TEXTS["configs/cifar10.yaml"]
    )
    assert [float(x) for x in said.groups()] == [round(min(ours), 1), round(max(ours), 1)]
    tuned = table(RESULTS, "## Fine-tuning")[1]
    assert f"of our own {tuned[1]}%, and {tuned[2]}% from scratch" in TEXTS["configs/finetune.yaml"]


def test_exports_have_the_sizes_and_differences_of_the_results():
    results = RESULTS[RESULTS.index("own runtime (exported on PyTorch)") :]
    results = {row[0]: row[2:4] for row in table(results, "own runtime") if row[1] == "as it is"}
    exports = table(TEXTS["docs/export.md"], "| backend | format | written | size, MB |")
    exports = {row[1]: row[3:5] for row in exports if row[0] == "torch"}
    assert len(exports) == 5
    for format, (size, difference) in exports.items():
        assert results[format][0] == size, format
        # of the same network; two runs of a runtime may round the last bit differently
        assert float(difference) == pytest.approx(float(results[format][1]), rel=0.25), format


def test_minutes_of_the_tests():
    row = table(TEXTS["CONTRIBUTING.md"], "| minutes on two cores")[1:]
    with_, without, *whole = [float(re.match(r"[\d.]+", x)[0]) for x in row[0][1:] + row[1][1:]]
    readme = re.search(
        r"about\s+(\d+) minutes on two cores with AVX-512, (\d+) without", TEXTS["README.md"]
    )
    assert [int(x) for x in readme.groups()] == [round(with_), round(without)]
    minutes = "\n".join("|".join(row) for row in table(TEXTS["docs/testing.md"], "## The minutes"))
    for figure in (with_, without, *whole):
        assert re.search(rf"(?<![\d.]){figure:.1f}(?![\d.])", minutes), figure


def test_the_data_pipeline():
    last = table(RESULTS[RESULTS.index("On a slower machine") :], "On a slower machine")
    milliseconds = last[1][last[0].index("processor ms")]
    accelerators = TEXTS["docs/accelerators.md"]
    assert f"if a training image takes {milliseconds} ms of processor time" in accelerators
    assert f"cores at {milliseconds} ms" in accelerators
    assert f"Here it is {milliseconds}, and" in RESULTS
