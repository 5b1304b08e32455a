"""The benchmark's instrument: what it counts, refuses, measures and writes. No time is judged."""

import importlib.util
import json

import pytest
from helpers.nets import BACKEND
from helpers.processes import python

from benchmarks import cases, growth
from reference import stand_in

pytestmark = pytest.mark.quick_once

KEYS = "contender backend variant mode batch precision ms_per_image ratio_to_peer ratio_to_limit"
BACKENDS = [x for x in ("torch", "tensorflow", "jax") if importlib.util.find_spec(x)]


def measured(tmp_path, *arguments, backends=(BACKEND,)):
    """The rows and the lines of the tables of a run, by default on the running backend."""
    pytest.importorskip("torch", reason="the limit and the peer are PyTorch's")
    micro = ("--variant=micro", "--rounds=1", "--seconds=0", "--backends", *backends)
    file = tmp_path / "rows.json"
    done = python("-m", "benchmarks.network", *micro, "--json", file, *arguments)
    return json.loads(file.read_text()), done.stdout.splitlines()


@pytest.mark.nightly
@pytest.mark.deep
@pytest.mark.once
def test_inference_is_measured(tmp_path):
    picture = tmp_path / "rows.png"
    options = ["--batch=2", "--plot", picture, "--peer-modes", "eager", "channels_last"]
    wanted = [("official, eager", "torch"), ("official, channels_last", "torch")]
    for form in ("keras_smlp", "keras_smlp, folded"):
        wanted += [(form, backend) for backend in BACKENDS]
    runtimes = {
        name: x.runtime
        for name, x in cases.EXPORTS.items()
        if all(map(importlib.util.find_spec, (x.runtime, x.writer)))
    }
    if runtimes:
        options += ["--exports", *runtimes]
        wanted += [(f"exported, {name}", runtime) for name, runtime in runtimes.items()]
    rows, lines = measured(tmp_path, *options, backends=BACKENDS)
    assert sorted((row["contender"], row["backend"]) for row in rows) == sorted(wanted)
    for row in rows:
        assert set(KEYS.split()) <= set(row)
        assert (row["variant"], row["mode"], row["batch"]) == ("micro", "inference", 2)
        assert row["precision"] == "float32"
        assert 0 < row["ms_per_image"] <= row["median_ms_per_image"]
        assert row["ratio_to_limit"] > 0 and row["memory_mb"] > 20 and row["idle"] < 0.05
        assert row["difference"] < 1e-5
    best = min(row["ms_per_image"] for row in rows[:2])
    assert [row["ratio_to_peer"] for row in rows] == [row["ms_per_image"] / best for row in rows]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    names, _, *cells = [line.strip("| ").split(" | ") for line in lines if line[:1] == "|"]
    table = [dict(zip(names, line, strict=True)) for line in cells]
    for shown, row in zip(table, rows, strict=True):
        assert shown["contender"] == row["contender"]
        assert shown["ms per image: minimum, median"].split(",")[0] == f"{row['ms_per_image']:.2f}"
        assert shown["to the peer"] == f"{row['ratio_to_peer']:.2f}"
        assert shown["to the limit"] == f"{row['ratio_to_limit']:.2f}"


@pytest.mark.nightly
@pytest.mark.deep
@pytest.mark.once
def test_training_is_measured_in_two_precisions(tmp_path):
    rounding = {"float32": 1e-4, "mixed_bfloat16": 0.05}
    options = "--batch=2 --mode=training --peer-modes eager --peer-optimizer fused --precision"
    rows, _ = measured(tmp_path, *options.split(), *rounding)
    names = [(row["contender"], row["precision"]) for row in rows]
    assert names == [(x, p) for x in ("official, eager", "keras_smlp") for p in rounding]
    peers, ours = rows[:2], rows[2:]
    assert peers[0]["setting"] == "AdamW, fused"
    for peer, row in zip(peers, ours, strict=True):
        assert peer["ratio_to_peer"] == 1.0
        assert row["ratio_to_peer"] == row["ms_per_image"] / peer["ms_per_image"]
        assert row["ratio_to_float32_peer"] == row["ms_per_image"] / peers[0]["ms_per_image"]
        allowed = rounding[row["precision"]]
        assert row["first_loss"] == pytest.approx(peers[0]["first_loss"], rel=allowed)


