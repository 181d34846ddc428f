"""What `seepage dp` computed, in a terminal and for programs."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table as Grid
from rich.text import Text

from seepage.analysis import bounds
from seepage.cli import screen
from seepage.guard import dp
from seepage.store import plain

READINGS = {1: "one record added or removed", 2: "one record replaced"}


@dataclass(frozen=True)
class Need:
    """The least noise multiplier that keeps a promise, under which assumption."""

    what: str
    multiplier: float
    assuming: str


@dataclass(frozen=True)
class Reading:
    """What the noise hides, the epsilon that holds for it, and the std for the declared one."""

    hides: str
    tight: float
    needed: float | None

    @staticmethod
    def of(made: dp.Mechanism, factor: int) -> "Reading":
        """Noise that hides a change of so many clipping norms."""
        needed = None if made.epsilon is None else made.repaired(factor)
        return Reading(READINGS[factor], made.tight(factor), needed)


@dataclass(frozen=True)
class Outcome:
    """All that was computed."""

    findings: tuple[dp.Flaw, ...]
    mechanism: dp.Mechanism | None
    readings: tuple[Reading, ...]
    ceilings: tuple[bounds.Bound, ...]
    needs: tuple[Need, ...]

    @property
    def false(self) -> bool:
        """Whether something that is declared does not hold."""
        return any(finding.severity == "error" for finding in self.findings)

    def about(self) -> dict[str, Any]:
        """For programs."""
        made = self.mechanism
        about = {
            "mechanism": None if made is None else dataclasses.asdict(made),
            "readings": [dataclasses.asdict(reading) for reading in self.readings],
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "ceilings": [dataclasses.asdict(bound) for bound in self.ceilings],
            "needed": [dataclasses.asdict(need) for need in self.needs],
        }
        found: dict[str, Any] = plain(about)
        return found


def show(outcome: Outcome) -> None:
    """Print the tables, and what they mean in words."""
    if outcome.mechanism is not None:
        screen.out().print(_grid(outcome.mechanism, outcome.readings))
    screen.lines(_sentences(outcome))
    if outcome.needs:
        grid = Grid("what is wanted", "noise multiplier", "protects", title="Noise that is enough")
        for need in outcome.needs:
            grid.add_row(Text(need.what), f"{need.multiplier:.4g}", Text(need.assuming))
        screen.out().print(grid)


def _grid(made: dp.Mechanism, readings: tuple[Reading, ...]) -> Grid:
    share = f"each on {made.rate:.3g} of the records" if made.rate < 1 else "on all records"
    rounds = "1 round" if made.rounds == 1 else f"{made.rounds:,} rounds"
    noise = f"Noise of {made.std / (made.clip or 1):.4g} clipping norms"
    title = f"{noise}, {rounds} {share}, delta {made.delta:g}"
    grid = Grid("what is hidden", "declared epsilon", "tight epsilon", "std needed", title=title)
    for reading in readings:
        declared = "none" if made.epsilon is None else f"{made.epsilon:g}"
        needed = "" if reading.needed is None else f"{reading.needed:.4g}"
        grid.add_row(reading.hides, declared, f"{reading.tight:g}", needed)
    return grid


def _sentences(outcome: Outcome) -> Iterator[str]:
    yield from (f"{f.severity.upper()}: {f.field}: {f.remedy}" for f in outcome.findings)
    if outcome.ceilings:
        yield "What no attacker can exceed, as a success or as the PSNR of the mean error:"
        yield from (f"- {bound}" for bound in outcome.ceilings)
    if outcome.mechanism is not None or outcome.findings:
        yield (
            "This bounds what one record changes, if clipping, sampling and noise are carried out "
            "as given. It does not look at the code that does so."
        )
