"""A compiled XLA program, read from its text: its operations, how often each runs, what it costs.

The compilers for TPUs write an estimate of the cycles beside most operations; the bytes are counted
from the shapes, padded to tiles as they are laid out. Nothing here is measured.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}
ARRAY = re.compile(r"\b(pred|bf16|token|[suf]\d+\w*|c64|c128)\[([\d,]*)\](?:\{([^{}]*)\})?")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
OPERATION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)$")
CALLED = {
    "fusion": r"calls=%?([\w.\-]+)",
    "call": r"to_apply=%?([\w.\-]+)",
    "async-start": r"calls=%?([\w.\-]+)",
    "while": r"body=%?([\w.\-]+)",
}
BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))"
)
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)"
)
# what computes and moves nothing; the end of something asynchronous counts at its start
FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "add-dependency",
    "optimization-barrier",
    "opt-barrier",
    "copy-done",
    "slice-done",
    "async-done",
    "async-update",
    "all-reduce-done",
    "all-gather-done",
    "collective-permute-done",
    "send-done",
    "recv-done",
}
# what only moves values; a fusion of nothing else is a copy to another layout
MOVES = {"copy", "transpose", "reshape", "bitcast", "parameter", "tuple", "get-tuple-element"}
CAUSES = ("products", "elementwise", "layout copies", "prefetches", "optimizer", "collectives")


@dataclass(frozen=True)
class Array:
    """An array that an operation returns.

    Attributes:
        dtype: String, as XLA writes it, such as `bf16`.
        shape: Tuple.
        bytes: What it takes, padded to the tiles of its layout.
        is_in_memory: Whether it is in the device's memory (HBM), not in a memory on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    is_in_memory: bool


@dataclass(frozen=True)
class Operation:
    """A line of a program.

    Attributes:
        name: Its name.
        kind: What XLA calls the operation, such as `fusion`.
        elements: Text of its result's type; of a tuple, of each element.
        operands: Names of what it takes.
        attributes: Text of what follows the operands.
    """

    name: str
    kind: str
    elements: tuple[str, ...]
    operands: tuple[str, ...]
    attributes: str

    @property
    def arrays(self):
        """The `Array`s that it returns."""
        return [x for element in self.elements for x in arrays(element)]

    @property
    def origin(self):
        """Where it comes from in the traced program, such as `jit(step)/transpose(dot_general)`."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def cycles(self):
        """The compiler's estimate of its cycles; `None` where it gives none."""
        found = CYCLES.search(self.attributes)
        return int(found[1]) if found else None

    def called(self):
        """The name of the computation that it runs; `None` if it runs none."""
        found = self.kind in CALLED and re.search(CALLED[self.kind], self.attributes)
        return found[1] if found else None


def arrays(text):
    """The `Array`s in the text of a type."""
    return [array(*match.groups()) for match in ARRAY.finditer(text)]


