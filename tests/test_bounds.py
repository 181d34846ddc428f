"""Bounds against closed forms, brute force and the attackers that they bind."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from seepage import (
    DPSGD,
    Batch,
    Client,
    Clip,
    FedSGD,
    Images,
    InvalidInput,
    Model,
    Noise,
    Prune,
    SecureSum,
    accounting,
    stream,
    tree,
)
from seepage.analysis import bounds
from seepage.analysis.bounds import cramer_rao
from seepage.analysis.bounds.channel import Channel
from seepage.analysis.bounds.prior import Gaussian

PRIOR = Gaussian(
    torch.full((1, 2, 2), 0.5, dtype=torch.float64),
    torch.diag(torch.tensor([0.04, 0.09, 0.02, 0.01], dtype=torch.float64)),
)


def network(activation: nn.Module | None = None, seed: int = 0, hidden: int = 6) -> Model:
    layers = nn.Linear(4, hidden), activation or nn.Tanh(), nn.Linear(hidden, 3)
    module, drawn = nn.Sequential(nn.Flatten(), *layers).double(), stream(seed, "weights")
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=drawn) / 2)
    return Model.of(module, functional.cross_entropy, Images((1, 2, 2), 3))


def channel(client: Client, n: int = 1, activation: nn.Module | None = None) -> Channel:
    return Channel(network(activation), client, PRIOR, torch.arange(n) % 3, n)


class Measured(nn.Module):
    """A network whose gradient is linear in the input: the weight is multiplied by A x."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.weight = nn.Parameter(torch.ones(len(rows), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.rows.T) @ self.weight


def linear_channel(client: Client) -> tuple[Channel, torch.Tensor]:
    rows = torch.randn((7, 4), generator=stream(2, "rows"), dtype=torch.float64)
    model = Model.of(Measured(rows), lambda output, y: output.mean(), Images((1, 2, 2), 1))
    return Channel(model, client, PRIOR, torch.zeros(1)), rows


# Cramer and Rao


@pytest.mark.parametrize("kind", ["gauss", "laplace"])
def test_on_a_linear_measurement_the_bound_is_the_error_of_the_best_attacker(kind: Any) -> None:
    std = 0.3
    linear, rows = linear_channel(Noise(FedSGD(), std, kind))
    weight = (2 if kind == "laplace" else 1) / std**2
    exact = torch.linalg.inv(weight * rows.T @ rows + PRIOR.precision)
    wanted = float(exact.trace()) / 4
    assert bounds.plug_in(linear, 1, stream(0, "x")).value == pytest.approx(wanted)
    found = bounds.certificate(linear, (1, 16), stream(0, "x"))
    assert found.value == pytest.approx(wanted)
    assert found.label == "certified"
    if kind == "gauss":  # the posterior mean reaches it
        x = PRIOR.sample(20000, stream(1, "x")).flatten(1)
        noise = torch.randn((20000, 7), generator=stream(1, "noise"), dtype=torch.float64)
        seen = x @ rows.T + std * noise
        mean = PRIOR.mean.flatten()
        guess = mean + (seen - mean @ rows.T) @ rows @ exact / std**2
        assert float((guess - x).square().mean()) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize(
    "client",
    [Noise(FedSGD(), 0.2), Noise(FedSGD(), 0.2, "laplace"), Noise(FedSGD(), 0.5, relative=True)],
)
@pytest.mark.parametrize("n", [1, 3])
def test_products_with_the_information_are_those_of_the_matrix(client: Client, n: int) -> None:
    here = channel(client, n)
    x = here.sample(stream(0, "x"))
    linear = here.linearised(x)
    jacobian = torch.func.jacrev(lambda x: gradient(here.model, x, here.y))(x).flatten(1)
    update = gradient(here.model, x, here.y)
    assert isinstance(client, Noise)
    if client.relative:
        square = float(update.square().sum())
        tilt = jacobian.T @ update
        wanted = len(update) / square / 0.25 * jacobian.T @ jacobian
        wanted += 2 * len(update) / square**2 * torch.outer(tilt, tilt)
    else:
        wanted = (2 if client.kind == "laplace" else 1) / 0.04 * jacobian.T @ jacobian
    torch.testing.assert_close(linear.information(), wanted)
    v = torch.randn(4 * n, generator=stream(0, "v"), dtype=torch.float64)
    torch.testing.assert_close(linear.informed(v), wanted @ v)
    torch.testing.assert_close(linear.energy(v), v @ wanted @ v)


