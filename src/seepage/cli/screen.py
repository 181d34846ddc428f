"""What a person sees while a command runs: a bar on stderr, results on stdout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from seepage.trials import Step
from seepage.values import describe

_WIDEST = 60


def out() -> Console:
    """Where results go."""
    return Console()


def note(text: str) -> None:
    """Say something about the run itself, out of the way of results."""
    Console(stderr=True).print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def trials() -> Iterator[Callable[[Step], None]]:
    """A bar with the trial that is being done, and how long is left; lines where no one watches."""
    if not Console(stderr=True).is_terminal:
        yield lambda step: note(f"{step.done} of {step.total} trials done; now: {_doing(step)}")
        return
    with _bar() as bar:
        task = bar.add_task("preparing", total=None)
        yield lambda step: bar.update(
            task, completed=step.done, total=step.total, description=_doing(step)
        )


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A bar for one piece of work of unknown length."""
    with _bar() as bar:
        bar.add_task(_short(text), total=None)
        yield


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _doing(step: Step) -> str:
    if step.doing is None:
        return "nothing"
    return _short(f"{describe(step.doing.attack)} on {describe(step.doing.client)}")


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
