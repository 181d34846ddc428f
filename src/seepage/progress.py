"""A bar for long runs, on a terminal: what is being done, how long is left, what was found."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seepage.store import Row
from seepage.sweeping import Progress, Step

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.table import Table as Grid

__all__ = ["Tally", "counted", "doing", "table", "tallied", "trials", "waiting"]

_WIDEST = 60
_LINES = 12


@contextmanager
def trials() -> Iterator[Progress]:
    """A bar over trials, and under it what they found so far; where no one watches, nothing."""
    from rich.console import Group
    from rich.live import Live

    bar, tallies = _bar(), dict[tuple[str, str], Tally]()
    if bar.disable:
        yield lambda _: None
        return
    task = bar.add_task("preparing", total=None)
    with Live(bar, console=bar.console, transient=True) as live:

        def tell(step: Step) -> None:
            bar.update(task, completed=step.done, total=step.total, description=doing(step))
            if step.row is not None:
                tallied(tallies, step.row)
            live.update(Group(bar, table(tallies)) if tallies else bar)

        yield tell


@dataclass(frozen=True)
class Tally:
    """What the trials of one client and one attack came to."""

    done: int = 0
    failed: int = 0
    recovered: int = 0
    examples: int = 0


def tallied(tallies: dict[tuple[str, str], Tally], row: Row) -> None:
    """Count one more row in; the client and attack of the last one move to the end."""
    key = str(row.get("client", "")), str(row.get("attack", ""))
    was, hits = tallies.pop(key, Tally()), row.get("recovered") or ()
    done = row.get("status") == "done"
    tallies[key] = Tally(
        was.done + done,
        was.failed + (not done),
        was.recovered + sum(hits),
        was.examples + len(hits),
    )


def table(tallies: Mapping[tuple[str, str], Tally]) -> "Grid":
    """A line for each client and attack, the last ones of many."""
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid("client", "attack", "done", "failed", "recovered", box=None, header_style="dim")
    for (client, attack), tally in list(tallies.items())[-_LINES:]:
        found = f"{tally.recovered} of {tally.examples}" if tally.examples else ""
        numbers = (str(tally.done), str(tally.failed or ""), found)
        grid.add_row(*map(Text, (_short(client), _short(attack), *numbers)))
    return grid


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A bar for one piece of work of unknown length."""
    with _bar() as bar:
        bar.add_task(_short(text), total=None)
        yield


@contextmanager
def counted(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for one piece of work that tells how much of it is done, of how much."""
    with _bar() as bar:
        task = bar.add_task(_short(text), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def doing(step: Step) -> str:
    """What a sweep is at."""
    return "nothing" if step.doing is None else _short(step.doing.title)


def _bar() -> "Bar":
    from rich import progress  # not for those who only look a name up
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left:"),
        progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    )


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