def gradient(model: Model, x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
    risk = torch.func.grad(lambda params: model.risk(params, Batch(x, y)))
    return tree.flat(risk(dict(model.params)))


def test_relative_noise_tells_by_its_spread_too() -> None:
    # Information of N(g, s^2 |g|^2 / p), measured by the variance of the score.
    here = channel(Noise(FedSGD(), 0.5, relative=True))
    x = here.sample(stream(0, "x"))
    update = gradient(here.model, x, here.y)

    def likelihood(x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        g = gradient(here.model, x, here.y)
        spread = 0.5 * g.norm() / len(g) ** 0.5
        return -((seen - g) ** 2).sum() / (2 * spread**2) - len(g) * spread.log()

    spread = 0.5 * update.norm() / len(update) ** 0.5
    noise = torch.randn((4000, len(update)), generator=stream(1, "n"), dtype=torch.float64)
    score = torch.func.vmap(torch.func.grad(likelihood), (None, 0))(x, update + spread * noise)
    measured = score.flatten(1).T @ score.flatten(1) / 4000
    wanted = here.linearised(x).information()
    assert float((measured - wanted).norm() / wanted.norm()) < 0.1


def test_the_certificate_is_below_the_truth_where_the_plug_in_is_above() -> None:
    here = channel(Noise(FedSGD(), 0.02))
    truth = bounds.plug_in(here, 1500, stream(9, "x")).value
    few = [bounds.plug_in(here, 2, stream(s, "x")).value for s in range(12)]
    assert sum(few) / len(few) > 1.02 * truth
    for seed in range(4):
        found = bounds.certificate(here, (64, 64), stream(seed, "x"))
        assert found.value <= truth
        assert found.value > 0.5 * truth


def test_many_unknowns_are_certified_by_random_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    here = channel(Noise(FedSGD(), 0.1), n=2)
    truth = bounds.plug_in(here, 800, stream(9, "x")).value
    monkeypatch.setattr(cramer_rao, "_DENSE", 3)
    for seed in range(2):
        found = bounds.certificate(here, (8, 64), stream(seed, "x"))
        assert 0.3 * truth < found.value <= truth
    with pytest.raises(InvalidInput, match="too many for whole matrices"):
        bounds.plug_in(here, 1, stream(0, "x"))


def test_lanczos_and_conjugate_gradients_solve() -> None:
    drawn = torch.randn((30, 30), generator=stream(0, "a"), dtype=torch.float64)
    matrix = drawn @ drawn.T + 0.5 * torch.eye(30)
    v = torch.randn(30, generator=stream(1, "v"), dtype=torch.float64)
    wanted = float(v @ torch.linalg.solve(matrix, v))
    got = [cramer_rao.inverse_energy(lambda u: matrix @ u, v, k) for k in (3, 8, 30)]
    assert got == sorted(got)
    assert got[-1] == pytest.approx(wanted, rel=1e-9)
    solved = cramer_rao.conjugate_gradients(lambda u: matrix @ u, v, 60)
    torch.testing.assert_close(matrix @ solved, v, rtol=1e-4, atol=1e-4)


def test_the_cheap_bound_is_lower_and_lanczos_in_the_mean_the_same() -> None:
    here = channel(Noise(FedSGD(), 0.1), n=2)
    truth = bounds.plug_in(here, 400, stream(9, "x")).value
    assert bounds.cheap(here, 64, 4, stream(0, "x")).value < truth
    several = [bounds.lanczos(here, 50, stream(s, "x")).value for s in range(4)]
    assert sum(several) / 4 == pytest.approx(truth, rel=0.3)


def test_an_unbiased_bound_is_no_ceiling() -> None:
    here = channel(Noise(FedSGD(), 2.0))
    x = here.sample(stream(0, "x"))
    found = bounds.unbiased(here, x)
    assert found.value > 3 * float(PRIOR.spectrum.mean())  # the prior mean alone does better
    assert found.assumptions == ("unbiased attackers only",)
    narrow = Channel(network(hidden=1), Noise(FedSGD(), 1.0), PRIOR, torch.zeros(2).long(), 2)
    assert bounds.unbiased(narrow, narrow.sample(stream(0, "x"))).value == math.inf


@pytest.mark.parametrize(
    ("client", "activation", "word"),
    [
        (Noise(FedSGD(), 0.1), nn.ReLU(), "ReLU"),
        (Noise(FedSGD(), 0.1), nn.ELU(0.5), "ELU"),
        (Noise(FedSGD(), 0.1), nn.SELU(), "SELU"),
        (Noise(Prune(FedSGD()), 0.1), None, "Prune before the noise"),
        (Noise(FedSGD(), 0.1, relative=True), None, "grows with the update"),
        (Noise(DPSGD(1.0, 1.0), 0.1), None, "DPSGD before the last noise"),
    ],
)
def test_conditions_that_do_not_hold_are_named(
    client: Client, activation: nn.Module | None, word: str
) -> None:
    label, why = channel(client, 1, activation).proven()
    assert label == "indicative"
    assert word in why[0]


@pytest.mark.parametrize(
    "client",
    [Noise(Clip(FedSGD(), 0.1), 0.1), DPSGD(1.0, 1.0), Noise(SecureSum(FedSGD(), 2), 0.1)],
)
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU(), nn.ELU()])
def test_clipping_and_sums_keep_the_certificate(client: Client, activation: nn.Module) -> None:
    assert channel(client, 2, activation).proven()[0] == "certified"


