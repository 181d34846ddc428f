"""Checks of the fields of a value: each message names the field, the value and the remedy."""

from seepage.errors import InvalidInput


def one_of(field: str, given: object, known: tuple[str, ...]) -> None:
    """Demand one of the known words."""
    if given not in known:
        raise InvalidInput(f"{field}={given!r} is not known: use {' or '.join(map(repr, known))}.")


def at_least(field: str, given: float, least: float) -> None:
    """Demand a finite number that is not too small."""
    if not least <= given < float("inf"):
        raise InvalidInput(f"{field}={given!r} must be a number of at least {least}.")


def positive(field: str, given: float) -> None:
    """Demand a finite number above zero."""
    if not 0 < given < float("inf"):
        raise InvalidInput(f"{field}={given!r} must be a positive number.")
