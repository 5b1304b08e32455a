"""Hostile, malformed and randomly damaged `.pth` files: nothing in them is run.

KERAS_SMLP_FUZZ sets how many files are damaged at random, KERAS_SMLP_FUZZ_SEED the first.
"""

import ast
import collections
import functools
import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.damage import mutate
from helpers.pth_files import (
    GOOD,
    ORDERED_DICT,
    VALUES,
    Raw,
    assemble,
    find,
    pickled,
    plant,
    reduce,
    refused,
    storage,
    tensor,
)

from keras_smlp.weights import archive, pickle_machine, pth, state_dict, stored

pytestmark = pytest.mark.once


# opcodes that `torch.save` does not write
UNUSED = {"EXT1": b"\x82\x01", "EXT2": b"\x83\x01\x00", "EXT4": b"\x84\x01\x00\x00\x00"}
UNUSED |= {"PERSID": b"P0\n", "POP": b"N0N", "DUP": b"N2", "STRING": b"S'os'\n", "LONG": b"L5L\n"}
UNUSED |= {"LONG4": b"\x8b\x01\x00\x00\x00\x01", "NEXT_BUFFER": b"\x97"}
UNUSED |= {"OBJ": b"(cargparse\nNamespace\no", "NEWOBJ_EX": b"cargparse\nNamespace\n)}\x92"}


def hostile(marker):
    """Name -> (opcodes, part of the refusal)."""
    touch = f"touch {marker}"
    command = assemble((touch,))
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    tensor_v2 = "torch._utils._rebuild_tensor_v2"
    strings = assemble("os") + assemble("system")
    renamed = assemble("torch") + assemble("_utils._rebuild_tensor_v2")
    return {
        **{
            name: (reduce(name, touch), name)
            for name in ("os.system", "posix.system", "torch.load")
        },
        **{name: (reduce(name, code), name) for name in ("builtins.eval", "__builtin__.exec")},
        **{name: (opcodes, name) for name, opcodes in UNUSED.items()},
        "getattr": (reduce("builtins.getattr", code), "builtins.getattr"),
        "stack_global": (strings + b"\x93" + command + b"R", "os.system"),
        "stack_global_memo": (strings + b"\x94\x93" + command + b"R", "os.system"),
        "unused_global": (b"cos\nsystem\n", "os.system"),
        "dotted_global": (b"ctorch\nos.system\n" + command + b"R", "torch.os.system"),
        "class_build": (b"csubprocess\nPopen\n)\x81}b", "subprocess.Popen"),
        "class_newobj": (b"csubprocess\nPopen\n" + command + b"\x81", "subprocess.Popen"),
        "newobj_ex": (b"csubprocess\nPopen\n" + command + b"}\x92", "NEWOBJ_EX"),
        "inst": (b"(" + assemble(touch) + b"ios\nsystem\n", "INST"),
        "unknown": (b"\xff", r"opcode b'\xff' unknown"),
        # The attribute path is split differently: not the function of the list.
        "alias": (b"ctorch\n_utils._rebuild_tensor_v2\n", tensor_v2),
        "alias_stack": (renamed + b"\x93", tensor_v2),
        "alias_blank": (b"c torch\nFloatStorage\n", ".torch.FloatStorage"),
        "call_tensor": (bytes(tensor()) + b")R", "REDUCE to tensor"),
        "call_storage": (b"ctorch\nFloatStorage\n)R", "REDUCE to torch.FloatStorage"),
        "call_string": (assemble("os.system") + command + b"R", "REDUCE to str"),
        "call_result": (reduce("argparse.Namespace") + command + b"R", "argparse.Namespace"),
        "call_without_tuple": (
            b"ccollections\nOrderedDict\n]R",
            "REDUCE to collections.OrderedDict",
        ),
        "ordered_dict_of_pairs": (
            reduce("collections.OrderedDict", [("a", 1)]),
            "REDUCE to collections.OrderedDict",
        ),
        "newobj_function": (find(tensor_v2) + b")\x81", f"NEWOBJ to {tensor_v2}"),
        "parameter_of_string": (
            reduce("torch._utils._rebuild_parameter", "x", True, {}),
            "REDUCE to torch._utils._rebuild_parameter",
        ),
        "build_on_global": (b"ctorch\nFloatStorage\n}b", "BUILD to torch.FloatStorage"),
        "build_on_tensor": (bytes(tensor()) + b"}b", "BUILD to tensor"),
        "build_on_list": (b"]}b", "BUILD to list"),
        "append_to_dict": (b"}Na", "APPEND to Dict"),
        "setitem_on_list": (b"]NNs", "SETITEM to list"),
        "additems_on_list": (b"](N\x90", "ADDITEMS to list"),
    }


