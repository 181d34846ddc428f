"""What is left once most examples are known is read with less noise than it was summed with."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Bins", "Example", "merged", "reweigh"]

_LIKE = 0.02  # relative distance below which bins of two directions hold the same
_RIDGE = 1e-9


@dataclass(frozen=True)
class Example:
    """A candidate with its weight g, and the bins that hold it: first the one it was read from."""

    x: Tensor
    weight: float
    size: float
    residual: float
    bins: tuple[int, ...]


@dataclass
class Bins:
    """All bins of all directions; sums of g x and of g over the examples still in them."""

    sums: Tensor
    weights: Tensor
    direction: Tensor
    lower: Tensor
    upper: Tensor
    dirty: Tensor
    floor: float
    found: list[Example] = field(default_factory=list)

    def live(self) -> Tensor:
        """Which bins hold more than rounding errors."""
        return self.weights.abs() > self.floor


def reweigh(bins: Bins) -> None:
    """Correct the weights g of what was found by all the bins that hold nothing else.

    min sum_c |D_c - sum_t g_t x_t|^2 over solved bins c. A weight read from one bin carries the
    rounding of two float32 sums, and subtracting g x hands it on to every other bin of x: small
    gradients drown in it. By least squares over thousands of entries it all but vanishes.
    """
    x = torch.stack([example.x for example in bins.found])
    member = x.new_zeros(len(bins.sums), len(x))
    for t, example in enumerate(bins.found):
        member[list(example.bins), t] = 1
    solved = member * ~bins.live()[:, None]
    normal = (solved.T @ solved) * (x @ x.T)
    # An example without a solved bin keeps its weight: nothing pulls at it.
    alone = normal.diagonal() == 0
    normal += torch.diag(normal.diagonal() * _RIDGE + alone)
    wanted = (solved * (bins.sums @ x.T)).sum(0)
    change = member * torch.linalg.solve(normal, wanted)
    bins.sums -= change @ x
    bins.weights -= change.sum(1)


def merged(bins: Bins, tested: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over directions of what each tested bin and its likes still hold, sum and weight.

    An example left alone in several directions is there several times, with rounding errors that
    have nothing to do with each other.
    """
    sums, weights = bins.sums[tested], bins.weights[tested]
    size, directions = sums.norm(dim=1), bins.direction[tested]
    total, count = sums.clone(), torch.ones_like(weights)
    mass = weights.clone()
    apart = torch.cdist(sums, sums) / size
    for p in set(directions.tolist()):
        other = (directions == p).expand(len(tested), -1)
        distance, nearest = apart.masked_fill(~other, torch.inf).min(1)
        like = (distance < _LIKE) & (directions != p)
        total[like] += sums[nearest[like]]
        mass[like] += weights[nearest[like]]
        count += like
    return total / count[:, None], mass / count
