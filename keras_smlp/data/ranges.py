"""Numbers with a range, for the typed configuration."""

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
    restricted_string_type,
)

__all__ = [
    "ClosedUnitInterval",
    "FileName",
    "Magnitude",
    "Name",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Part",
    "PositiveFloat",
    "PositiveInt",
    "Rate",
    "Seed",
    "Shift",
]


def number(name, base, *restrictions):
    """A type such as jsonargparse's `PositiveInt`; its docstring says what it allows, as theirs."""
    bounds = " and ".join(f"{sign}{bound}" for sign, bound in restrictions)
    docstring = f"{base.__name__} restricted to be {bounds}"
    return restricted_number_type(name, base, list(restrictions), docstring=docstring)


Part = number("Part", float, (">", 0), ("<=", 1))
Magnitude = number("Magnitude", float, (">=", 0), ("<=", 10))
Rate = number("Rate", float, (">=", 0), ("<", 1))
Seed = number("Seed", int, (">=", 0), ("<", 2**31))
Shift = number("Shift", float, (">=", 0), ("<=", 0.5))
FileName = restricted_string_type("FileName", r".*\S.*", docstring="a path")
Name = restricted_string_type("Name", r"\S+", docstring="a name")