def test_a_client_without_noise_has_no_such_bound() -> None:
    for client in (FedSGD(), Prune(Noise(FedSGD(), 1.0)), Noise(FedSGD(), 0.0)):
        with pytest.raises(InvalidInput, match="adds no noise last"):
            channel(client)


# Reconstruction robustness


def test_the_ceiling_of_a_hundred_candidates() -> None:
    assert bounds.rero(1 / 100, 1.0).value == pytest.approx(0.09236, abs=1e-5)
    best = bounds.optimal_naming(100, 1.0)
    assert best == pytest.approx(0.08246, abs=1e-5)
    random = np.random.default_rng(5)
    seen = random.standard_normal((100_000, 100), dtype=np.float32)
    seen[:, 0] += 1
    assert float((seen.argmax(1) == 0).mean()) == pytest.approx(best, abs=0.0026)


@pytest.mark.parametrize(
    ("rate", "rounds", "kappa", "wanted"),
    [
        (0.01, 100, 0.1, 0.1273),
        (0.01, 100, 0.01, 0.0151),
        (0.05, 200, 0.1, 0.3500),
        (0.05, 200, 0.01, 0.0831),
    ],
)
def test_sampled_ceilings(rate: float, rounds: int, kappa: float, wanted: float) -> None:
    found = bounds.rero(kappa, 1.0, rounds, rate)
    assert found.value == pytest.approx(wanted, abs=0.002)


def test_a_rate_near_one_is_the_closed_form() -> None:
    exact = bounds.rero(0.01, 2.0, 10).value
    assert exact <= bounds.rero(0.01, 2.0, 10, 1 - 1e-12).value <= exact + 2e-4


def test_the_minimum_over_epsilon_with_exact_deltas_is_the_closed_form() -> None:
    mu, kappa = 1.3, 0.05
    grid = np.linspace(-5, 5, 20001)
    reach = [kappa * math.exp(e) + accounting.gauss_delta(e, mu) for e in grid]
    assert min(reach) == pytest.approx(bounds.rero(kappa, 1 / mu).value, abs=1e-7)


def test_random_draws_agree_with_the_ceiling() -> None:
    found = bounds.drawn(0.1, 1.0, 20, 0.05, 40_000, seed=1)
    exact = bounds.rero(0.1, 1.0, 20, 0.05).value
    assert found.interval is not None
    assert found.interval[0] == pytest.approx(exact, abs=0.006)
    assert exact - 0.003 < found.value < exact + 0.02
    with pytest.raises(InvalidInput, match="at least 1000"):
        bounds.drawn(0.1, 1.0, 20, 0.05, 999, seed=1)


def test_noise_for_a_wanted_ceiling() -> None:
    z = accounting.multiplier_for_chance(0.2, 0.01, rounds=9)
    assert bounds.rero(0.01, z, 9).value == pytest.approx(0.2)
    with pytest.raises(InvalidInput, match="to or below its prior chance"):
        accounting.multiplier_for_chance(0.01, 0.01)


def test_the_chance_among_public_examples() -> None:
    public = torch.tensor([0.0, 0.1, 0.2, 5.0])[:, None]
    assert bounds.public_chance(public, 0.011).value == pytest.approx(2 / 3)
    assert bounds.public_chance(public, 0.011).label == "estimated"
    assert bounds.pure(0.2, 5.0).value == 1


# Rate


def test_water_fills_the_small_eigenvalues_first() -> None:
    sizes = torch.tensor([4.0, 1.0, 0.01])
    nats = 0.5 * math.log(4 / 0.5) + 0.5 * math.log(1 / 0.5)
    assert bounds.water_filled(sizes, nats) == pytest.approx((0.5 + 0.5 + 0.01) / 3)
    assert bounds.water_filled(sizes, 0.0) == pytest.approx(5.01 / 3)
    assert bounds.water_filled(sizes, 100.0) < 1e-20


