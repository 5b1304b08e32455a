"""What is read of a compiled program, and what XLA makes of the network for TPUs.

The programs are compiled where libtpu is installed: `python -m nox -s chips`, part of `nightly`.
"""

import importlib.util

import pytest
from helpers.processes import python

from benchmarks import chips, hlo

pytestmark = pytest.mark.quick_once

# a loop of three trips, a condition whose second branch is longer, an exchange of two arrays
PROGRAM = """HloModule m, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

%product (p: bf16[8,80], q: bf16[80,16]) -> bf16[8,16] {
  %p = bf16[8,80]{1,0} parameter(0)
  %q = bf16[80,16]{1,0} parameter(1)
  ROOT %dot = bf16[8,16]{1,0} dot(%p, %q)
}

%body (t: (f32[128])) -> (f32[128]) {
  %t = (f32[128]{0:T(128)}) parameter(0)
  %e = f32[128]{0:T(128)} get-tuple-element(%t), index=0
  %n = f32[128]{0:T(128)} negate(%e), backend_config={"estimated_cycles":"10"}
  ROOT %u = (f32[128]{0:T(128)}) tuple(%n)
}

%test (t.1: (f32[128])) -> pred[] {
  %t.1 = (f32[128]{0:T(128)}) parameter(0)
  ROOT %c = pred[] constant(true)
}

%short (a: f32[128]) -> f32[128] {
  ROOT %a = f32[128]{0:T(128)} parameter(0)
}

%long (b: f32[128]) -> f32[128] {
  %b = f32[128]{0:T(128)} parameter(0)
  ROOT %d = f32[128]{0:T(128)} sqrt(%b), backend_config={"estimated_cycles":"70"}
}

ENTRY %main (p0: bf16[8,80], p1: bf16[80,16], p2: f32[128], p3: pred[]) -> f32[128] {
  %p0 = bf16[8,80]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[80,16]{1,0:T(8,128)(2,1)} parameter(1)
  %p2 = f32[128]{0:T(128)} parameter(2)
  %p3 = pred[]{:T(512)} parameter(3)
  %f = bf16[8,16]{1,0:T(8,128)(2,1)} fusion(%p0, %p1), kind=kOutput, calls=%product, \
metadata={op_name="jit(f)/dot_general"}, backend_config={"estimated_cycles":"100"}
  %k = bf16[8,16]{0,1:T(8,128)(2,1)} copy(%f), backend_config={"estimated_cycles":"5"}
  %tup = (f32[128]{0:T(128)}) tuple(%p2)
  %w = (f32[128]{0:T(128)}) while(%tup), condition=%test, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %g = f32[128]{0:T(128)} get-tuple-element(%w), index=0
  %i = f32[128]{0:T(128)} conditional(%p3, %g, %g), branch_computations={%short, %long}
  %r = (f32[128]{0:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) all-reduce(%i, %f), to_apply=%add
  %odd = f32[128]{0:T(128)} custom-call(%i), custom_call_target="Unknown"
  ROOT %o = f32[128]{0:T(128)} get-tuple-element(%r), index=0
}
"""


def test_what_a_program_costs():
    found = hlo.costs(hlo.Program(PROGRAM))
    assert found.cycles == 100 + 5 + 3 * 10
    assert found.seldom == 70
    # nothing without an estimate passes for nothing
    assert found.unknown == {"all-reduce": 1, "custom-call": 1}
    assert found.operations == 7
    # rows of 80 and 16 are laid out in tiles of 128 lanes
    assert found.bytes["products"] == 2 * (8 * 128 + 80 * 128 + 8 * 128) + 2 * 4 * 128
    assert found.bytes["layout copies"] == 2 * 8 * 128 + 2 * 16 * 128
    assert found.bytes["elementwise"] == 3 * 2 * 4 * 128
    [(kind, arrays, _, runs)] = found.collectives
    assert (kind, [x.dtype for x in arrays], runs) == ("all-reduce", ["f32", "bf16"], 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--chip", "v7"), "argument --chip: invalid choice: 'v7'"),
        (("--chips", "3"), "argument --chips: invalid choice: 3"),
        (("--chip", "h100", "--chips", "256"), "--chips must be one of 1, 8 for h100"),
        (("--batch", "0"), "argument --batch: must be a positive integer"),
        (("--size", "200"), "--size must be a multiple of 32. Received: 200"),
        (("--depths", "1,1"), "--depths must be 4 numbers. Received: (1, 1)"),
        (("--only", "block 5"), "--only must be of step, stem, block 1"),
        (("--mode", "inference", "--remat"), "--remat is for --mode training"),
        (("--batch-norm", "local"), "--batch-norm local is for --mode training on several chips"),
        (("--keep", "nowhere"), "--keep must be a folder. Received: 'nowhere'"),
    ],
)
def test_what_is_refused(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["chips.py", *arguments])
    with pytest.raises(SystemExit) as status:
        chips.parse()
    assert status.value.code == 2 and message in capsys.readouterr().err


def test_a_missing_compiler_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["chips.py"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "jax" or None)
    with pytest.raises(SystemExit):
        chips.parse()
    error = capsys.readouterr().err
    assert 'libtpu is not installed: pip install "keras-smlp[jax,tpu]"' in error


# ---- compiled programs --------------------------------------------------------------------------
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="compiles where libtpu is: nox -s chips"
)


@needs_libtpu
@pytest.mark.deep
def test_a_block_for_a_tpu_has_no_copies_to_other_layouts(tmp_path):
    done = python("-m", "benchmarks.chips", "--only", "block 3", "--keep", tmp_path)
    [file] = tmp_path.iterdir()
    found = hlo.costs(hlo.Program.read(file))
    assert found.bytes["layout copies"] < 0.01 * sum(found.bytes.values())
    assert found.cycles / chips.CHIPS["v5e"].clock < 3.3e-3
    assert "a compiler's estimates, not measurements" in done.stdout


@needs_libtpu
@pytest.mark.deep
def test_what_eight_tpus_exchange(tmp_path):
    """Statistics once forward and once backward, and gradients, all in float32."""
    options = ("--chips", "8", "--only", "step", "--depths", "1,1,1,1")
    python("-m", "benchmarks.chips", *options, "--keep", tmp_path)
    [file] = tmp_path.iterdir()
    exchanged = hlo.costs(hlo.Program.read(file)).collectives
    assert {x.dtype for _, arrays, _, _ in exchanged for x in arrays} == {"f32"}
    blocks = [x for x in exchanged if "token_mixing" in x[2]]
    assert len(blocks) == 4 * 2 * 2
    assert len(exchanged) == len(blocks) + 3  # the last normalization twice, and all gradients
