"""What a person sees while a command runs: progress on stderr, results on stdout."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from seepage import progress
from seepage.progress import waiting
from seepage.trials import Progress

__all__ = ["note", "out", "trials", "waiting"]


def out() -> Console:
    """Where results go."""
    return Console()


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
