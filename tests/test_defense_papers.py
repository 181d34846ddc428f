"""The published results on defenses, in their quick form."""

import importlib

import pytest

from seepage.papers.claims import Claim


def claims(name: str) -> list[Claim]:
    module = importlib.import_module(f"seepage.papers.{name}")
    found: list[Claim] = list(module.reproduce(True, None))
    return found


@pytest.mark.parametrize("name", ["rero", "dropout_inversion", "soteria", "svt_budget"])
def test_what_is_published_is_found(name: str) -> None:
    found = claims(name)
    assert found
    assert all(claim.verdict in ("confirmed", "measured") for claim in found), found


def test_the_classical_formula_fails_for_large_epsilons_only() -> None:
    verdicts = [claim.verdict for claim in claims("flower_ldp")]
    held, false = ["confirmed"] * 2, ["not confirmed"] * 3
    assert verdicts == [*held, *false, "measured", "not confirmed"]
