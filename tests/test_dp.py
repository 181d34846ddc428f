"""Privacy accounting against closed forms, direct integration, and Opacus where it is there."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from seepage import InvalidInput, accounting


def direct_delta(epsilon: float, mu: float) -> float:
    """The hockey-stick divergence of N(mu, 1) from N(0, 1), by quadrature."""
    p, q = stats.norm(mu, 1).pdf, stats.norm(0, 1).pdf
    value, _ = integrate.quad(
        lambda x: max(p(x) - math.exp(epsilon) * q(x), 0),
        epsilon / mu + mu / 2,
        mu + 40,
        limit=200,
        epsabs=1e-14,
    )
    return float(value)


@pytest.mark.parametrize(("epsilon", "mu"), [(0.5, 0.3), (3.0, 1.7), (20.0, 4.128)])
def test_delta_is_the_hockey_stick_divergence(epsilon: float, mu: float) -> None:
    assert accounting.gauss_delta(epsilon, mu) == pytest.approx(
        direct_delta(epsilon, mu), rel=1e-6, abs=1e-12
    )


@pytest.mark.parametrize("mu", [0.05, 0.7, 5.0, 40.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_epsilon_undoes_delta(mu: float, delta: float) -> None:
    epsilon = accounting.gauss_epsilon(delta, mu)
    if epsilon == 0:
        assert accounting.gauss_delta(0, mu) <= delta
    else:
        assert accounting.gauss_delta(epsilon, mu) == pytest.approx(delta, rel=1e-6)


def test_no_noise_and_no_signal() -> None:
    assert accounting.gauss_delta(5.0, math.inf) == 1
    assert accounting.gauss_delta(0.0, 0.0) == 0


def test_sampling_everything_is_the_closed_form() -> None:
    for side in accounting.losses(1 - 1e-12, 2.0, 10):
        exact = accounting.gauss_epsilon(1e-5, math.sqrt(10) / 2)
        assert exact <= side.epsilon(1e-5) <= exact + 0.003


def test_one_sampled_round_is_exact_up_to_the_grid() -> None:
    q, z = 0.2, 1.0
    p = lambda x: (1 - q) * stats.norm(0, z).pdf(x) + q * stats.norm(1, z).pdf(x)  # noqa: E731
    forward, backward = accounting.losses(q, z, 1)
    for epsilon in (-0.1, 0.0, 0.5, 1.5):
        gap = lambda x, e=epsilon: max(p(x) - math.exp(e) * stats.norm(0, z).pdf(x), 0)  # noqa: E731
        wanted, _ = integrate.quad(gap, -12, 14, limit=400, points=[0, 1, 2, 3])
        assert wanted - 1e-7 <= forward.delta(epsilon) <= wanted + 0.003
        other = lambda x, e=epsilon: max(stats.norm(0, z).pdf(x) - math.exp(e) * p(x), 0)  # noqa: E731
        wanted, _ = integrate.quad(other, -12, 14, limit=400, points=[0, 1, 2, 3])
        assert wanted - 1e-7 <= backward.delta(epsilon) <= wanted + 0.003


def test_all_deltas_at_once_are_the_single_ones() -> None:
    forward, _ = accounting.losses(0.3, 1.0, 3)
    at_once = forward.deltas()
    for place in range(0, len(at_once), len(at_once) // 7):
        assert at_once[place] == pytest.approx(forward.delta(forward.values[place]), abs=1e-12)


@pytest.mark.parametrize(("rate", "rounds", "opacus"), [(0.01, 100, 0.71913), (0.05, 200, 4.76724)])
def test_sampled_epsilon_is_that_of_opacus(rate: float, rounds: int, opacus: float) -> None:
    # Opacus 1.6.0, PRVAccountant(eps_error=.001), z = 1, delta = 1e-5.
    assert accounting.epsilon(1e-5, 1.0, rounds, rate) == pytest.approx(opacus, abs=0.003)


def test_sampled_epsilon_against_the_installed_opacus() -> None:
    accountants = pytest.importorskip("opacus.accountants")
    accountant = accountants.PRVAccountant()
    accountant.history = [(0.8, 0.02, 50)]
    expected = accountant.get_epsilon(1e-5, eps_error=0.01)
    assert accounting.epsilon(1e-5, 0.8, 50, 0.02) == pytest.approx(expected, abs=0.015)


def test_losses_add_up_as_random_draws_do() -> None:
    q, z, rounds = 0.1, 1.0, 5
    drawn = np.random.default_rng(3)
    hit = drawn.random((200_000, rounds)) < q
    x = z * drawn.standard_normal((200_000, rounds)) + hit
    total = np.log1p(q * np.expm1((2 * x - 1) / (2 * z**2))).sum(1)
    forward, _ = accounting.losses(q, z, rounds)
    spread = forward.values
    for point in (-0.2, 0.0, 0.4, 1.0):
        share = float(forward.mass[spread > point].sum())
        assert share == pytest.approx(float((total > point).mean()), abs=0.005)


@pytest.mark.parametrize(("rounds", "rate"), [(1, 1.0), (30, 1.0), (20, 0.05)])
def test_the_multiplier_for_a_wanted_epsilon_reaches_it(rounds: int, rate: float) -> None:
    z = accounting.multiplier_for(2.0, 1e-5, rounds, rate)
    assert accounting.epsilon(1e-5, z, rounds, rate) == pytest.approx(2.0, rel=1e-3)


def test_divergence_falls_with_sampling() -> None:
    got = accounting.divergence(0.3, 0.7)
    p = lambda x: 0.7 * stats.norm(0, 0.7).pdf(x) + 0.3 * stats.norm(1, 0.7).pdf(x)  # noqa: E731
    wanted, _ = integrate.quad(
        lambda x: p(x) * math.log(p(x) / stats.norm(0, 0.7).pdf(x)), -8, 9, limit=200
    )
    assert got == pytest.approx(wanted, rel=1e-5)
    assert accounting.divergence(1.0, 0.7) == pytest.approx(1 / (2 * 0.49))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: accounting.epsilon(0.0, 1.0), "delta=0.0 is no probability"),
        (lambda: accounting.epsilon(1e-5, 0.0), "multiplier=0.0"),
        (lambda: accounting.epsilon(1e-5, 1.0, 0), "rounds=0"),
        (lambda: accounting.epsilon(1e-5, 1.0, 1, 1.5), "rate=1.5 is no sampling rate"),
        (lambda: accounting.multiplier_for(0.0, 1e-5), "wanted=0.0"),
        (lambda: accounting.losses(0.1, 1.0, 2)[0].epsilon(1e-13), "use a larger"),
    ],
)
def test_wrong_arguments_are_named(call: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        call()  # type: ignore[operator]
