"""What a person sees while a command runs: progress on stderr, results on stdout."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console

from seepage import progress
from seepage.progress import counted, waiting
from seepage.trials import Progress

__all__ = ["counted", "lines", "note", "out", "trials", "waiting"]


def out() -> Console:
    """Where results go."""
    return Console()


def lines(texts: Iterable[str]) -> None:
    """Results in words: wrapped on a terminal, a line each in a file."""
    console = out()
    for text in texts:
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def note(text: str) -> None:
    """Say something about the run itself, out of the way of results."""
    Console(stderr=True).print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def trials() -> Iterator[Progress]:
    """A bar on a terminal; a line for each trial in the log of a machine."""
    if Console(stderr=True).is_terminal:
        with progress.trials() as bar:
            yield bar
        return
    yield lambda step: note(f"{step.done} of {step.total} trials done; now: {progress.doing(step)}")
