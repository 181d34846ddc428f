"""A bar for long runs, on a terminal: what is being done, and how long is left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from seepage.sweeping import Progress, Step

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["counted", "doing", "trials", "waiting"]

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