# what may stand beside the weights: it is neither imported nor called
INERT = {"os.system", "posix.system", "torch.load", "builtins.eval", "__builtin__.exec", "getattr"}
INERT |= {"stack_global", "stack_global_memo", "unused_global", "dotted_global", "class_build"}
INERT |= {"class_newobj", "alias", "alias_stack", "alias_blank", "call_result"}


@pytest.mark.parametrize("where", ["before", "value", "entry"])
@pytest.mark.parametrize("name", hostile(""))
def test_hostile(tmp_path, name, where):
    marker = tmp_path / "marker"
    opcodes, words = hostile(marker)[name]
    path = tmp_path / "m.pth"
    if where == "before":
        # left below the result, as by an author who hides the call from the result
        refused(plant(path, b"\x80\x02" + opcodes + GOOD[2:]))
    elif where == "value":
        refused(plant(path, pickled({"model": {"w": Raw(opcodes)}})), words)
    else:
        plant(path, pickled({"model": {"w": tensor()}, "optimizer": Raw(opcodes)}))
        if name in INERT:
            np.testing.assert_array_equal(pth.read(path)["w"], VALUES.reshape(2, 3))
        else:
            refused(path, words)
    assert not marker.exists()


def test_hostile_pickles_are_live(tmp_path):
    # otherwise the absent marker of the tests above would prove nothing
    for name in ("os.system", "posix.system", "builtins.eval", "stack_global"):
        marker = tmp_path / "marker"
        pickle.loads(b"\x80\x04" + hostile(marker)[name][0] + b".")
        assert marker.exists()
        marker.unlink()