def test_the_rate_bound_is_tight_on_a_linear_measurement_and_below_the_cramer_rao_bound() -> None:
    linear, rows = linear_channel(Noise(FedSGD(), 0.3))
    found = bounds.any_network(linear, 4000, 4, stream(0, "x"))
    # Of a Gaussian vector: R = ln det(I + A S A^T / s^2) / 2.
    inside = torch.eye(7) + rows @ PRIOR.covariance @ rows.T / 0.09
    exact = bounds.water_filled(PRIOR.spectrum, float(torch.logdet(inside)) / 2)
    assert found.value == pytest.approx(exact, rel=0.03)
    assert found.value < bounds.plug_in(linear, 1, stream(0, "x")).value


def test_the_rate_bound_of_private_records() -> None:
    one = bounds.private_records(PRIOR, 1.0)
    assert one.value == pytest.approx(bounds.water_filled(PRIOR.spectrum, 0.5))
    sampled = bounds.private_records(PRIOR, 1.0, 10, 0.1)
    assert sampled.value > bounds.private_records(PRIOR, 1.0, 10).value
    with pytest.raises(InvalidInput, match="fixed standard deviation"):
        bounds.any_network(channel(Noise(FedSGD(), 1.0, relative=True)), 4, 2, stream(0, "x"))


def test_bits_bound_as_nats_do() -> None:
    assert bounds.bits(PRIOR, 8.0).value == pytest.approx(
        bounds.water_filled(PRIOR.spectrum, 8 * math.log(2))
    )


# Candidates and collisions


def test_two_candidates_are_told_apart_as_often_as_their_distance_says() -> None:
    pair = torch.stack([torch.zeros(50), torch.full((50,), 0.2)])
    found = bounds.best_identification(pair, 1.0, 40_000, stream(0, "y"))
    wanted = bounds.pair_accuracy(pair[0], pair[1], 1.0).value
    assert found.interval is not None
    assert found.interval[0] - 0.002 <= wanted <= found.interval[1] + 0.002


def test_fano_is_above_the_best_attacker() -> None:
    rows = 0.4 * torch.randn((20, 8), generator=stream(0, "g"))
    best = bounds.best_identification(rows, 1.0, 5000, stream(0, "y")).value
    assert best <= bounds.fano(rows, 1.0).value < 1
    orthogonal = torch.eye(100) * 2**-0.5 * 2**0.5
    found = bounds.best_identification(orthogonal, 1.0, 40_000, stream(0, "y"))
    assert found.value == pytest.approx(bounds.optimal_naming(100, 1.0), abs=0.003)


def test_le_cam() -> None:
    found = bounds.le_cam(torch.zeros(4), torch.ones(4), 0.0, 1.0)
    assert found.value == pytest.approx(1.0)


def test_a_collision_is_another_batch_with_the_same_update() -> None:
    model, x = network(hidden=1), PRIOR.sample(4, stream(0, "x")).clamp(0.1, 0.9)
    batch = Batch(x, torch.zeros(4).long())
    found, other = bounds.collide(model, FedSGD(), batch, stream(1, "way"))
    assert found.label == "certified"
    assert found.value == pytest.approx(float((other - x).norm()) / 2)
    assert float(other.min()) >= 0
    assert float(other.max()) <= 1
    one, two = (gradient(model, x, batch.y) for x in (x, other))
    assert float((one - two).norm() / one.norm()) <= 1e-9


def test_where_no_collision_is_found_nothing_is_claimed() -> None:
    batch = Batch(PRIOR.sample(1, stream(0, "x")).clamp(0.1, 0.9), torch.zeros(1).long())
    found, other = bounds.collide(network(), FedSGD(), batch, stream(1, "way"))
    assert found.label == "none"
    assert torch.equal(other, batch.x)


def test_a_record_that_touches_no_unit_is_hidden() -> None:
    model = network(nn.ReLU())
    params = {**model.params, "1.bias": torch.full((6,), -1.0, dtype=torch.float64)}
    params["1.weight"] = params["1.weight"].abs()
    shown, dead = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), -5.0)
    batch = Batch(torch.cat([shown, dead]), torch.zeros(2).long())
    assert bounds.hidden(model.with_params(params), FedSGD(), batch) == [1]


def test_an_error_bound_is_a_ceiling_in_decibels() -> None:
    found = bounds.Bound(0.01, "mean squared error", "certified", (), (0.001, 0.1)).psnr()
    assert found.value == pytest.approx(20)
    assert found.interval == pytest.approx((10, 30))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bounds.rero(0.0, 1.0), "kappa=0.0"),
        (lambda: bounds.rero(0.1, 1.0, 1, 2.0), "rate=2.0"),
        (lambda: Gaussian.fit(torch.zeros(1, 2)), "at least 2 examples"),
        (lambda: bounds.fano(torch.zeros(1, 4), 1.0), "at least two"),
        (lambda: bounds.certificate(channel(Noise(FedSGD(), 1.0)), (1, 2), stream(0, "x")), "16"),
    ],
)
def test_wrong_arguments_are_named(call: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        call()
