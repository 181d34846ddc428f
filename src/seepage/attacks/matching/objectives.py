"""How far a simulated update is from the observed one, and the derivative in closed form.

Each objective maps `Sides` to D and v = dD/dG, tensor by tensor, so that no graph is built of it.
On large dense layers reading memory is all the cost, so each tensor is read as seldom as can be.
"""

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from seepage.attacks.matching.condensed import dot
from seepage.checks import at_least, one_of
from seepage.values import value

Weights = Literal["equal", "linear"] | Mapping[str, float]

_FLOOR, _NEAR = 1e-20, 0.9


@dataclass(frozen=True, eq=False)
class Sides:
    """The simulated and the observed update, each tensor's weight, and room for the derivative.

    The room, filled where it is needed, is written over at every call: fresh memory of a network's
    size costs more than the arithmetic on it. `length` is that of the weighted observed update. In
    places named by `short` the simulated tensor is given by three numbers (see `condensed`), and so
    is its derivative.
    """

    given: Sequence[Tensor]
    observed: Sequence[Tensor]
    weights: Sequence[float]
    room: dict[int, Tensor]
    length: float
    short: Collection[int] = ()

    @classmethod
    def of(
        cls, given: Sequence[Tensor], observed: Sequence[Tensor], weights: Sequence[float]
    ) -> "Sides":
        """Both sides, with fresh room."""
        return cls(given, observed, weights, {}, length_of(observed, weights))

    def dots(self) -> tuple[float, float]:
        """sum_l w <G, G> and sum_l w <G, g>: both at once, while G is in the processor's cache."""
        parts = [
            (w * dot(G, G), w * dot(G, g))
            for i, (w, G, g) in enumerate(zip(self.weights, self.given, self.observed, strict=True))
            if i not in self.short
        ]
        if self.short:
            sums = self._numbers()
            parts.append((sums[0].sum(), sums[1].sum()))
        return _total([own for own, _ in parts]), _total([cross for _, cross in parts])

    def lines(self, scale: float, sign: float) -> list[Tensor]:
        """The derivative w (g - scale G) sign of each tensor, in the room or by its numbers."""
        known: dict[float, Tensor] = {}
        for i in self.short:
            signed = sign * self.weights[i]
            if signed not in known:
                known[signed] = self.given[i].new_tensor([-scale * signed / 2, signed, 0])
        return [
            known[sign * self.weights[i]] if i in self.short else self._line(i, scale, sign)
            for i in range(len(self.given))
        ]

    def place(self, i: int) -> Tensor:
        """Room of the size of a tensor."""
        if i not in self.room:
            self.room[i] = torch.empty_like(self.observed[i])
        return self.room[i]

    def square(self, lines: Sequence[Tensor], scale: float) -> float:
        """sum_l w ||g - scale G||^2, from the lines."""
        parts = [
            dot(line, line) / (self.weights[i] or 1)
            for i, line in enumerate(lines)
            if i not in self.short
        ]
        if self.short:
            own, cross, apart = self._numbers()
            far = (scale * own - cross).square() / own.clamp(min=1e-38)
            parts.append((apart + far).sum())
        return _total(parts)

    def _numbers(self) -> Tensor:
        """Own, cross and apart of the tensors known by them, times the tensors' weights."""
        numbers = torch.stack([self.given[i] for i in self.short], 1)
        return numbers * numbers.new_tensor([self.weights[i] for i in self.short])

    def _line(self, i: int, scale: float, sign: float) -> Tensor:
        signed = sign * self.weights[i]
        v = torch.add(self.observed[i], self.given[i], alpha=-scale, out=self.place(i))
        return v if signed == 1 else v.mul_(signed)


@dataclass(frozen=True, eq=False)
class Misfit:
    """D, and dD/dG as a common factor times tensors."""

    value: float
    slopes: list[Tensor]
    factor: float = 1.0


class Objective(Protocol):
    """D and dD/dG; `task` adds that multiple of the model's own risk to what is minimised."""

    @property
    def weights(self) -> Weights: ...

    @property
    def task(self) -> float: ...

    def __call__(self, sides: "Sides") -> Misfit: ...