MALFORMED = {
    "odd_items": (b"}(Nu", ["SETITEMS", "without a value"]),
    "stack_global_of_int": (b"K\x01X\x01\x00\x00\x00a\x93", ["STACK_GLOBAL", "int"]),
    "underflow": (b"RRRR", ["REDUCE", "finds no value"]),
    "no_mark": (b"ttt", ["TUPLE", "finds no mark"]),
    "memo": (b"h\x07", ["BINGET", "finds no value"]),
    "memo_of_nothing": (b"(q\x00", ["BINPUT", "finds no value"]),
    "stop_early": (b"}.N", ["STOP", "before the end"]),
    "left_over": (b"NN", ["STOP", "before the end"]),
    "escape": (b"c\\qtorch\nx\n", ["torch.x"]),
    "text": (b"X\x01\x00\x00\x00\xff", ["UnicodeDecodeError"]),
    "cut": (b"X\xff\xff\xff\xff", ["damaged"]),
    "float": (b"F" + b"\x1b" * 9999 + b"\n", ["damaged", "could not convert"]),
    "mark_left": (b"(N", ["STOP", "before the end"]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize(("opcodes", "words"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_pickle(tmp_path, opcodes, words):
    refused(plant(tmp_path / "m.pth", b"\x80\x02" + opcodes + b"."), *words)


def test_global_names_are_printable_and_short(tmp_path):
    name = "\x1b[2J" + "a" * 10_000
    data = b"\x80\x04" + assemble("os") + assemble(name) + b"\x93."
    refused(plant(tmp_path / "m.pth", data), "os.")


@pytest.mark.parametrize("module", [pth, archive, state_dict, pickle_machine, stored])
def test_module_imports_nothing_that_runs_a_pickle(module):
    imported, names = set(), set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        if isinstance(node, ast.Name):
            names.add(node.id)
    allowed = ["errno", "io", "math", "os", "pathlib", "pickletools", "stat", "struct", "zipfile"]
    allowed += ["numpy", "typing", "contextlib", "collections.abc"]
    allowed += ["keras_smlp.checks", "keras_smlp.saving"]
    names_here = ("archive", "pickle_machine", "state_dict", "stored")
    allowed += [f"keras_smlp.weights.{name}" for name in names_here]
    assert imported <= set(allowed)
    assert not names & {"eval", "exec", "compile", "getattr", "globals", "vars", "__import__"}


def test_no_cost_grows_faster_than_the_file(tmp_path):
    # Where keys were hashed or values walked, these would take forever or overflow the stack.
    doubling = b")" + b"".join(
        bytes([ord("q"), i]) + b"h" + bytes([i]) + b"\x86" for i in range(99)
    )
    deep = b"]" * 100_000 + b"a" * 99_999
    marks = b"(" * 100_000 + b"t" * 100_000
    tuples = b")" + b"\x85" * 100_000
    colliding = b"}(" + b"".join(assemble(i * (2**61 - 1)) + b"N" for i in range(100_000)) + b"u"
    for opcodes in (b"}" + doubling + b"Ns", deep, marks, tuples, colliding):
        data = pickled({"model": {"w": tensor()}, "more": Raw(opcodes)})
        path = plant(tmp_path / "m.pth", data)
        start = time.process_time()
        assert list(pth.read(path)) == ["w"]
        assert time.process_time() - start < 5


# ---- random damage ------------------------------------------------------------------------------

COUNT = int(os.environ.get("KERAS_SMLP_FUZZ", 2000))
FIRST = int(os.environ.get("KERAS_SMLP_FUZZ_SEED", 0))
# Opcodes and numbers that mean something at the place where chance puts them.
TOKENS = [bytes([code]) for code in b"().0}]NRQbatusegrh\x81\x85\x86\x87\x88\x93\x94\x90\x91\x8f"]
TOKENS += [b"\xff" * 4, b"\0" * 4, b"\xff" * 8, b"\0\0\0\x80", b"PK\x01\x02", b"PK\x05\x06"]
TOKENS += [b"PK\x06\x06", b"PK\x06\x07", b"\x8a\xff", b"h\x00", b"q\x00", b"\x8a\x01\xff"]
TOKENS += [bytes(find(name.replace(" ", "."))) for name in sorted(pickle_machine.GLOBALS)]
TOKENS += [b"\n", b"\\", b"cos\nsystem\n", b"cposix\nsystem\n", ORDERED_DICT]


def swap(rng, data):
    a, b, c, d = sorted(rng.randrange(len(data)) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def seeds(marker):
    """Pickles to start from, with and without a live call before, in and after them."""
    state = {"w": tensor(), "t": tensor(sizes=(3, 2), strides=(1, 3))}
    state["b"] = tensor(storage("BFloat16", "1", 3), sizes=(3,), strides=(1,))
    model = Raw(ORDERED_DICT + assemble(state)[1:] + assemble({"_metadata": {}}) + b"b")
    args = Raw(find("argparse.Namespace") + b")\x81" + assemble({"lr": 0.1, "s": [1]}) + b"b")
    plain = pickled({"model": model, "epoch": 3, "args": args, "model_ema": {"w": tensor()}})
    call, stack = (hostile(marker)[name][0] for name in ("os.system", "stack_global"))
    memo = find("os.system") + b"q\x050" + assemble((f"touch {marker}",)) + b"q\x060h\x05h\x06R0"
    calls = [plain[:2] + call + b"0" + plain[2:], plain[:2] + memo + plain[2:], plain + call + b"."]
    calls += [pickled({"model": Raw(stack), "w": tensor()}), plain[:2] + call + b"." + plain]
    return [plain, plain, pickled(state), *calls]


@pytest.mark.filterwarnings("ignore")
def test_random_damage(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "m.pth"
    extra = {"data/1": bytes(6)}
    starts = [(data, plant(path, data, extra).read_bytes()) for data in seeds(marker)]
    accepted = collections.Counter()
    for seed in range(FIRST, FIRST + COUNT):
        rng = random.Random(seed)
        data, archive = rng.choice(starts)
        change = swap if rng.random() < 0.1 else functools.partial(mutate, tokens=TOKENS)
        target = rng.choice(["pickle", "pickle", "archive", "directory"])
        if target == "pickle":
            # A new archive around it: sizes and checksums are right, the decoder is reached.
            plant(path, change(rng, data), extra)
        elif target == "archive":
            path.write_bytes(change(rng, archive))
        else:
            at = archive.index(b"PK\x01\x02")
            path.write_bytes(archive[:at] + change(rng, archive[at:]))
        start = time.process_time()
        try:
            found = pth.read(path, rng.choice(["model", "model", "model_ema"]))
            assert type(found) is dict
            for name, array in found.items():
                assert type(name) is str and type(array) is np.ndarray
                assert array.size <= 6
                array.tobytes()
            accepted[target] += 1
        except ValueError as error:
            assert str(error).startswith(str(path)), f"seed {seed}"
        except BaseException as error:
            pytest.fail(f"seed {seed}: {error!r}")
        assert time.process_time() - start < 1, f"seed {seed}"
        assert not marker.exists(), f"seed {seed}"
    if COUNT >= 1000:
        assert min(accepted[t] for t in ("pickle", "archive", "directory")) > 0
