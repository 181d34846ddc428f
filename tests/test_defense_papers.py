"""The published results on defenses, in their quick form."""

import importlib

import pytest

from seepage.papers.claims import Claim


def claims(name: str) -> list[Claim]:
    module = importlib.import_module(f"seepage.papers.{name}")
    found: list[Claim] = list(module.reproduce(True, None))
    return found


@pytest.mark.parametrize(
    "name", ["rero", "dropout_inversion", "soteria", "svt_budget", "precode", "instahide"]
)
def test_what_is_published_is_found(name: str) -> None:
    found = claims(name)
    assert found
    assert all(claim.verdict in ("confirmed", "measured") for claim in found), found


def test_the_classical_formula_fails_for_large_epsilons_only() -> None:
    verdicts = [claim.verdict for claim in claims("flower_ldp")]
    held, false = ["confirmed"] * 2, ["not confirmed"] * 3
    assert verdicts == [*held, *false, "measured", "not confirmed"]


def test_the_rates_of_the_talk_are_measured_where_they_do_not_hold_too() -> None:
    found = claims("lei_defenses")
    assert [claim.claimed for claim in found[1:]] == [
        "3.4 times the error",
        "1.04 times the error",
        "11 times the error",
    ]
    assert all("times" in claim.got for claim in found)
