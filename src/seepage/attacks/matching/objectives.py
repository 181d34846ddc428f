"""How far a simulated update is from the observed one, and the derivative in closed form.

Each objective maps (simulated, observed, weights) to D and v = dD/dG, tensor by tensor, so that no
graph is built of it.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from seepage.checks import at_least, one_of
from seepage.values import value

Weights = Literal["equal", "linear"] | Mapping[str, float]
Misfit = tuple[Tensor, list[Tensor]]

_FLOOR = 1e-20


class Objective(Protocol):
    """D and dD/dG; `task` adds that multiple of the model's own risk to what is minimised."""

    @property
    def weights(self) -> Weights: ...

    @property
    def task(self) -> float: ...

    def __call__(
        self, given: Sequence[Tensor], observed: Sequence[Tensor], weights: Sequence[float]
    ) -> Misfit: ...


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

    >>> L2()([torch.tensor([2.0])], [torch.tensor([1.0])], [1.0])
    (tensor(1.), [tensor([2.])])
    """

    scale: float = 1.0
    weights: Weights = "equal"
    task: float = 0.0

    def __post_init__(self) -> None:
        _check("L2", self.weights, self.task)

    def __call__(
        self, given: Sequence[Tensor], observed: Sequence[Tensor], weights: Sequence[float]
    ) -> Misfit:
        rests = [G - g for G, g in zip(given, observed, strict=True)]
        parts = [w * _square(r) for w, r in zip(weights, rests, strict=True)]
        slopes = [r.mul_(2 * self.scale * w) for w, r in zip(weights, rests, strict=True)]
        return self.scale * torch.stack(parts).sum(), slopes


@value
class Cosine:
    """D = 1 - cos(G, g), blind to scale: v_l = w_l (e_l - D G_l/||G||) / ||G||.

    Written as D = ||e||^2 / 2 with e = G/||G|| - g/||g||, which keeps its digits where 1 - cos
    in single precision is noise (below 1e-6). Geiping et al. 2020, arXiv 2003.14053.

    >>> misfit, _ = Cosine()([torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 1.0])], [1.0])
    >>> round(float(misfit), 4)
    0.2929
    """

    weights: Weights = "equal"
    task: float = 0.0

    def __post_init__(self) -> None:
        _check("Cosine", self.weights, self.task)

    def __call__(
        self, given: Sequence[Tensor], observed: Sequence[Tensor], weights: Sequence[float]
    ) -> Misfit:
        length, goal = _length(given, weights), _length(observed, weights)
        ends = [
            torch.add(g * (-1 / goal), G * (1 / length))
            for G, g in zip(given, observed, strict=True)
        ]
        parts = [w * _square(e) for w, e in zip(weights, ends, strict=True)]
        misfit = torch.stack(parts).sum() / 2
        back = -misfit / length
        slopes = [
            e.addcmul_(G, back).mul_(w / length)
            for w, e, G in zip(weights, ends, given, strict=True)
        ]
        return misfit, slopes


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

    def __call__(
        self, given: Sequence[Tensor], observed: Sequence[Tensor], weights: Sequence[float]
    ) -> Misfit:
        rests = [G - g for G, g in zip(given, observed, strict=True)]
        scaled = [self.alpha * w for w in weights]
        parts = [_square(r) + a * r.abs().sum() for a, r in zip(scaled, rests, strict=True)]
        slopes = [2 * r + a * r.sign() for a, r in zip(scaled, rests, strict=True)]
        return torch.stack(parts).sum(), slopes


def _square(t: Tensor) -> Tensor:
    entries = t.reshape(-1)
    return torch.dot(entries, entries)


def _length(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    squares = [w * _square(t) for w, t in zip(weights, tensors, strict=True)]
    return torch.stack(squares).sum().sqrt().clamp(min=_FLOOR)
