"""Types with a range, for the typed configuration: what a value is, and what it may be."""

import math
import re
from collections.abc import Callable
from typing import Annotated, NamedTuple

from keras_smlp.checks import MOST


class Range(NamedTuple):
    """What is allowed of a number or a string.

    Attributes:
        words: String. The range, for people.
        holds: Function of a value: whether it is in the range.
    """

    words: str
    holds: Callable


PositiveInt = Annotated[int, Range(f"int >0 and <{MOST + 1}", lambda x: 0 < x <= MOST)]
NonNegativeInt = Annotated[int, Range(f"int >=0 and <{MOST + 1}", lambda x: 0 <= x <= MOST)]
Seed = Annotated[int, Range(f"int >=0 and <{MOST + 1}", lambda x: 0 <= x <= MOST)]
PositiveFloat = Annotated[float, Range("float >0 and <inf", lambda x: 0 < x < math.inf)]
NonNegativeFloat = Annotated[float, Range("float >=0 and <inf", lambda x: 0 <= x < math.inf)]
UnitInterval = Annotated[float, Range("float >=0 and <=1", lambda x: 0 <= x <= 1)]
Rate = Annotated[float, Range("float >=0 and <1", lambda x: 0 <= x < 1)]
OpenUnitInterval = Annotated[float, Range("float >0 and <1", lambda x: 0 < x < 1)]
Fraction = Annotated[float, Range("float >0 and <=1", lambda x: 0 < x <= 1)]
Magnitude = Annotated[float, Range("float >=0 and <=10", lambda x: 0 <= x <= 10)]
Shift = Annotated[float, Range("float >=0 and <=0.5", lambda x: 0 <= x <= 0.5)]
FileName = Annotated[str, Range("a path", re.compile(r".*\S").match)]
Name = Annotated[str, Range("a name", re.compile(r"\S").match)]
