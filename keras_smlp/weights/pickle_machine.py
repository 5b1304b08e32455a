"""A pickle read as data: what `torch.save` writes, and nothing else.

A pickle is a program, and a downloaded one may be hostile, so no unpickler runs here. The opcodes
are listed by `pickletools.genops`, and a small stack machine gives a meaning to those that
`torch.save` emits, none of which imports or calls anything: a global is only a name to compare with
a list, and what the reader does not need becomes an inert placeholder.
"""

import pickletools

_MAX_OPCODES = 2_000_000  # a tensor takes about 30

# Storage class -> NumPy type. NumPy has no bfloat16: it is read as 16 raw bits.
STORAGES = {
    "torch FloatStorage": "float32",
    "torch DoubleStorage": "float64",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "uint16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
ORDERED_DICT = "collections OrderedDict"
TENSOR = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
# What training containers keep beside the weights: skipped over, never built.
_INERT = {"argparse Namespace", "builtins set", "__builtin__ set"}
GLOBALS = {ORDERED_DICT, TENSOR, PARAMETER, *STORAGES, *_INERT}

_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_LITERALS |= {"SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(Exception):
    """A reason not to read the file: the rest of a sentence that starts with its path."""


class Dict(list):
    """A dictionary as its (key, value) pairs: nothing from the file is ever hashed."""


class Thing:
    """A global, tensor, storage or inert object: what it is, and its arguments unchecked."""

    __slots__ = ("kind", "value")

    def __init__(self, kind, value=None):
        self.kind, self.value = kind, value


def is_kind(value, *kinds):
    return isinstance(value, Thing) and value.kind in kinds


def show(text):
    """A name from the file for a message: short, and with nothing a terminal would obey."""
    return ascii(text if len(text) <= 150 else text[:150])


class Decoder:
    """A stack machine for the pickles that `torch.save` writes."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}
        self.name = self.at = None

    def run(self, data):
        """What the pickle describes, with `Dict` and `Thing` for what is not a literal."""
        for count, (opcode, arg, at) in enumerate(pickletools.genops(data)):
            self.name, self.at = opcode.name, at
            if count >= _MAX_OPCODES:
                raise Refused(f"has more than {_MAX_OPCODES} opcodes in its data.pkl.")
            if opcode.name != "STOP":
                self.step(opcode.name, arg)
        result = self.pop()
        if self.stack or self.marks or at + 1 != len(data):
            raise self.damaged("comes before the end")
        return result

    def step(self, name, arg):
        push = self.stack.append
        if name in _LITERALS:
            push(arg)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "EMPTY_DICT":
            push(Dict())
        elif name == "EMPTY_LIST":
            push([])
        elif name == "EMPTY_SET":
            push(Thing("set"))
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else arg] = self.top()
        elif name in ("BINGET", "LONG_BINGET"):
            if arg not in self.memo:
                raise self.damaged("finds no value")
            push(self.memo[arg])
        elif name in _TUPLES:
            push(self.pop_tuple(_TUPLES[name]))
        elif name in ("TUPLE", "FROZENSET"):
            items = self.pop_mark()
            self.stack.append(tuple(items) if name == "TUPLE" else Thing("set"))
        elif name in ("APPEND", "SETITEM"):
            self.extend(self.pop_tuple(2 if name == "SETITEM" else 1))
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            self.extend(self.pop_mark())
        elif name == "GLOBAL":
            push(self.find(arg))
        elif name == "STACK_GLOBAL":
            module, attribute = self.pop_tuple(2)
            for part in (module, attribute):
                if type(part) is not str:
                    raise self.misused(part)
            push(self.find(f"{module} {attribute}"))
        elif name == "BINPERSID":
            push(Thing("storage", self.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            function, args = self.pop_tuple(2)
            push(self.call(function, args))
        elif name == "BUILD":
            self.pop()  # attributes: a state dict's _metadata, a Namespace's options
            if type(self.top()) is not Dict and not is_kind(self.top(), "inert", "set"):
                raise self.misused(self.top())
        else:
            raise Refused(f"is refused: its data.pkl has the opcode {name} at byte {self.at}.")

    def damaged(self, what):
        return Refused(f"is damaged: {self.name} at byte {self.at} of its data.pkl {what}.")

    def misused(self, value):
        kind = value.kind if isinstance(value, Thing) else type(value).__name__.lstrip("_")
        kind = kind.replace(" ", ".")
        return Refused(f"is refused: its data.pkl applies {self.name} to {kind}.")

    def top(self):
        if not self.stack:
            raise self.damaged("finds no value")
        return self.stack[-1]

    def pop(self):
        self.top()
        return self.stack.pop()

    def pop_tuple(self, length):
        return tuple(reversed([self.pop() for _ in range(length)]))

    def pop_mark(self):
        if not self.marks:
            raise self.damaged("finds no mark")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def extend(self, items):
        target = self.top()
        if self.name.startswith("SETITEM") and len(items) % 2:
            raise self.damaged("finds a key without a value")
        if self.name.startswith("SETITEM") and type(target) is Dict:
            target.extend(zip(items[::2], items[1::2], strict=True))
        elif self.name.startswith("APPEND") and type(target) is list:
            target.extend(items)
        elif not is_kind(target, "inert", "set"):
            raise self.misused(target)

    def find(self, name):
        if name not in GLOBALS:
            culprit = show(name.replace(" ", "."))
            raise Refused(f"is refused: its data.pkl names the global {culprit}.")
        return Thing(name)

    def call(self, function, args):
        if type(args) is tuple:
            if is_kind(function, *_INERT):
                return Thing("inert")
            if self.name == "REDUCE":
                if is_kind(function, ORDERED_DICT) and not args:
                    return Dict()
                if is_kind(function, TENSOR):
                    return Thing("tensor", args)
                if is_kind(function, PARAMETER) and args and is_kind(args[0], "tensor"):
                    return args[0]
        raise self.misused(function)
