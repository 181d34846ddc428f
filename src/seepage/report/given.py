"""Values of a row, in the type that a report needs: a row is data, and may hold anything."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def mapping(given: object) -> Mapping[str, Any]:
    """An object of the row; empty for anything else."""
    return given if isinstance(given, Mapping) else {}


def items(given: object) -> Sequence[Any]:
    """A list of the row; empty for anything else."""
    return given if isinstance(given, list | tuple) else ()


def flags(given: object) -> tuple[bool, ...]:
    """A list of the row as answers to yes or no."""
    return tuple(flag is True for flag in items(given))


def number(given: object) -> float:
    """A number of the row; NaN for anything else, and for what no page could show.

    >>> number(2), number("2"), number(True), number(10**400)
    (2.0, nan, nan, nan)
    """
    usable = isinstance(given, int | float) and not isinstance(given, bool)
    return float(given) if usable and abs(given) < 1e300 else math.nan  # type: ignore[arg-type]


def whole(given: object) -> int:
    """A whole number of the row; zero for anything else."""
    return given if type(given) is int else 0