@pytest.mark.deep
@pytest.mark.once
def test_growth_varies_one_thing_at_a_time(tmp_path):
    choices = "--growth --batch 1 2 --size 64 96 --forms plain"
    rows, lines = measured(tmp_path, *choices.split())
    assert [(row["size"], row["batch"]) for row in rows] == [(64, 1), (96, 1), (64, 2)]
    assert {row["ratio_to_peer"] for row in rows} == {None}
    assert "axial (counted, pixels^1.50)" in lines[-1]


def test_multiply_adds_are_those_of_the_peer():
    torch = pytest.importorskip("torch", reason="it counts")
    from torch.utils.flop_counter import FlopCounterMode

    from reference.network import OfficialSMLPNet

    for variant in ("micro", "tiny"):
        dim, depths, side, classes = stand_in.VARIANTS[variant]
        with torch.device("meta"):
            net, x = OfficialSMLPNet(dim, depths, side, classes), torch.zeros(1, 3, side, side)
        with FlopCounterMode(display=False) as counter:
            net(x)
        assert 2 * growth.macs(variant, side) == counter.get_total_flops()


def test_exponents_are_those_of_the_times():
    name = {"contender": "mine", "backend": "none", "precision": "float32", "variant": "micro"}

    def row(size, batch):
        costs = {"ms_per_image": 3 * size**2.5, "calls_memory_mb": 2 * batch**0.5}
        return {**name, "size": size, "batch": batch, **costs}

    cases = [(64, 1), (128, 1), (192, 1), (64, 2), (64, 4)]
    rows, first = [row(*case) for case in cases], ("micro", 64, 1)
    found = growth.fits(rows, first)
    name = ("mine", "none", "float32")
    assert found[name, "pixels"] == pytest.approx((1.25, 0))
    assert found[name, "batch"] == pytest.approx((1, 0.5))
    assert found[name, "multiply-adds"] == (None, None)
    last = list(growth.report(rows, first))[-1]
    assert last.endswith(": axial (counted, pixels^1.50); mine none float32 (timed, pixels^1.25).")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--batch 0", "--batch: must be a positive integer. Received: '0'"),
        ("--threads 4096", "--threads must be at most"),
        ("--seconds inf", "--seconds must be in [0, 60]. Received: inf"),
        ("--size 100", "--size must be a multiple of 32. Received: 100"),
        ("--size 256", "--against must be none for other sizes than tiny's own, 224"),
        ("--mode training --precision int8", "int8 must not stand with --mode training"),
        ("--mode training --exports onnx", "--exports must not stand with"),
        ("--exports onnx --precision bfloat16", "needs --precision float32 or int8"),
        ("--exports float32:nowhere.onnx", "--exports must be onnx, openvino, litert or PRECISION"),
        ("--mode data", "argument --mode: invalid choice: 'data'"),
        ("--plot rows.jpg", "--plot must end in .png. Received: 'rows.jpg'"),
        ("--json nowhere/rows.json", "the folder of 'nowhere/rows.json' must exist"),
        ("--against none --backends", "must name a contender"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(arguments, words):
    done = python("-m", "benchmarks.network", *arguments.split(), status=2)
    assert done.stdout == "" and words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.deep
@pytest.mark.once
def test_a_contender_that_fails_is_named(tmp_path):
    pytest.importorskip("onnxruntime", reason="it fails")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    options = "-m benchmarks.network --variant micro --batch 1 --against none --backends --exports"
    done = python(*options.split(), f"float32:{broken}", status=1)
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("network.py: error: exported, broken.onnx on onnxruntime, float32: ")
