"""The privacy loss of sampled Gaussian noise on a grid, and that of many rounds by FFT."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from seepage.errors import InvalidInput

Array = NDArray[np.float64]

_TAIL = 1e-12  # the mass that a window of losses may leave out; it is added to delta
_STEP = 0.0025  # of a grid, at most
_DRIFT = 1e-5  # how far T losses put on the grid may move together
_FINE = 50  # steps in the standard deviation of one loss, at least
_ENOUGH, _POINTS = 2**18, 2**24  # of a grid, at least and at most


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
        if self.beyond >= delta:
            raise InvalidInput(f"delta={delta} is below what is left out, {_TAIL}: use a larger.")
        deltas = self.deltas()
        after = int(np.argmax(deltas <= delta))
        if after == 0:
            return self.low
        # Between points of the grid delta(e) is a straight line in e^e.
        above, below = float(deltas[after - 1]), float(deltas[after])
        share = (above - delta) / (above - below)
        return self.low + (after - 1) * self.step + math.log1p(share * math.expm1(self.step))

    def ceiling(self, kappa: float) -> float:
        """min over e of kappa e^e + delta(e): what an event of chance kappa can come to.

        Every grid point counts, the negative ones too.
        """
        values = self.values
        usable = values < 700
        reach = kappa * np.exp(values[usable]) + self.deltas()[usable]
        return float(min(1.0, reach.min()))


@dataclass(frozen=True)
class Round:
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

    def between(self, edges: Array) -> tuple[Array, Array]:
        """The masses of losses between neighbouring edges, by the first law and by the second."""
        x, q, z = self.where(edges), self.rate, self.multiplier
        ends = (x[:-1], x[1:]) if self.forward else (x[1:], x[:-1])
        plain = _normal(ends[0] / z, ends[1] / z)
        mixed = (1 - q) * plain + q * _normal((ends[0] - 1) / z, (ends[1] - 1) / z)
        return (mixed, plain) if self.forward else (plain, mixed)

    def reach(self) -> tuple[float, float]:
        """All x but a negligible mass."""
        return -9.0 * self.multiplier, 9.0 * self.multiplier + (1 if self.forward else 0)

    def deviation(self) -> float:
        """The standard deviation of the loss."""
        x, mass = self.quadrature(2_000)
        loss = self.loss(x)
        return float(np.sqrt(mass @ (loss - mass @ loss) ** 2))

    def quadrature(self, points: int) -> tuple[Array, Array]:
        """Points x and the mass that each stands for."""
        edges = np.linspace(*self.reach(), points + 1)
        x, z, width = (edges[1:] + edges[:-1]) / 2, self.multiplier, edges[1] - edges[0]
        density = np.exp(-((x / z) ** 2) / 2)
        if self.forward:
            q = self.rate
            density = (1 - q) * density + q * np.exp(-(((x - 1) / z) ** 2) / 2)
        mass = density * width / (z * math.sqrt(2 * math.pi))
        return x, mass / mass.sum()


def composed(one: Round, rounds: int) -> Losses:
    low, high = _window(one, rounds)
    ends = one.loss(np.array(one.reach()))
    # Very little noise spreads the losses far: the grid is then coarser, and errs further upward.
    spread = float(max(high - low, np.ptp(ends)))
    # Where a loss is bounded, its end is put up by a step each round: more points cost little.
    drift = math.sqrt(8 * _DRIFT / rounds)
    fine = min(_STEP, drift, one.deviation() / _FINE, spread / _ENOUGH)
    step = max(fine, spread / _POINTS)
    first, mass = _dealt(one, step)
    size = scipy.fft.next_fast_len(math.ceil((high - low) / step) + 2, real=True)
    # Losses are counted modulo the window: beyond it there is no mass to speak of.
    places = (first + np.arange(len(mass))) % size
    wrapped = np.bincount(places, weights=mass, minlength=size)
    spectrum: Any = scipy.fft.rfft(wrapped)
    total = np.maximum(scipy.fft.irfft(spectrum**rounds, size), 0)
    start = math.floor(low / step)
    lost = rounds * max(0.0, 1 - float(mass.sum()))
    return Losses(start * step, step, np.roll(total, -(start % size)), _TAIL + lost)


def _dealt(one: Round, step: float) -> tuple[int, Array]:
    """The number of the first grid point, and the masses that a round puts on it and the next.

    Mass a by the first law and b by the second, of losses in (e, e + step], become p at e and
    a - p at e + step with p e^-e + (a - p) e^-(e + step) = b.
    """
    ends = sorted(float(one.loss(np.array([x]))[0]) for x in one.reach())
    first, last = math.floor(ends[0] / step), math.ceil(ends[1] / step)
    edges = step * np.arange(first, last + 1, dtype=np.float64)
    a, b = one.between(edges)
    # Beyond the exponentials' range all of it goes up, which is safe too.
    upper = (a - b * np.exp(np.minimum(edges[:-1], 700.0))) / -math.expm1(-step)
    upper = np.clip(upper, 0, a)
    mass = np.append(a - upper, 0.0)
    mass[1:] += upper
    return first, mass


def _normal(low: Array, high: Array) -> Array:
    """The mass of a standard normal between two points, with the digits of its tails."""
    ndtr = scipy.special.ndtr
    mirrored = low > 0
    return np.asarray(
        np.where(mirrored, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low)), dtype=np.float64
    )


def _window(one: Round, rounds: int) -> tuple[float, float]:
    """Where all but the tail of the summed loss lies, by Chernoff's bound on either side."""
    x, mass = one.quadrature(4_000)
    tilts, log_tail = np.geomspace(1e-2, 1e3, 41), math.log(2 / _TAIL)
    tilted = tilts[:, None] * one.loss(x)
    up, down = (scipy.special.logsumexp(side, b=mass, axis=1) for side in (tilted, -tilted))
    high, low = (rounds * up + log_tail) / tilts, -(rounds * down + log_tail) / tilts
    return float(low.max()) - 2 * _STEP, float(high.min()) + 2 * _STEP
