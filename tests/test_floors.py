"""Imports go down: each room may use the floors below it, and the named doors beside it."""

import ast
from pathlib import Path

import pytest

import seepage

ROOT = Path(seepage.__file__).parent
FLOORS = [
    {"core", "model", "tree", "errors", "values", "forms", "checks", "files", "expr", "captured"},
    {"clients", "chains", "accounting"},
    {"defenses", "attacks", "metrics", "analysis", "guard", "zoo"},
    {"trials", "costs", "sweeping", "store", "executors", "prints", "progress"},
    {"integrations"},
    {"report", "papers", "tradeoffs"},
    {"auditing"},
    {"cli"},
]
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
FREE = FLOORS[0], FLOORS[3]  # rooms of these two floors work together


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports, at its top or inside a function."""
    modules = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            at_top = node.module == "seepage"
            modules |= {f"seepage.{a.name}" for a in node.names} if at_top else {str(node.module)}
    modules.discard("seepage.__version__")
    return {name.split(".")[1] for name in modules if name.startswith("seepage.")}


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    own = room_of(path)
    for other in imported(path) - {own}:
        beside = HEIGHT[own] == HEIGHT[other] and any(own in floor for floor in FREE)
        assert HEIGHT[other] < HEIGHT[own] or beside, f"{path}: {own} may not import {other}"


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} <= set(HEIGHT)


def test_truth_stays_out_of_attacks_reach() -> None:
    for path in (ROOT / "attacks").rglob("*.py"):
        assert not imported(path) & {"metrics", "zoo", "trials", "auditing"}, path
