"""Reconstruction robustness: how much likelier private noise lets any attacker come close."""

import math

import numpy as np
import scipy
import torch
from torch import Tensor

from seepage import accounting
from seepage.analysis.bounds.bound import Bound
from seepage.checks import at_least, positive
from seepage.errors import InvalidInput

_INFORMED = "the attacker may know all other examples"


def rero(kappa: float, multiplier: float, rounds: int = 1, rate: float = 1.0) -> Bound:
    """gamma = Phi(Phi^-1(kappa) + sqrt(T)/z): the most that a chance kappa can become.

    For DP-SGD with noise multiplier z and sensitivity one clipping norm, on any network, against
    any attack. With sampling rate q < 1: min over e of kappa e^e + delta(e). Balle et al. 2022,
    arXiv 2201.04845; Hayes et al. 2023, arXiv 2302.07225; Kaissis et al. 2023, arXiv 2307.03928.

    >>> round(rero(1 / 100, multiplier=1.0).value, 5)
    0.09236
    """
    _check_chance(kappa)
    accounting.check_mechanism(rate, multiplier, rounds)
    if rate == 1:
        gamma = float(
            scipy.special.ndtr(scipy.special.ndtri(kappa) + math.sqrt(rounds) / multiplier)
        )
        return Bound(gamma, "probability", "certified", (_INFORMED, _blind(kappa)))
    gamma = accounting.losses(rate, multiplier, rounds)[0].ceiling(kappa)
    why = (_INFORMED, _blind(kappa), f"Poisson sampling at rate {rate:g}")
    return Bound(gamma, "probability", "certified", why)


def _blind(kappa: float) -> str:
    return f"a blind guess is right with chance {kappa:.2g}"


def pure(kappa: float, epsilon: float) -> Bound:
    """gamma = e^epsilon kappa, for pure differential privacy.

    >>> round(pure(0.01, 1.0).value, 4)
    0.0272
    """
    _check_chance(kappa)
    at_least("pure.epsilon", epsilon, 0)
    return Bound(min(1.0, math.exp(epsilon) * kappa), "probability", "certified", (_INFORMED,))


def equal_candidates(count: int) -> float:
    """kappa = 1/M: the chance of naming the right one of M equally likely candidates."""
    at_least("equal_candidates.count", count, 1)
    return 1 / count


def public_chance(public: Tensor, error: float) -> Bound:
    """kappa = max_x0 Pr[rho(X, x0) <= eta] among public examples, by mean squared error.

    The guess x0 is a public example and X another one; a prior that differs makes it another. The
    interval's upper end holds with 99 % confidence for every such guess (Clopper and Pearson).
    """
    flat = public.flatten(1).double()
    squares = torch.cdist(flat, flat).square() / flat.shape[1]
    near = (squares <= error).double()
    hits, others = int(near.sum(1).max()) - 1, max(len(flat) - 1, 1)
    upper = float(scipy.stats.beta.ppf(1 - 0.01 / len(flat), hits + 1, max(others - hits, 0.5)))
    why = (f"prior chance counted among {len(flat)} public examples",)
    return Bound(hits / others, "probability", "estimated", why, (hits / others, upper))


def drawn(
    kappa: float, multiplier: float, rounds: int, rate: float, draws: int, seed: int
) -> Bound:
    """The ceiling by Monte Carlo: how often P's summed loss is above Q's (1 - kappa) quantile.

    Certified at 99%: the threshold is an order statistic that lies below Q's quantile but with
    probability .5%, and the frequency is Clopper and Pearson's upper limit at 99.5%.
    """
    _check_chance(kappa)
    if draws < 100 / kappa:
        raise InvalidInput(f"draws={draws}: a chance of {kappa} needs at least {100 / kappa:.0f}.")
    random = np.random.default_rng(seed)
    under = np.sort(_summed(random, rounds, draws, (0.0, rate, multiplier)))
    over = _summed(random, rounds, draws, (rate, rate, multiplier))
    rank = int(scipy.stats.binom.ppf(0.005, draws, 1 - kappa))
    hits = int((over >= under[max(rank - 1, 0)]).sum())
    upper = float(scipy.stats.beta.ppf(0.995, hits + 1, max(draws - hits, 1)))
    plain = float((over > np.quantile(under, 1 - kappa)).mean())
    why = (_INFORMED, f"{draws} draws, 99%")
    return Bound(upper, "probability", "certified", why, (plain, upper))


def _summed(
    random: np.random.Generator, rounds: int, draws: int, how: tuple[float, float, float]
) -> accounting.Array:
    """T losses added up: `how` is the chance that the record is in, the rate, and z."""
    present, rate, z = how
    total = np.zeros(draws)
    for _ in range(rounds):
        x = z * random.standard_normal(draws)
        if present:
            x += random.random(draws) < present
        total += np.log1p(rate * np.expm1((2 * x - 1) / (2 * z**2)))
    return total


def optimal_naming(count: int, distance: float, points: int = 20_001) -> float:
    """The success of the best attacker on M orthogonal candidates, int phi(y - d) Phi(y)^(M-1) dy.

    >>> round(optimal_naming(100, 1.0), 4)
    0.0825
    """
    positive("optimal_naming.distance", distance)
    y = np.linspace(-10, 10 + distance, points)
    density = scipy.stats.norm.pdf(y - distance) * scipy.stats.norm.cdf(y) ** (count - 1)
    return float(np.trapezoid(density, y))


def _check_chance(kappa: float) -> None:
    if not 0 < kappa < 1:
        raise InvalidInput(f"kappa={kappa} is no prior chance of success: use 0 < kappa < 1.")
