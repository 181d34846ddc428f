"""`seepage reproduce`: published results measured again, each finding printed as it comes."""

import difflib
import importlib
import inspect
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from rich.table import Table as Grid
from rich.text import Text

from seepage import papers
from seepage.cli import screen
from seepage.errors import Failed, InvalidInput
from seepage.papers.claims import Claim

_COLOURS = {"confirmed": "green", "not confirmed": "red", "measured": "cyan", "not run": "dim"}
_HEADS = ("what", "claimed", "got", "verdict")


def show() -> None:
    """Print what can be reproduced."""
    grid = Grid("name", "published result")
    for name in papers.__all__:
        grid.add_row(name.replace("_", "-"), _title(_paper(name)))
    screen.out().print(grid)


def run(names: list[str] | None, quick: bool, out: Path | None) -> None:
    """Measure these papers, or all; one that fails is said so, and the others go on."""
    wanted = papers.__all__ if names is None else [_known(name) for name in names]
    found: dict[str, list[Claim]] = {}
    broken = []
    for name in wanted:
        found[name] = []
        try:
            for claim in _measured(name, quick, out):
                found[name].append(claim)
                if out is not None:
                    _written(found, quick, out)
        except Exception as error:
            if len(wanted) == 1:
                raise
            broken.append(f"{name} ({type(error).__name__}: {error})")
            screen.note(f"{name} failed with {type(error).__name__}: {error}")
    if broken:
        raise Failed(f"{len(broken)} of {len(wanted)} could not be measured: {'; '.join(broken)}.")


def _measured(name: str, quick: bool, out: Path | None) -> Iterator[Claim]:
    paper, console, start = _paper(name), screen.out(), time.monotonic()
    folder = None if out is None else out / name
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    console.print(f"\n{_title(paper)}", style="bold", markup=False)
    console.print(_grid(None))
    claims = paper.reproduce(quick, folder)
    while True:
        with screen.waiting(f"{name}: measuring"):
            claim = next(claims, None)
        if claim is None:
            break
        console.print(_grid(claim))
        yield claim
    console.print(f"{time.monotonic() - start:.0f} s", style="dim")


def _grid(claim: Claim | None) -> Grid:
    """One finding, or the heading: tables of one row, so that each is printed when it is there."""
    grid = Grid.grid(expand=True, padding=(0, 1))
    for share in (4, 3, 4, 2):
        grid.add_column(ratio=share)
    if claim is None:
        grid.add_row(*_HEADS, style="dim")
    else:
        what = f"{claim.what} [{claim.how}]" if claim.how else claim.what
        cells = (what, claim.claimed, claim.got)
        verdict = Text(claim.verdict, style=_COLOURS[claim.verdict])
        grid.add_row(*(Text(cell) for cell in cells), verdict)
    return grid


def _written(found: dict[str, list[Claim]], quick: bool, out: Path) -> None:
    """One table of all findings so far, for the documentation."""
    form = "quick" if quick else "full"
    lines = [f"# Published results, measured again ({form} form)", ""]
    for name, claims in found.items():
        lines += [
            f"## {_title(_paper(name))}",
            "",
            f"`seepage reproduce {name.replace('_', '-')}`",
            "",
        ]
        lines += ["| what | claimed | got | verdict | how |", "|---|---|---|---|---|"]
        lines += ["| " + " | ".join(map(_cell, _cells(claim))) + " |" for claim in claims] + [""]
    path = out / "reproduced.md"
    try:
        path.write_text("\n".join(lines), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"cannot write {path}: {error.strerror}. Choose another --out."
        ) from None


def _cells(claim: Claim) -> tuple[str, ...]:
    return claim.what, claim.claimed, claim.got, claim.verdict, claim.how


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _known(name: str) -> str:
    plain = name.replace("-", "_")
    if plain in papers.__all__:
        return plain
    close = difflib.get_close_matches(plain, papers.__all__, n=1)
    hint = f"Did you mean {close[0]}?" if close else "'seepage reproduce --list' prints the names."
    raise InvalidInput(f"there is no published result {name!r}. {hint}")


def _paper(name: str) -> ModuleType:
    return importlib.import_module(f"seepage.papers.{name}")


def _title(paper: ModuleType) -> str:
    return (inspect.getdoc(paper) or paper.__name__).splitlines()[0]
