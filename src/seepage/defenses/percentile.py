"""NVFlare's percentile filter."""

import math

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.checks import at_least, positive
from seepage.core import Batch, Client, Model
from seepage.errors import InvalidInput
from seepage.tree import Tensors
from seepage.values import value


@value
class Percentile:
    """Of v = u / steps, zero what is below a percentile of all |v|, clamp to +-gamma; times steps.

    Shokri and Shmatikov 2015, as in NVFlare's PercentilePrivacy. Tensors without dimensions pass
    as they are. It has no noise, and so no epsilon.
    """

    inner: Client
    percentile: float = 10.0
    gamma: float = 0.01
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise InvalidInput(f"Percentile.percentile={self.percentile} must lie from 0 to 100.")
        positive("Percentile.gamma", self.gamma)
        at_least("Percentile.steps", self.steps, 1)

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        sized = {name: u for name, u in update.items() if u.ndim}
        if not sized:
            return update
        cut = percentile(tree.flat(sized).detach().abs(), self.percentile) / self.steps

        def filtered(u: Tensor) -> Tensor:
            v = u / self.steps
            return (v * (v.abs() >= cut)).clamp(-self.gamma, self.gamma) * self.steps

        return {name: filtered(u) if u.ndim else u for name, u in update.items()}

    def cell(self, update: Tensors) -> tuple[Tensors, Tensors]:
        """The box of inner updates that could have given this one.

        What was zeroed was below the smallest entry kept, where that one was not clamped; what is
        at the limit may have been beyond it.
        """
        entries = tree.flat({"": torch.zeros(0), **{n: u for n, u in update.items() if u.ndim}})
        kept = entries[entries != 0].abs()
        limit = self.gamma * self.steps * (1 - 4 * torch.finfo(entries.dtype).eps)
        known = len(kept) > 0 and float(kept.min()) < limit
        zeroed = float(kept.min()) if known else math.inf

        def edge(u: Tensor, side: int) -> Tensor:
            if not u.ndim:
                return u
            slack = 4 * torch.finfo(u.dtype).eps * u.abs()  # of dividing and multiplying by steps
            near = torch.where(u == 0, side * zeroed, u + side * slack)
            beyond = side * u >= limit
            return torch.where(beyond, side * math.inf, near)

        return (
            tree.mapped(lambda u: edge(u, -1), update),
            tree.mapped(lambda u: edge(u, +1), update),
        )


def percentile(entries: Tensor, share: float) -> Tensor:
    """The percentile by linear interpolation, for any number of entries.

    `torch.quantile` refuses more than sixteen million.

    >>> percentile(torch.tensor([3.0, 1.0, 2.0, 10.0]), 50)
    tensor(2.5000)
    """
    place = (len(entries) - 1) * share / 100
    below, above = math.floor(place), math.ceil(place)
    low, high = (entries.kthvalue(k + 1).values for k in (below, above))
    return low + (high - low) * (place - below)
