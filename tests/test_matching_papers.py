"""The papers on gradient matching, in their quick forms."""

import importlib
from pathlib import Path

import pytest

from seepage import papers
from seepage.papers.claims import Claim

NAMES = {
    "believed": 7,
    "dlg": 2,
    "finisher": 3,
    "inverting_gradients": 4,
    "label_counts": 7,
    "matching": 12,
    "matching_cost": 5,
}


def found(name: str, folder: Path | None = None) -> list[Claim]:
    return list(importlib.import_module(f"seepage.papers.{name}").reproduce(True, folder))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "matching_cost"])
def test_quick_forms(name: str, tmp_path: Path) -> None:
    claims = found(name, tmp_path)
    assert name in papers.__all__
    assert len(claims) == NAMES[name]
    # What is confirmed here is arithmetic, not luck; budgets of seconds are left out.
    assert not [c for c in claims if c.verdict == "not confirmed"]
    drawn = {"dlg": 6, "finisher": 2, "inverting_gradients": 4, "matching": 12}
    assert len(list(tmp_path.glob("*.png"))) == drawn.get(name, 0)


def test_the_cost_is_measured_for_every_network() -> None:
    claims = found("matching_cost")
    assert len(claims) == NAMES["matching_cost"]
    assert all("the usual loop takes" in claim.got for claim in claims)
