"""The papers on two-layer networks, in their quick form."""

from pathlib import Path

import pytest
import torch

from seepage.core import Reconstruction
from seepage.papers import liu2024, wang2023
from seepage.papers.claims import Claim
from seepage.papers.two_layer import direction_error, power_law, span_error, wide


def by_name(claims: list[Claim], start: str) -> Claim:
    (found,) = (claim for claim in claims if claim.what.startswith(start))
    return found


def test_wang2023(tmp_path: Path) -> None:
    claims = list(wang2023.reproduce(quick=True, folder=tmp_path))
    assert by_name(claims, "which Hermite").verdict == "confirmed"
    assert by_name(claims, "error of the span in d and m").verdict == "confirmed"
    assert by_name(claims, "dropout, one mask").verdict == "not confirmed"
    assert "polished 1e-08 1e-08" in by_name(claims, "K local steps, same").got
    assert (tmp_path / "wang2023.png").stat().st_size > 1000


def test_liu2024(tmp_path: Path) -> None:
    claims = list(liu2024.reproduce(quick=True, folder=tmp_path))
    assert by_name(claims, "matching guided").verdict == "confirmed"
    assert len([claim for claim in claims if "accuracy lost, leak" in claim.what]) == 3
    assert (tmp_path / "liu2024.png").stat().st_size > 1000


def test_power_laws_are_fitted_in_several_factors() -> None:
    left, right = [1.0, 1.0, 4.0, 4.0], [1.0, 9.0, 1.0, 9.0]
    error = [a**0.5 / b**0.5 for a, b in zip(left, right, strict=True)]
    assert power_law(error, left, right).exponents == pytest.approx((0.5, -0.5))


def test_errors_of_directions_and_spans() -> None:
    x = wide("relu", (2, 16, 8), seed=3).x
    none = torch.zeros(2)
    turned = Reconstruction((x @ torch.eye(16).double()).flip(0) * -2, None, none, none)
    assert direction_error(turned, x) < 1e-7
    assert span_error(turned, x) < 1e-12
    half = Reconstruction(x[:1], None, none[:1], none[:1])
    assert direction_error(half, x) == pytest.approx(2**0.5 / 2, abs=1e-6)
