"""Which ceilings stand beside a client, and what was found beside them."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from seepage import (
    DPSGD,
    Client,
    Clip,
    Dropout,
    FedAvg,
    FedSGD,
    Images,
    MixUp,
    Model,
    Noise,
    Prune,
    Quantize,
    Sign,
    stream,
    zoo,
)
from seepage.analysis import bounds, verdict
from seepage.analysis.ceilings import Noisy, Release, ceilings, noise

PRIOR = bounds.Gaussian(
    torch.full((1, 2, 2), 0.5, dtype=torch.float64),
    torch.diag(torch.tensor([0.04, 0.09, 0.02, 0.01], dtype=torch.float64)),
)


def network(activation: nn.Module | None = None) -> Model:
    layers = nn.Linear(4, 6), activation or nn.Tanh(), nn.Linear(6, 3)
    module, drawn = nn.Sequential(nn.Flatten(), *layers).double(), stream(0, "weights")
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=drawn) / 2)
    return Model.of(module, functional.cross_entropy, Images((1, 2, 2), 3))


def released(client: Client, activation: nn.Module | None = None, **more: Any) -> list[str]:
    public = PRIOR.sample(60, stream(5, "public"))
    about = network(activation), client, more.pop("n", 1), torch.zeros(1).long(), public
    return [f"{one.of} {one.bound.label}" for one in ceilings(Release(*about, **more))]


PRIVATE = ["naming certified", "records estimated"]


def test_which_ceilings_stand_beside_a_client() -> None:
    assert released(DPSGD(1.0, 1.0)) == [*PRIVATE, "pixels certified"]
    assert released(Noise(Clip(FedSGD(), 1.0), 0.1)) == [*PRIVATE, "pixels certified"]
    assert released(Prune(FedAvg(DPSGD(1.0, 1.0), epochs=2))) == [*PRIVATE, "pixels certified"]
    assert released(DPSGD(1.0, 1.0), nn.ReLU(), malicious=True) == [*PRIVATE, "pixels certified"]
    assert released(Noise(FedSGD(), 0.1)) == ["pixels certified"]
    assert released(Noise(Prune(FedSGD(), 0.5), 0.1)) == ["pixels estimated"]
    assert released(Noise(FedSGD(), 0.1), nn.ReLU()) == ["pixels estimated"]
    assert released(Noise(FedSGD(), 0.1), candidates=2) == ["pixels estimated"]
    assert released(FedSGD()) == released(Prune(FedSGD())) == []


@pytest.mark.parametrize(
    "client",
    [
        Noise(FedSGD(), 0.1, relative=True),
        Noise(FedSGD(), 0.1, kind="laplace"),
        Noise(FedSGD(), 0.1, kind="optimal"),
        Prune(DPSGD(1.0, 1.0), kind="optimal"),
        FedAvg(Noise(FedSGD(), 0.1)),
        MixUp(DPSGD(1.0, 1.0)),
        Dropout(DPSGD(1.0, 1.0), 0.5),
    ],
)
def test_no_ceiling_where_the_proof_fails(client: Client) -> None:
    assert released(client) == ["pixels none"]
    assert released(Noise(FedSGD(), 0.1), malicious=True) == ["pixels none"]


def test_what_a_record_moves_is_the_smallest_clipping_in_reach_of_the_noise() -> None:
    inside = Prune(Clip(Clip(FedSGD(), 4.0), 2.0))
    assert noise(Sign(Noise(inside, 0.5))) == Noisy(Noise(inside, 0.5), 1, 4.0)
    assert noise(Noise(Quantize(Clip(FedSGD(), 1.0)), 0.5)).shift is None
    assert noise(DPSGD(1.0, 0.0)) is None


def test_sampling_lowers_the_ceiling() -> None:
    public = PRIOR.sample(60, stream(5, "public"))
    about = network(nn.ReLU()), DPSGD(1.0, 1.0, rate=0.1), 1, torch.zeros(1).long(), public
    found = {one.of: one.bound.value for one in ceilings(Release(*about))}
    assert found["naming"] == pytest.approx(bounds.rero(0.01, 1.0, 1, 0.1).value)
    assert found["naming"] < 0.5 * bounds.rero(0.01, 1.0).value


def test_the_scorers_choice_costs_nats_and_local_epochs_cost_rounds() -> None:
    def limit(client: Client, **more: Any) -> float:
        public = PRIOR.sample(60, stream(5, "public"))
        about = network(nn.ReLU()), client, 1, torch.zeros(1).long(), public
        return ceilings(Release(*about, malicious=True, **more))[-1].bound.value

    one, two = DPSGD(1.0, 1.0), FedAvg(DPSGD(1.0, 1.0), epochs=2)
    spectrum = bounds.Spectrum.fit(PRIOR.sample(60, stream(5, "public")).clamp(0, 1))
    assert limit(one) == pytest.approx(bounds.private_records(spectrum, 1.0).psnr().value)
    assert limit(two) == pytest.approx(bounds.private_records(spectrum, 1.0, 2).psnr().value)
    chosen = bounds.private_records(spectrum, 1.0, spare=math.log(5)).psnr().value
    assert limit(one, candidates=5) == pytest.approx(chosen)


def test_the_best_namer_of_public_images_stays_below_the_ceiling_on_records() -> None:
    """Candidates whose clipped gradients are orthogonal, which no network can surpass."""
    sample, z, draws = zoo.digits(1), 0.5, 2000
    public = zoo.digits(200, split="public").x
    model = sample.model(zoo.mlp(64, 4, 10))
    limit = ceilings(Release(model, DPSGD(1.0, z), 1, sample.y, public, malicious=True))[1]
    seen = z * torch.randn(draws, len(public), generator=stream(0, "draws"))
    seen[:, 0] += 1
    assert 0.1 < float((seen.argmax(1) == 0).double().mean()) < limit.bound.value < 0.7


def test_a_mean_error_is_found_with_its_spread() -> None:
    assert verdict.lowest([20.0, 21.0, 22.0]) < verdict.mean_error_psnr([20.0, 21.0, 22.0]) < 21
    assert verdict.least(10, 10) > 0.6 > verdict.least(3, 10)
