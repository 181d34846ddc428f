"""The exceptions of Seepage: each says what was given, what was expected, and what to do."""

__all__ = ["Failed", "InvalidInput", "SeepageError"]


class SeepageError(Exception):
    """The one root: catch this to catch everything Seepage raises on purpose."""


class InvalidInput(SeepageError, ValueError):
    """An argument, file or expression that cannot be used; the message names it and the remedy."""


class Failed(SeepageError, RuntimeError):
    """Work that started and could not be finished; what was computed before is kept."""