def layer_weights(weights: Weights, names: Sequence[str]) -> list[float]:
    """One weight for each tensor: 1, falling linearly from 1 with depth, or by shell pattern.

    >>> layer_weights("linear", ["a", "b"]), layer_weights({"b*": 0.0}, ["a", "b"])
    ([1.0, 0.5], [1.0, 0.0])
    """
    if isinstance(weights, Mapping):
        found = [[w for p, w in weights.items() if fnmatch.fnmatchcase(n, p)] for n in names]
        return [w[0] if w else 1.0 for w in found]
    depth = len(names)
    return [(depth - i) / depth if weights == "linear" else 1.0 for i in range(depth)]


def _check(owner: str, weights: Weights, task: float) -> None:
    if not isinstance(weights, Mapping):
        one_of(f"{owner}.weights", weights, ("equal", "linear"))
    at_least(f"{owner}.task", task, 0)


@value
class L2:
    """D = scale sum_l w_l ||G_l - g_l||^2, v_l = 2 scale w_l (G_l - g_l).

    Zhu et al. 2019, arXiv 1906.08935.

    >>> misfit = L2()(Sides.of([torch.tensor([2.0])], [torch.tensor([1.0])], [1.0]))
    >>> misfit.value, misfit.factor, misfit.slopes
    (1.0, 2.0, [tensor([1.])])
    """

    scale: float = 1.0
    weights: Weights = "equal"
    task: float = 0.0

    def __post_init__(self) -> None:
        _check("L2", self.weights, self.task)

    def __call__(self, sides: Sides) -> Misfit:
        lines = sides.lines(1.0, -1.0)
        return Misfit(self.scale * sides.square(lines, 1.0), lines, 2 * self.scale)


@value
class Cosine:
    """D = 1 - cos(G, g), blind to scale: v_l = w_l (cos G_l/||G|| - g_l/||g||) / ||G||.

    Where the two are near, D = sin^2 / (1 + cos) with sin = ||G|| ||v||, which keeps its digits
    where 1 - cos in single precision is noise (below 1e-6). Geiping et al. 2020, arXiv 2003.14053.

    >>> sides = Sides.of([torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 1.0])], [1.0])
    >>> round(Cosine()(sides).value, 4)
    0.2929
    """

    weights: Weights = "equal"
    task: float = 0.0

    def __post_init__(self) -> None:
        _check("Cosine", self.weights, self.task)

    def __call__(self, sides: Sides) -> Misfit:
        goal, (own, cross) = max(sides.length, _FLOOR), sides.dots()
        length = max(math.sqrt(own), _FLOOR)
        cosine = cross / (length * goal)
        # v = (cos G / ||G|| - g / ||g||) / ||G|| = -(g - ratio G) / (||G|| ||g||)
        ratio, factor = cosine * goal / length, -1 / (length * goal)
        lines = sides.lines(ratio, 1.0)
        if cosine < _NEAR:
            return Misfit(1 - cosine, lines, factor)
        return Misfit(sides.square(lines, ratio) / goal**2 / (1 + cosine), lines, factor)


@value
class TAG:
    """D = sum_l ||r_l||^2 + alpha w_l |r_l|_1 with r = G - g: the first layers count most.

    Deng et al. 2021, arXiv 2103.06819. The paper's alpha could not be verified; 0.1 is another
    implementation's.
    """

    alpha: float = 0.1
    weights: Weights = "linear"
    task: float = 0.0

    def __post_init__(self) -> None:
        _check("TAG", self.weights, self.task)

    def __call__(self, sides: Sides) -> Misfit:
        pairs = enumerate(zip(sides.given, sides.observed, strict=True))
        rests = [torch.sub(G, g, out=sides.place(i)) for i, (G, g) in pairs]
        scaled = [self.alpha * w for w in sides.weights]
        parts = [dot(r, r) + a * r.abs().sum() for a, r in zip(scaled, rests, strict=True)]
        slopes = [
            torch.add(r.sign().mul_(a), r, alpha=2, out=r)
            for a, r in zip(scaled, rests, strict=True)
        ]
        return Misfit(_total(parts), slopes)


def length_of(tensors: Sequence[Tensor], weights: Sequence[float]) -> float:
    """The length of an update whose squares are weighted."""
    return math.sqrt(_total([w * dot(t, t) for w, t in zip(weights, tensors, strict=True)]))


def _total(parts: Sequence[Tensor]) -> float:
    return float(torch.stack(list(parts)).sum()) if parts else 0.0
