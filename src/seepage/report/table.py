"""The worst case of every client as a table in the terminal, and then the verdict."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seepage.report import limits, verdict, words
from seepage.report.results import Failure, Group, Result, grouped

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 40


def text(found: Sequence[Result], failed: Sequence[Failure]) -> str:
    """Table and verdict as plain text."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=120, color_system=None, force_terminal=False, legacy_windows=False)
    clients = grouped(found, lambda result: result.client)
    with console.capture() as captured:
        if clients:
            console.print(_table(clients[:SHOWN]))
        if len(clients) > SHOWN:
            console.print(Text(f"{len(clients) - SHOWN} clients that leak less are not shown."))
        console.print(Text(verdict.text(found, failed)))
    return captured.get().rstrip()


def _table(clients: Sequence[Group]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title="Worst case per client", title_justify="left")
    heads = (
        "client",
        "strongest attack",
        "told",
        "attacker",
        "recovered",
        "best",
        "guess",
        "ceiling",
    )
    for head in heads:
        table.add_column(head, overflow="fold", justify="left", ratio=_RATIOS.get(head))
    for group in clients:
        # Text, not markup: a label from data with brackets must print as it is.
        table.add_row(*(Text(cell) for cell in (*_cells(group.worst), limits.brief(group))))
    return table


_HEADS = ("client", "strongest attack", "told", "attacker", "recovered", "best", "guess", "ceiling")
_RATIOS = {"client": 4, "strongest attack": 3}


def _cells(worst: Result) -> tuple[str, ...]:
    guess = worst.baseline
    server = "malicious, " if worst.malicious else ""
    return (
        words.label(worst.client),
        words.label(worst.attack),
        words.told_briefly(worst.tell),
        server + words.knows(worst),
        f"{worst.hits} of {worst.n}",
        words.score(worst.metric, worst.best),
        "none" if guess is None else words.score(worst.metric, guess.best),
    )
