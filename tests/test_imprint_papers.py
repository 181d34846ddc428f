"""The two papers' quick forms: every claim is measured, and the ones that must hold do."""

from pathlib import Path

from seepage.papers import guard, robbing_the_fed


def test_robbing_the_fed_quickly(tmp_path: Path) -> None:
    claims = {claim.what: claim for claim in robbing_the_fed.reproduce(True, tmp_path)}
    assert len(claims) >= 20
    exact = claims["128 rows in three directions, peeled, seed 91"].got
    assert int(exact.split("/")[0]) >= 62
    assert all("(0 falsely)" in claim.got for claim in claims.values() if "falsely" in claim.got)
    frozen = claims["figure 16: FedAvg, 8 steps of 8, frozen rows (ours)"]
    assert frozen.verdict == "confirmed"
    figures = ("1_unique", "1_one_class", "2", "3_seed31", "5", "6", "9", "11", "16")
    assert {*(f"figure{name}.png" for name in figures), "directions.png"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_the_guard_quickly(tmp_path: Path) -> None:
    claims = {claim.what: claim for claim in guard.reproduce(True, tmp_path)}
    rates = claims["flagged by rank or duplicates or reach"].got
    assert "false positives 0/" in rates
    caught, of = rates.split("true positives ")[1].split(",")[0].split("/")
    assert int(caught) >= 0.8 * int(of)
    assert claims["imprint rows not yet armed"].got == "nothing found"
    assert (tmp_path / "guard.png").exists()
