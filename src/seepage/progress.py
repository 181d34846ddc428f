"""A bar for long runs, on a terminal: what is being done, and how long is left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from seepage.trials import Progress, Step
from seepage.values import describe

__all__ = ["doing", "trials", "waiting"]

_WIDEST = 60


@contextmanager
def trials() -> Iterator[Progress]:
    """A bar over trials; where no one watches, nothing."""
    with _bar() as bar:
        task = bar.add_task("preparing", total=None)
        yield lambda step: bar.update(
            task, completed=step.done, total=step.total, description=doing(step)
        )


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A bar for one piece of work of unknown length."""
    with _bar() as bar:
        bar.add_task(_short(text), total=None)
        yield


def doing(step: Step) -> str:
    """The trial that a sweep is at."""
    if step.doing is None:
        return "nothing"
    return _short(f"{describe(step.doing.attack)} on {describe(step.doing.client)}")


def _bar() -> Bar:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Bar(*columns, console=console, transient=True, disable=not console.is_terminal)


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