def array(dtype, shape, layout):
    """An `Array` from its dtype, its shape and its layout as XLA writes them."""
    shape = tuple(int(x) for x in shape.split(",") if x)
    bits = BITS.get(dtype) if dtype in BITS else int(re.search(r"\d+", dtype)[0])
    layout = layout or ""
    sides = list(shape)
    order = [int(x) for x in layout.partition(":")[0].split(",") if x]
    tile = re.search(r":T\(([\d,]+)\)", layout)
    if tile and sides:
        # the minor sides last, as the tile has them
        sides = [sides[i] for i in reversed(order)]
        tile = [int(x) for x in tile[1].split(",")]
        sides = [1] * (len(tile) - len(sides)) + sides
        for i in range(1, len(tile) + 1):
            sides[-i] = -(-sides[-i] // tile[-i]) * tile[-i]
    space = re.search(r"S\((\d+)\)", layout)
    is_in_memory = space is None or space[1] == "0"
    return Array(dtype, shape, math.prod(sides) * bits // 8, is_in_memory)


class Program:
    """A program's computations.

    Args:
        text: What XLA writes of a compiled and scheduled module.

    Attributes:
        computations: Dict from a name to the list of `Operation`s in their order.
        entry: Name of the one that runs first.
    """

    def __init__(self, text: str):
        self.computations: dict[str, list[Operation]] = {}
        self.entry, name = "", None
        for line in text.splitlines():
            if begin := COMPUTATION.match(line):
                name = begin[2]
                self.computations[name] = []
                self.entry = name if begin[1] else self.entry
            elif line.startswith("}"):
                name = None
            elif name and (found := OPERATION.match(line)):
                operation = parsed(*found.groups())
                if operation:
                    self.computations[name].append(operation)
        if not self.entry:
            raise ValueError("`text` must be a compiled XLA module with an entry computation")

    @classmethod
    def read(cls, path: Path):
        """The program in a file."""
        return cls(path.read_text())

    def executed(self) -> "Iterator[tuple[Operation, list[Array], float | None]]":
        """Every operation that runs, what it takes, and how often.

        How often is `None` where that is unknown. Of the branches of a condition, the one with the
        fewest operations runs; those of the others are given with 0.
        """
        yield from self.executed_in(self.entry, 1)

    def executed_in(self, name, times):
        results = {x.name: x.arrays for x in self.computations[name]}
        for operation in self.computations[name]:
            if operation.kind == "conditional":
                found = BRANCHES.findall(operation.attributes)
                names = [x.strip(" %") for pair in found for x in ",".join(pair).split(",") if x]
                names.sort(key=lambda name: len(list(self.executed_in(name, 1))))
                for number, name in enumerate(names):
                    yield from self.executed_in(name, 0 if number else times)
            elif operation.kind != "fusion" and (body := operation.called()):
                trips = TRIPS.search(operation.attributes)
                repeated = times
                if operation.kind == "while" and times:
                    repeated = times * int(trips[1]) if trips else None
                yield from self.executed_in(body, repeated)
            elif operation.kind not in FREE:
                taken = [x for name in operation.operands for x in results.get(name, ())]
                yield operation, taken, times

    def inside(self, operation):
        """The kinds of operations within a fusion, at any depth; of another operation its own."""
        if operation.kind != "fusion":
            return {operation.kind}
        return {
            kind
            for x in self.computations.get(operation.called(), ())
            for kind in (self.inside(x) if x.kind == "fusion" else {x.kind})
        }

    def cause(self, operation):
        """What an operation is for: one of `CAUSES`."""
        kinds = self.inside(operation)
        if COLLECTIVE.match(operation.kind):
            return "collectives"
        if "/optimizer/" in operation.origin:
            return "optimizer"
        if kinds & {"dot", "convolution", "custom-call"}:
            return "products"
        if operation.kind.endswith("-start"):  # between the memory and one on the chip
            return "prefetches"
        return "layout copies" if kinds <= MOVES else "elementwise"


def parsed(name, rest):
    """An `Operation` from the two sides of its line; `None` for what is no operation."""
    end = closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    kind = re.match(r"\s*([\w\-]+)\(", rest[end:])
    if not kind:
        return None
    type, rest = rest[:end], rest[end + kind.end() - 1 :]
    end = closing(rest)
    elements = split(type[1:-1]) if type.startswith("(") else [type]
    operands = re.findall(r"%([\w.\-]+)", rest[:end])
    return Operation(name, kind[1], tuple(elements), tuple(operands), rest[end + 1 :])


def closing(text):
    """Where the bracket closes that a text begins with."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if not depth:
            return i
    return len(text) - 1


def split(text):
    """The parts of a text between the commas that are in no bracket."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


# ---- costs --------------------------------------------------------------------------------------
@dataclass
class Costs:
    """What a program costs by the compiler's account.

    Attributes:
        cycles: Sum of the estimates, each times the runs of its operation.
        bytes: Dict from each of `CAUSES` to the bytes that its operations touch in the memory.
        operations: How many run, fusions as one.
        unknown: Dict from the kind of those without an estimate, or whose runs are unknown, to how
            many run.
        seldom: Cycles of the branches of conditions that are not counted, see `Program.executed`.
        collectives: List of `(kind, arrays, origin, runs)`.
        float32: Dict from the origin of a float32 array of a hundredth of the bytes at least, to
            its bytes.
    """

    cycles: float
    bytes: dict
    operations: float
    unknown: dict
    seldom: float
    collectives: list
    float32: dict


def costs(program):
    """The `Costs` of a `Program`."""
    found = Costs(0, dict.fromkeys(CAUSES, 0), 0, {}, 0, [], {})
    wide = {}
    for operation, taken, times in program.executed():
        if times == 0:
            found.seldom += operation.cycles or 0
            continue
        runs = times or 1
        cause, touched = program.cause(operation), touched_bytes(operation, taken)
        found.operations += runs
        found.bytes[cause] += runs * touched
        if operation.cycles is None or times is None:
            found.unknown[operation.kind] = found.unknown.get(operation.kind, 0) + runs
        found.cycles += runs * (operation.cycles or 0)
        if cause == "collectives":
            found.collectives.append((operation.kind, operation.arrays, operation.origin, runs))
        for x in operation.arrays:
            if x.dtype == "f32" and x.is_in_memory:
                wide[operation.origin] = wide.get(operation.origin, 0) + runs * x.bytes
    least = sum(found.bytes.values()) / 100
    found.float32 = {origin: size for origin, size in wide.items() if size >= least}
    return found


def touched_bytes(operation, taken):
    """The bytes that an operation reads and writes in the device's memory."""
    if operation.kind.endswith("-start") and not COLLECTIVE.match(operation.kind):
        # to a memory on the chip or back: the same bytes stand in the operands and the result
        return max((x.bytes for x in operation.arrays), default=0)
    return sum(x.bytes for x in (*taken, *operation.arrays) if x.is_in_memory)


# ---- memory -------------------------------------------------------------------------------------
def memory(program):
    """The bytes of the arguments, and the most that lives beside them at one time.

    By the order in which the program is scheduled: from where an array is made to where it is last
    read. Neither fragments nor what is reused in place are in it.

    Args:
        program: A `Program`.

    Returns:
        Two integers.
    """
    operations = program.computations[program.entry]
    arguments = sum(memory_of(x) for x in operations if x.kind == "parameter")
    return arguments, most_alive(program, program.entry)


def memory_of(operation):
    """The bytes of an operation's result in the device's memory."""
    return sum(x.bytes for x in operation.arrays if x.is_in_memory)


SHARED = FREE - {"parameter", "constant"}  # what these return is what they take


def most_alive(program, name):
    """The most bytes that live at one time in a computation, what it is given left out."""
    operations = program.computations[name]
    buffers: dict[str, list[set]] = {}  # of each element of a result, where its bytes are
    size, born, last = {}, {}, {}
    extra = [0] * (len(operations) + 1)
    for time, operation in enumerate(operations):
        given = [buffers.get(x, [set()]) for x in operation.operands]
        for buffer in set().union(*(x for element in given for x in element)):
            last[buffer] = time
        elements = len(operation.elements)
        if operation.kind in ("parameter", "constant"):
            buffers[operation.name] = [set()] * elements
        elif operation.kind == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", operation.attributes)[1])
            buffers[operation.name] = [given[0][index] if index < len(given[0]) else set()]
        elif operation.kind == "tuple":
            buffers[operation.name] = [set().union(*element) for element in given]
        elif operation.kind == "copy-done":
            buffers[operation.name] = [given[0][0]]
        elif operation.kind in SHARED:
            buffers[operation.name] = [set().union(*(y for x in given for y in x))] * elements
        else:
            if operation.kind == "while":  # it works on what it is given
                buffers[operation.name] = given[0] if len(given[0]) == elements else [set()]
                extra[time] = most_alive(program, operation.called())
                continue
            own = []
            for number, text in enumerate(operation.elements):
                if operation.kind == "copy-start" and number:
                    own.append(set())  # the source, and a token
                    continue
                buffer = (operation.name, number)
                size[buffer] = sum(x.bytes for x in arrays(text) if x.is_in_memory)
                born[buffer] = last[buffer] = time
                own.append({buffer})
            buffers[operation.name] = own
    change = [0] * (len(operations) + 1)
    for buffer, length in size.items():
        change[born[buffer]] += length
        change[last[buffer] + 1] -= length
    most = alive = 0
    for time, difference in enumerate(change):
        alive += difference
        most = max(most, alive + extra[time])
    return most
