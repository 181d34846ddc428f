"""Leakage against utility: which defense hides most for its price."""

from seepage.tradeoffs.families import Families, grouped, standard
from seepage.tradeoffs.measure import Outcome, Strength, Trade, measured
from seepage.tradeoffs.tasks import NAMES, Task, named
from seepage.tradeoffs.words import claims, front, readings

__all__ = [
    "NAMES",
    "Families",
    "Outcome",
    "Strength",
    "Task",
    "Trade",
    "claims",
    "front",
    "grouped",
    "measured",
    "named",
    "readings",
    "standard",
]
