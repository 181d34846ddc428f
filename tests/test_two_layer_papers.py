"""The papers on two-layer networks, in their quick form."""

from pathlib import Path

import pytest
import torch

from seepage import zoo
from seepage.attacks import Recovered
from seepage.clients import FedSGD
from seepage.core import Reconstruction, observe, stream
from seepage.defenses import Prune
from seepage.errors import Failed, InvalidInput
from seepage.papers import equal_utility, liu2024, wang2023
from seepage.papers.claims import Claim
from seepage.papers.equal_utility import Point, strongest
from seepage.papers.two_layer import direction_error, power_law, span_error, wide


def by_name(claims: list[Claim], start: str) -> Claim:
    (found,) = (claim for claim in claims if claim.what.startswith(start))
    return found


def test_wang2023(tmp_path: Path) -> None:
    claims = list(wang2023.reproduce(quick=True, folder=tmp_path))
    assert by_name(claims, "which Hermite").verdict == "confirmed"
    assert by_name(claims, "error of the span in d and m").verdict == "confirmed"
    assert by_name(claims, "dropout, one mask").verdict == "not confirmed"
    exact = by_name(claims, "the same error after polishing").got
    assert all(float(part.split(",")[0]) < 1e-10 for part in exact.split("at most ")[1:])
    assert (tmp_path / "wang2023.png").stat().st_size > 1000


def test_liu2024(tmp_path: Path) -> None:
    claims = list(liu2024.reproduce(quick=True, folder=tmp_path))
    assert by_name(claims, "matching guided by recovered features on two").verdict == "confirmed"
    assert "1 of 1 right" in by_name(claims, "features of ResNet-18 under a ReLU head").got
    curves = [claim for claim in claims if "accuracy lost, leak" in claim.what]
    assert len(curves) == len(equal_utility.DEFENSES)
    assert by_name(claims, "the strongest defense").verdict == "not confirmed"
    assert (tmp_path / "liu2024.png").stat().st_size > 1000


def test_curves_are_compared_at_equal_loss_and_never_beyond() -> None:
    def curve(*points: tuple[float, float]) -> list[Point]:
        return [Point(i, lost, leak, "") for i, (lost, leak) in enumerate(points)]

    curves = {"prune": curve((0, 1), (0.04, 0.2)), "noise": curve((0, 1), (0.02, 0.9))}
    claim = strongest(curves)
    assert claim.verdict == "confirmed"
    assert "at 1% lost: prune 0.80, noise 0.95" in claim.got
    assert "at 5%" not in claim.got
    claim = strongest(curves | {"sum": curve((0, 1), (0, 0.3))})
    assert claim.verdict == "not confirmed"
    assert "at no loss: sum 0.30" in claim.got


def test_a_prior_of_features_needs_features() -> None:
    photos = zoo.photos(2, 16)
    model = photos.model(zoo.linear(768, 8))
    seen = observe(model, photos.batch, FedSGD(), stream(0, "client"))
    with pytest.raises(InvalidInput, match="two"):
        Recovered().fitted(seen)
    noisy = photos.model(zoo.two_layer(768, 64, "gelu", classes=8))
    blind = observe(noisy, photos.batch, Prune(FedSGD(), 0.99), stream(0, "client"))
    with pytest.raises(Failed, match="Leave Recovered out"):
        Recovered().fitted(blind)
    with pytest.raises(InvalidInput, match=r"Recovered\.by='angle'"):
        Recovered(by="angle")  # type: ignore[arg-type]


def test_features_pull_a_candidate_to_their_nearest_assignment() -> None:
    photos = zoo.photos(3, 8, seed=2)
    model = photos.model(zoo.two_layer(192, 64, "gelu", classes=8))
    seen = observe(model, photos.batch, FedSGD(), stream(0, "client"))
    for by in ("distance", "cosine"):
        term = Recovered(2.0, by).fitted(seen)
        turned = {term.layers[0]: photos.x.flatten(1)[[2, 0, 1]]}
        assert float(term.value(turned, None)) == pytest.approx(0, abs=1e-6)
        assert float(term.value({term.layers[0]: 0.5 * photos.x.flatten(1)}, None)) == (
            pytest.approx(0.5 if by == "distance" else 0.0, abs=1e-5)
        )


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
