"""A pickle read as data: what `torch.save` writes, and nothing else.

A pickle is a program, and a downloaded one may be hostile, so no unpickler runs here. The opcodes
are listed by `pickletools.genops`, and a small stack machine gives a meaning to those that
`torch.save` emits, none of which imports or calls anything: a global is only a name, and whatever
is no tensor, dictionary or literal becomes an inert placeholder. A training container may hold any
object beside the weights; among the weights it is refused, by its name.
"""

import io
import pickletools

from keras_smlp.checks import shown
from keras_smlp.weights.stored import Refused

MAX_OPCODES = 2_000_000  # a tensor takes about 30

# storage class -> NumPy type; NumPy has no bfloat16, which is read as 16 raw bits
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
# the names that mean something; all others are inert
GLOBALS = {ORDERED_DICT, TENSOR, PARAMETER, *STORAGES}

LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
LITERALS |= {"SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BYTEARRAY8"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class Dict(list):
    """A dictionary as its (key, value) pairs: nothing from the file is ever hashed."""


class Placeholder:
    """Stands for an object that is not built: a global, tensor, storage or what is not needed.

    Attributes:
        kind: The name of a global, which has a space in it, else `"tensor"`, `"storage"`, `"set"`
            or `"inert"`.
        value: The arguments of a tensor or the description of a storage, as the file has them; the
            name of the global that would have made what is inert.
    """

    __slots__ = ("kind", "value")

    def __init__(self, kind, value=None):
        self.kind, self.value = kind, value


def is_kind(value, *kinds):
    """Whether it is a placeholder of one of these kinds."""
    return isinstance(value, Placeholder) and value.kind in kinds


def name_of(value, form):
    """Where a value is a global or made by one: its name, for a message, put into `form`."""
    if not isinstance(value, Placeholder):
        return ""
    name = value.value if value.kind == "inert" else value.kind
    return form.format(shown(name.replace(" ", "."))) if " " in name else ""


class Decoder:
    """A stack machine for the pickles that `torch.save` writes."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}
        # the opcode that is read, and the byte where it stands
        self.name: str = ""
        self.at: int | None = None

    def run(self, data):
        """What the pickle describes, with `Dict` and `Placeholder` for what is not a literal."""
        stream = io.BytesIO(data)
        for count, (opcode, argument, at) in enumerate(pickletools.genops(stream)):
            self.name, self.at = opcode.name, at
            if count >= MAX_OPCODES:
                raise Refused(f"has more than {MAX_OPCODES} opcodes in its data.pkl.")
            self.step(argument)
        result = self.pop()
        if self.stack or self.marks or stream.read(1):
            raise self.damaged("comes before the end")
        return result

    def step(self, argument):
        """Does to the stack what the opcode says."""
        name = self.name
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            self.stack.append(Dict() if name == "EMPTY_DICT" else [])
        elif name == "EMPTY_SET":
            self.stack.append(Placeholder("set"))
        elif name == "MARK":
            self.marks.append(self.stack)
            self.stack = []
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.top()
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise self.damaged("finds no value")
            self.stack.append(self.memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(self.pop_tuple(int(name[-1])))
        elif name in ("TUPLE", "FROZENSET"):
            items = self.pop_mark()
            self.stack.append(tuple(items) if name == "TUPLE" else Placeholder("set"))
        elif name in ("APPEND", "SETITEM"):
            self.extend(self.pop_tuple(2 if name == "SETITEM" else 1))
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            self.extend(self.pop_mark())
        elif name == "GLOBAL":
            self.stack.append(Placeholder(argument))
        elif name == "STACK_GLOBAL":
            names = self.pop_tuple(2)
            for part in names:
                if type(part) is not str:
                    raise self.misused(part)
            self.stack.append(Placeholder(" ".join(names)))
        elif name == "BINPERSID":
            self.stack.append(Placeholder("storage", self.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            self.stack.append(self.call(*self.pop_tuple(2)))
        elif name == "BUILD":
            self.pop()  # attributes: a state dict's _metadata, a Namespace's options
            if type(self.top()) is not Dict and not is_kind(self.top(), "inert", "set"):
                raise self.misused(self.top())
        else:
            raise Refused(f"is refused: its data.pkl has the opcode {name} at byte {self.at}.")

    def damaged(self, what):
        """The refusal of a pickle that no program writes."""
        return Refused(f"is damaged: {self.name} at byte {self.at} of its data.pkl {what}.")

    def misused(self, value):
        """The refusal of an opcode that is applied to something else than `torch.save` does."""
        kind = value.kind if isinstance(value, Placeholder) else type(value).__name__
        what = f"{self.name} to {shown(kind.replace(' ', '.'))}"
        return Refused(f"is refused: its data.pkl applies {what}.")

    def top(self):
        """The last value on the stack."""
        if not self.stack:
            raise self.damaged("finds no value")
        return self.stack[-1]

    def pop(self):
        """The last value, taken off the stack."""
        self.top()
        return self.stack.pop()

    def pop_tuple(self, length):
        """The last values, in the order in which they were pushed."""
        return tuple(reversed([self.pop() for _ in range(length)]))

    def pop_mark(self):
        """The values since the last mark."""
        if not self.marks:
            raise self.damaged("finds no mark")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def extend(self, items):
        """Adds values, or keys and values in turn, to the container on top of the stack."""
        target, has_keys = self.top(), self.name.startswith("SETITEM")
        if has_keys and len(items) % 2:
            raise self.damaged("finds a key without a value")
        if has_keys and type(target) is Dict:
            target.extend(zip(items[::2], items[1::2], strict=True))
        elif self.name.startswith("APPEND") and type(target) is list:
            target.extend(items)
        elif not is_kind(target, "inert", "set"):
            raise self.misused(target)

    def call(self, function, arguments):
        """What a call stands for; nothing is called."""
        if type(arguments) is not tuple or not isinstance(function, Placeholder):
            raise self.misused(function)
        if is_kind(function, "inert"):
            return function
        if function.kind not in GLOBALS and " " in function.kind:
            return Placeholder("inert", function.kind)
        if self.name == "REDUCE":
            if is_kind(function, ORDERED_DICT) and not arguments:
                return Dict()
            if is_kind(function, TENSOR):
                return Placeholder("tensor", arguments)
            if is_kind(function, PARAMETER) and is_kind((*arguments, None)[0], "tensor", "inert"):
                return arguments[0]
        raise self.misused(function)
