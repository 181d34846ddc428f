"""How far a simulated update is from the observed one, and the derivative in closed form.

Each objective maps `Sides` to D and v = dD/dG, tensor by tensor, so that no graph is built of it.
On large dense layers reading memory is all the cost, so each tensor is read as seldom as can be.
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from seepage.checks import at_least, one_of
from seepage.values import value

Weights = Literal["equal", "linear"] | Mapping[str, float]

_FLOOR, _NEAR = 1e-20, 0.9


@dataclass(frozen=True, eq=False)
class Sides:
    """The simulated and the observed update, each tensor's weight, and room for the derivative.

    The room is written over at every call: fresh memory of a network's size costs more than the
    arithmetic on it. `length` is that of the weighted observed update.
    """

    given: Sequence[Tensor]
    observed: Sequence[Tensor]
    weights: Sequence[float]
    room: Sequence[Tensor]
    length: float

    @classmethod
    def of(
        cls, given: Sequence[Tensor], observed: Sequence[Tensor], weights: Sequence[float]
    ) -> "Sides":
        """Both sides, with fresh room."""
        room = [torch.empty_like(g) for g in observed]
        return cls(given, observed, weights, room, length_of(observed, weights))

    @property
    def rests(self) -> list[Tensor]:
        """G - g, in the room."""
        triples = zip(self.given, self.observed, self.room, strict=True)
        return [torch.sub(G, g, out=v) for G, g, v in triples]


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
        rests, weights = sides.rests, sides.weights
        squares = [w * _dot(r, r) for w, r in zip(weights, rests, strict=True)]
        slopes = [r if w == 1 else r.mul_(w) for w, r in zip(weights, rests, strict=True)]
        return Misfit(self.scale * _total(squares), slopes, 2 * self.scale)


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
        weights, goal = sides.weights, max(sides.length, _FLOOR)
        pairs = list(zip(weights, sides.given, sides.observed, strict=True))
        # Both products of a tensor at once, while it is in the processor's cache.
        dots = [(w * _dot(G, G), w * _dot(G, g)) for w, G, g in pairs]
        length = max(math.sqrt(_total([own for own, _ in dots])), _FLOOR)
        cosine = _total([cross for _, cross in dots]) / (length * goal)
        # v = (cos G / ||G|| - g / ||g||) / ||G|| = -(g - ratio G) / (||G|| ||g||)
        ratio, factor = cosine * goal / length, -1 / (length * goal)
        slopes = [
            torch.add(g, G, alpha=-ratio, out=v)
            if w == 1
            else torch.sub(g, ratio * G, out=v).mul_(w)
            for (w, G, g), v in zip(pairs, sides.room, strict=True)
        ]
        if cosine < _NEAR:
            return Misfit(1 - cosine, slopes, factor)
        squares = [_dot(v, v) / (w or 1) for w, v in zip(weights, slopes, strict=True)]
        return Misfit(_total(squares) / goal**2 / (1 + cosine), slopes, factor)


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
        rests, scaled = sides.rests, [self.alpha * w for w in sides.weights]
        parts = [_dot(r, r) + a * r.abs().sum() for a, r in zip(scaled, rests, strict=True)]
        slopes = [
            torch.add(r.sign().mul_(a), r, alpha=2, out=r)
            for a, r in zip(scaled, rests, strict=True)
        ]
        return Misfit(_total(parts), slopes)


def length_of(tensors: Sequence[Tensor], weights: Sequence[float]) -> float:
    """The length of an update whose squares are weighted."""
    return math.sqrt(_total([w * _dot(t, t) for w, t in zip(weights, tensors, strict=True)]))


def _total(parts: Sequence[Tensor]) -> float:
    return float(torch.stack(list(parts)).sum())


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.dot(left.reshape(-1), right.reshape(-1))
