"""Privacy accounting of Gaussian noise, tight: full batches in closed form, Poisson samples by FFT.

z is the noise multiplier (standard deviation over sensitivity) and T the number of rounds. All in
double precision; nothing here knows of networks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from seepage.checks import at_least, positive
from seepage.errors import InvalidInput

Array = NDArray[np.float64]

_TAIL = 1e-12  # the mass that a window of losses may leave out; it is added to delta
_STEP = 0.0025  # how far T rounded-up losses may move together
_POINTS = 2**24  # of a grid, at most


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


@dataclass(frozen=True)
class Losses:
    """The distribution of a privacy loss on the grid low, low + step, ...; `beyond` is infinite."""

    low: float
    step: float
    mass: Array
    beyond: float

    @property
    def values(self) -> Array:
        return np.asarray(self.low + self.step * np.arange(len(self.mass)), dtype=np.float64)

    def delta(self, epsilon: float) -> float:
        """delta(e) = sum_(l > e) (1 - e^(e - l)) p_l."""
        gain = -np.expm1(np.minimum(epsilon - self.values, 0))
        return float(gain @ self.mass + self.beyond)

    def deltas(self) -> Array:
        """delta at every point of the grid at once."""
        above = np.cumsum(self.mass[::-1])[::-1]
        # delta_k = A_k - E_k, with E_k = p_k + e^-step E_(k+1): no exponential can overflow.
        discounted = scipy.signal.lfilter([1.0], [1.0, -math.exp(-self.step)], self.mass[::-1])
        return np.asarray(above - discounted[::-1] + self.beyond)

    def epsilon(self, delta: float) -> float:
        """The least epsilon >= 0 with delta(epsilon) <= delta."""
        if self.delta(0.0) <= delta:
            return 0.0
        most = float(self.values[-1])
        if self.beyond >= delta:
            raise InvalidInput(f"delta={delta} is below what is left out, {_TAIL}: use a larger.")
        return float(scipy.optimize.brentq(lambda e: self.delta(e) - delta, 0, most + 1, xtol=1e-9))

    def ceiling(self, kappa: float) -> float:
        """min over e of kappa e^e + delta(e): what an event of chance kappa can come to.

        Every grid point counts, the negative ones too.
        """
        values = self.values
        usable = values < 700
        reach = kappa * np.exp(values[usable]) + self.deltas()[usable]
        return float(min(1.0, reach.min()))


def losses(rate: float, multiplier: float, rounds: int) -> tuple[Losses, Losses]:
    """The losses of P against Q and of Q against P after T rounds, each composed by FFT.

    P = (1-q) N(0, z^2) + q N(1, z^2) and Q = N(0, z^2): one example more, Poisson-sampled with
    rate q. A round's loss l(x) = log(1 + q expm1((2x - 1) / 2z^2)) is rounded up to a grid of
    step .0025/T, so the answer errs on the safe side. Koskela et al. 2020, arXiv 1906.03049.
    """
    check_mechanism(rate, multiplier, rounds)
    return (
        _composed(_Round(rate, multiplier, forward=True), rounds),
        _composed(_Round(rate, multiplier, forward=False), rounds),
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
    one = _Round(rate, multiplier, forward=True)
    x, mass = one.quadrature()
    return float(mass @ one.loss(x))


@dataclass(frozen=True)
class _Round:
    """One round seen from one side: the loss is log dP/dQ under P, or log dQ/dP under Q."""

    rate: float
    multiplier: float
    forward: bool

    def loss(self, x: Array) -> Array:
        q, z = self.rate, self.multiplier
        t = (2 * x - 1) / (2 * z**2)
        # log(1 + q expm1(t)), and for large t the same without overflow.
        plain = np.log1p(q * np.expm1(np.minimum(t, 30.0)))
        far = t + math.log(q) + np.log1p((1 - q) / q * np.exp(-np.maximum(t, 30.0)))
        value = np.where(t > 30, far, plain)
        return np.asarray(value if self.forward else -value)

    def where(self, loss: Array) -> Array:
        """The x with this loss: increasing in the loss forward, decreasing backward."""
        q, z = self.rate, self.multiplier
        value = loss if self.forward else -loss
        with np.errstate(divide="ignore", invalid="ignore"):
            small = np.log1p(np.expm1(np.minimum(value, 30.0)) / q)
        large = value - math.log(q) + np.log1p(-(1 - q) * np.exp(-np.maximum(value, 30.0)))
        t = np.where(value > 30, large, np.nan_to_num(small, nan=-np.inf, neginf=-np.inf))
        return np.asarray(z**2 * t + 0.5)

    def below(self, loss: Array) -> Array:
        """The probability of a smaller or equal loss."""
        x, z, ndtr = self.where(loss), self.multiplier, scipy.special.ndtr
        if self.forward:
            q = self.rate
            return np.asarray((1 - q) * ndtr(x / z) + q * ndtr((x - 1) / z))
        return np.asarray(ndtr(-x / z))

    def reach(self) -> tuple[float, float]:
        """All x but a negligible mass."""
        return -9.0 * self.multiplier, 9.0 * self.multiplier + (1 if self.forward else 0)

    def quadrature(self) -> tuple[Array, Array]:
        """Points x and the mass that each stands for."""
        edges = np.linspace(*self.reach(), 40_001)
        x, z, width = (edges[1:] + edges[:-1]) / 2, self.multiplier, edges[1] - edges[0]
        density = np.exp(-((x / z) ** 2) / 2)
        if self.forward:
            q = self.rate
            density = (1 - q) * density + q * np.exp(-(((x - 1) / z) ** 2) / 2)
        mass = density * width / (z * math.sqrt(2 * math.pi))
        return x, mass / mass.sum()


def _composed(one: _Round, rounds: int) -> Losses:
    low, high = _window(one, rounds)
    ends = one.loss(np.array(one.reach()))
    # Very little noise spreads the losses far: the grid is then coarser, and errs further upward.
    step = max(_STEP / rounds, float(max(high - low, np.ptp(ends))) / _POINTS)
    first, mass = _rounded_up(one, step)
    size = scipy.fft.next_fast_len(math.ceil((high - low) / step) + 2, real=True)
    # Losses are counted modulo the window: beyond it there is no mass to speak of.
    places = (first + np.arange(len(mass))) % size
    wrapped = np.bincount(places, weights=mass, minlength=size)
    spectrum: Any = scipy.fft.rfft(wrapped)
    total = np.maximum(scipy.fft.irfft(spectrum**rounds, size), 0)
    start = math.floor(low / step)
    lost = rounds * max(0.0, 1 - float(mass.sum()))
    return Losses(start * step, step, np.roll(total, -(start % size)), _TAIL + lost)


def _rounded_up(one: _Round, step: float) -> tuple[int, Array]:
    """The number of the first grid point, and the mass of ((k-1) step, k step] put at k step."""
    ends = sorted(float(one.loss(np.array([x]))[0]) for x in one.reach())
    first, last = math.floor(ends[0] / step), math.ceil(ends[1] / step)
    edges = one.below(step * np.arange(first, last + 1, dtype=np.float64))
    mass = np.diff(edges)
    mass[0] += edges[0]  # what is below the first point is put up there too
    return first + 1, np.maximum(mass, 0)


def _window(one: _Round, rounds: int) -> tuple[float, float]:
    """Where all but the tail of the summed loss lies, by Chernoff's bound on either side."""
    x, mass = one.quadrature()
    loss, log_tail = one.loss(x), math.log(2 / _TAIL)
    highs, lows = [], []
    for tilt in np.geomspace(1e-2, 1e3, 41):
        up = float(scipy.special.logsumexp(tilt * loss, b=mass))
        down = float(scipy.special.logsumexp(-tilt * loss, b=mass))
        highs.append((rounds * up + log_tail) / tilt)
        lows.append(-(rounds * down + log_tail) / tilt)
    return max(lows) - 2 * _STEP, min(highs) + 2 * _STEP


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
