"""What a person sees while trials run."""

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from seepage import progress, zoo
from seepage.attacks import BiasRatio
from seepage.clients import FedSGD
from seepage.progress import Tally, table, tallied
from seepage.sweeping import Step
from seepage.trials import Trial, sweep


def row(client: str, recovered: list[bool], status: str = "done") -> dict[str, Any]:
    return {"client": client, "attack": "A()", "status": status, "recovered": recovered}


def printed(tallies: dict[tuple[str, str], Tally]) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    console.print(table(tallies))
    return [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_the_table_counts_what_each_client_and_attack_came_to() -> None:
    tallies: dict[tuple[str, str], Tally] = {}
    tallied(tallies, row("C()", [True, False]))
    tallied(tallies, row("D()", [False]))
    tallied(tallies, row("C()", [True]))
    tallied(tallies, {"client": "C()", "attack": "A()", "status": "failed"})
    _, *lines = printed(tallies)
    assert lines == [
        ["D()", "A()", "1", "0", "of", "1"],
        ["C()", "A()", "2", "1", "2", "of", "3"],
    ]


def test_of_many_lines_the_last_ones_are_shown() -> None:
    tallies: dict[tuple[str, str], Tally] = {}
    for number in range(40):
        tallied(tallies, row(f"C{number}()", [True]))
    assert [line[0] for line in printed(tallies)[1:]] == [f"C{n}()" for n in range(28, 40)]


def test_a_sweep_on_a_terminal_shows_the_table_under_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    known, batch = zoo.example()
    with progress.trials() as tell:
        sweep([Trial(known, batch, FedSGD(), BiasRatio(), seed=s) for s in (0, 1)], progress=tell)
    seen = screen.getvalue()
    assert "2/2" in seen
    assert "1 of 1" in seen or "2 of 2" in seen


def test_where_nobody_watches_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.trials() as tell:
        tell(Step(0, 1, None, None))
    assert capsys.readouterr() == ("", "")
