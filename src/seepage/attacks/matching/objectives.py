"""How far a simulated update is from the observed one, and the derivative in closed form.

Each objective maps `Sides` to D and v = dD/dG, tensor by tensor, so that no graph is built of it.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from seepage.checks import at_least, one_of
from seepage.values import value

Weights = Literal["equal", "linear"] | Mapping[str, float]
Misfit = tuple[Tensor, list[Tensor]]

_FLOOR = 1e-20


@dataclass(frozen=True, eq=False)
class Sides:
    """The simulated and the observed update, each tensor's weight, and room for the derivative.

    The room is written over at every call: fresh memory of a network's size costs more than the
    arithmetic on it.
    """

    given: Sequence[Tensor]
    observed: Sequence[Tensor]
    weights: Sequence[float]
    room: Sequence[Tensor]

    @classmethod
    def of(cls, given: Sequence[Tensor], observed: Sequence[Tensor]) -> "Sides":
        """Both sides, all weights one."""
        return cls(given, observed, [1.0] * len(given), [torch.empty_like(g) for g in observed])

    @property
    def rests(self) -> list[Tensor]:
        """G - g, in the room."""
        triples = zip(self.given, self.observed, self.room, strict=True)
        return [torch.sub(G, g, out=v) for G, g, v in triples]


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

    >>> L2()(Sides.of([torch.tensor([2.0])], [torch.tensor([1.0])]))
    (tensor(1.), [tensor([2.])])
    """

    scale: float = 1.0
    weights: Weights = "equal"
    task: float = 0.0

    def __post_init__(self) -> None:
        _check("L2", self.weights, self.task)

    def __call__(self, sides: Sides) -> Misfit:
        rests = sides.rests
        parts = [w * _dot(r, r) for w, r in zip(sides.weights, rests, strict=True)]
        slopes = [r.mul_(2 * self.scale * w) for w, r in zip(sides.weights, rests, strict=True)]
        return self.scale * torch.stack(parts).sum(), slopes


@value
class Cosine:
    """D = 1 - cos(G, g), blind to scale: v_l = w_l (cos G_l/||G|| - g_l/||g||) / ||G||.

    Where the two are near, D = sin^2 / (1 + cos) with sin = ||G|| ||v||, which keeps its digits
    where 1 - cos in single precision is noise (below 1e-6). Geiping et al. 2020, arXiv 2003.14053.

    >>> sides = Sides.of([torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 1.0])])
    >>> misfit, _ = Cosine()(sides)
    >>> round(float(misfit), 4)
    0.2929
    """

    weights: Weights = "equal"
    task: float = 0.0

    def __post_init__(self) -> None:
        _check("Cosine", self.weights, self.task)

    def __call__(self, sides: Sides) -> Misfit:
        weights, given, observed = sides.weights, sides.given, sides.observed
        length, goal = _length(given, weights), _length(observed, weights)
        pairs = zip(weights, given, observed, strict=True)
        cosine = torch.stack([w * _dot(G, g) for w, G, g in pairs]).sum() / (length * goal)
        pull, push = cosine / length**2, -1 / (length * goal)
        slopes = [
            torch.mul(G, w * pull, out=v).addcmul_(g, w * push)
            for w, G, g, v in zip(weights, given, observed, sides.room, strict=True)
        ]
        squares = [_dot(v, v) / (w or 1) for w, v in zip(weights, slopes, strict=True)]
        sine = length**2 * torch.stack(squares).sum()
        return torch.where(cosine > 0, sine / (1 + cosine), 1 - cosine), slopes


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
        return torch.stack(parts).sum(), slopes


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.dot(left.reshape(-1), right.reshape(-1))


def _length(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    squares = [w * _dot(t, t) for w, t in zip(weights, tensors, strict=True)]
    return torch.stack(squares).sum().sqrt().clamp(min=_FLOOR)
