"""Leakage against cost: fronts, equal cost, and which defense hides most for its price."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.analysis.utility import interval
from seepage.core import stream
from seepage.errors import InvalidInput

_DRAWS = 500


@dataclass(frozen=True)
class Point:
    """One strength of one defense: what it costs, and what the strongest attack still finds.

    `losses` in points of accuracy, one for each seed, paired with the undefended runs; `leaks` one
    for each attacked batch, on any scale where more is worse.
    """

    name: str
    losses: tuple[float, ...]
    leaks: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The mean cost."""
        return sum(self.losses) / len(self.losses)

    @property
    def leak(self) -> float:
        """The mean leak."""
        return sum(self.leaks) / len(self.leaks)

    @property
    def spread(self) -> tuple[float, float]:
        """The 95 % interval of the cost, by Student's t."""
        return interval(self.losses)


@dataclass(frozen=True)
class Reading:
    """The leak of a defense at one cost, with a 95 % interval; NaN where it was not measured."""

    leak: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether the defense was measured at weaker and at stronger settings than this."""
        return not math.isnan(self.leak)

    def below(self, other: "Reading") -> bool:
        """Whether it leaks less, beyond both intervals."""
        return self.high < other.low


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both cost and leak.

    >>> pareto([Point("a", (0,), (9,)), Point("b", (1,), (9.5,)), Point("c", (2,), (3,))])[1].name
    'c'
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.loss, p.leak)):
        if not kept or point.leak < kept[-1].leak:
            kept.append(point)
    return kept


def equal_cost(points: Sequence[Point], loss: float, seed: int = 0) -> Reading:
    """The leak of one defense at a given cost: isotonic in its strengths, never extrapolated.

    `points` in rising strength: along it costs are fitted to rise and leaks to fall, by pooling
    adjacent violators, and the leak is read between neighbours. (Fitted on the measured costs
    alone, a strong setting that by chance costs less than nothing would spoil the weak ones.) The
    interval by drawing seeds and batches again (bootstrap).

    >>> equal_cost([Point("a", (0.0,) * 3, (9.0,) * 3), Point("b", (2.0,) * 3, (5.0,) * 3)], 1.0)
    Reading(leak=7.0, low=7.0, high=7.0)
    """
    if len(points) < 2:
        raise InvalidInput(f"{len(points)} strengths make no curve: measure at least two.")
    return _equal(tuple(points), loss, seed)


def at_most(points: Sequence[Point], loss: float, seed: int = 0) -> Reading:
    """The leak of one defense for a cost or less: where none is as dear, that of the dearest.

    >>> at_most([Point("a", (0.0,) * 3, (9.0,) * 3), Point("b", (2.0,) * 3, (5.0,) * 3)], 3.0)
    Reading(leak=5.0, low=5.0, high=5.0)
    """
    top = _rising([point.loss for point in points])[-1]
    return equal_cost(points, min(loss, top), seed)


@functools.lru_cache(maxsize=256)
def _equal(points: tuple[Point, ...], loss: float, seed: int) -> Reading:
    found = _curve([p.loss for p in points], [p.leak for p in points], loss)
    if math.isnan(found):
        return Reading(found)
    rng, again = stream(seed, "bootstrap"), []
    for _ in range(_DRAWS):
        costs, leaks = (_redrawn([getattr(p, name) for p in points], rng) for name in _BOTH)
        again.append(_curve(costs, leaks, loss))
    drawn = torch.tensor([value for value in again if not math.isnan(value)]).double()
    low, high = drawn.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return Reading(found, min(low, found), max(high, found))


_BOTH = ("losses", "leaks")


def least(readings: Mapping[str, Reading]) -> list[str]:
    """The defense that leaks least at one cost, and those that cannot be told from it.

    >>> least({"a": Reading(9, 8, 10), "b": Reading(7, 6, 8.5), "c": Reading(20, 19, 21)})
    ['b', 'a']
    """
    known = {name: reading for name, reading in readings.items() if reading.known}
    ordered = sorted(known, key=lambda name: known[name].leak)
    return [name for name in ordered if not known[ordered[0]].below(known[name])]


def _redrawn(values: Sequence[tuple[float, ...]], rng: torch.Generator) -> list[float]:
    """Means over entries drawn again: the same ones at every strength, as they are paired."""
    count = min(map(len, values))
    chosen = torch.randint(count, (count,), generator=rng).tolist()
    return [sum(given[i] for i in chosen) / count for given in values]


def _curve(costs: Sequence[float], leaks: Sequence[float], loss: float) -> float:
    return _read(torch.tensor(_rising(costs), dtype=torch.float64), _falling(leaks), loss)


def _read(costs: Tensor, levels: list[float], loss: float) -> float:
    if not float(costs[0]) <= loss <= float(costs[-1]):
        return math.nan
    # Of strengths that cost the same the strongest counts.
    wanted = torch.tensor(loss, dtype=torch.float64)
    above = min(int(torch.searchsorted(costs, wanted, right=True)), len(levels) - 1)
    below = max(above - 1, 0)
    width = float(costs[above] - costs[below])
    share = min(1.0, (loss - float(costs[below])) / width) if width else 1.0
    return levels[below] + share * (levels[above] - levels[below])


def _rising(values: Sequence[float]) -> list[float]:
    return [-value for value in _falling([-value for value in values])]


def _falling(values: Sequence[float]) -> list[float]:
    """The nearest sequence that never rises: neighbours that do are pooled to their mean."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (b, m), (a, n) = blocks.pop(), blocks.pop()
            blocks.append(((a * n + b * m) / (n + m), n + m))
    return [value for value, count in blocks for _ in range(count)]
