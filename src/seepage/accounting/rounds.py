"""What rounds of Gaussian noise come to: epsilon, delta, and the noise that is enough.

z is the noise multiplier (standard deviation over sensitivity) and T the number of rounds. All in
double precision; nothing here knows of networks.
"""

import math
from collections.abc import Callable

import numpy as np
import scipy

from seepage.accounting.grid import Losses, Round, composed
from seepage.checks import at_least, positive
from seepage.errors import InvalidInput


def gauss_delta(epsilon: float, mu: float) -> float:
    """delta(e) = Phi(mu/2 - e/mu) - e^e Phi(-mu/2 - e/mu), with mu = sqrt(T) / z.

    Exact for T rounds of Gaussian noise on full batches. Balle and Wang 2018, arXiv 1805.06530.

    >>> round(gauss_delta(20.0, 1 / 0.2422403), 5)
    0.00153
    """
    if mu == 0:
        return max(0.0, -math.expm1(epsilon))
    if math.isinf(mu):
        return 1.0
    above, below = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    log_ndtr = scipy.special.log_ndtr
    return float(np.exp(log_ndtr(above)) - np.exp(epsilon + log_ndtr(below)))


def gauss_epsilon(delta: float, mu: float) -> float:
    """The least epsilon that T full-batch rounds keep: gauss_delta(epsilon, mu) = delta.

    >>> round(gauss_epsilon(1e-5, 1 / 0.2422403), 2)
    25.44
    """
    check_delta(delta)
    at_least("gauss_epsilon.mu", mu, 0)
    if gauss_delta(0.0, mu) <= delta:
        return 0.0
    most = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1
    return float(scipy.optimize.brentq(lambda e: gauss_delta(e, mu) - delta, 0, most, xtol=1e-10))


def losses(rate: float, multiplier: float, rounds: int) -> tuple[Losses, Losses]:
    """The losses of P against Q and of Q against P after T rounds, each composed by FFT.

    P = (1-q) N(0, z^2) + q N(1, z^2) and Q = N(0, z^2): one example more, Poisson-sampled with
    rate q. A round's loss l(x) = log(1 + q expm1((2x - 1) / 2z^2)) is put on a grid, the mass
    between two points on both of them so that P and Q keep theirs: the answer errs on the safe
    side, by the square of the step. Koskela et al. 2020, arXiv 1906.03049; Doroshenko et al. 2022,
    arXiv 2207.04380.
    """
    check_mechanism(rate, multiplier, rounds)
    return (
        composed(Round(rate, multiplier, forward=True), rounds),
        composed(Round(rate, multiplier, forward=False), rounds),
    )


def epsilon(delta: float, multiplier: float, rounds: int = 1, rate: float = 1.0) -> float:
    """The tight epsilon of T rounds at a sampling rate; the worse of both directions.

    >>> round(epsilon(1e-5, 1.0, 100, 0.01), 2), round(epsilon(1e-5, 1.0), 2)
    (0.72, 4.38)
    """
    check_delta(delta)
    check_mechanism(rate, multiplier, rounds)
    if rate == 1:
        return gauss_epsilon(delta, math.sqrt(rounds) / multiplier)
    return max(side.epsilon(delta) for side in losses(rate, multiplier, rounds))


def multiplier_for(wanted: float, delta: float, rounds: int = 1, rate: float = 1.0) -> float:
    """The least noise multiplier whose epsilon is at most the wanted one.

    >>> round(multiplier_for(20.0, 1e-5), 3)
    0.29
    """
    positive("multiplier_for.wanted", wanted)
    start = rounds**0.5
    if rate < 1:  # sampling only helps, so what full batches need is enough
        start = multiplier_for(wanted, delta, rounds)
    return bisected(lambda z: epsilon(delta, z, rounds, rate) - wanted, start)


def multiplier_for_chance(gamma: float, kappa: float, rounds: int = 1) -> float:
    """z = sqrt(T) / (Phi^-1(gamma) - Phi^-1(kappa)): no attack turns a chance kappa into more.

    The inverse of `analysis.bounds.rero` for full batches.

    >>> round(multiplier_for_chance(0.0923602, 0.01), 4)
    1.0
    """
    if not 0 < kappa < gamma < 1:
        raise InvalidInput(
            f"gamma={gamma}: no noise brings a success to or below its prior chance kappa={kappa}. "
            "Use 0 < kappa < gamma < 1."
        )
    ndtri = scipy.special.ndtri
    return float(math.sqrt(rounds) / (ndtri(gamma) - ndtri(kappa)))


def bisected(excess: Callable[[float], float], start: float) -> float:
    """The least positive number, to four digits, where a falling function is at most zero."""
    low, high = start, start
    while excess(high) > 0:
        low, high = high, 2 * high
        if high > 1e12:
            raise InvalidInput("no amount of noise below 1e12 reaches what is wanted.")
    while low == high or excess(low) <= 0:
        low, high = low / 2, low
        if low < 1e-12:
            return high
    while high / low > 1 + 1e-5:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def divergence(rate: float, multiplier: float) -> float:
    """KL(P || Q) of one round, in nats, by quadrature; 1/2z^2 at rate one.

    >>> round(divergence(1.0, 2.0), 6), divergence(0.1, 2.0) < 0.1 * 0.125
    (0.125, True)
    """
    check_mechanism(rate, multiplier, 1)
    if rate == 1:
        return 1 / (2 * multiplier**2)
    one = Round(rate, multiplier, forward=True)
    x, mass = one.quadrature(40_000)
    return float(mass @ one.loss(x))


def check_delta(delta: float) -> None:
    """Demand a probability strictly between zero and one."""
    if not 0 < delta < 1:
        raise InvalidInput(f"delta={delta} is no probability: use 0 < delta < 1, such as 1e-5.")


def check_mechanism(rate: float, multiplier: float, rounds: int) -> None:
    """Demand a sampling rate in (0, 1], positive noise, and at least one round."""
    if not 0 < rate <= 1:
        raise InvalidInput(f"rate={rate} is no sampling rate: use 0 < rate <= 1.")
    positive("multiplier", multiplier)
    at_least("rounds", rounds, 1)
