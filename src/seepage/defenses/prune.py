"""Gradient pruning."""

from typing import Literal

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.checks import one_of
from seepage.core import Batch, Client, Model
from seepage.errors import InvalidInput
from seepage.tree import Tensors
from seepage.values import value


@value
class Prune:
    """Zero the floor(ratio * size) entries of smallest magnitude; ties at the cut are zeroed.

    Zhu et al. 2019, arXiv 1906.08935. `scope="tensor"` counts in each tensor by itself,
    `"global"` in all together.
    """

    inner: Client
    ratio: float = 0.9
    scope: Literal["tensor", "global"] = "tensor"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise InvalidInput(
                f"Prune.ratio={self.ratio} removes everything or is no share: use 0 <= ratio < 1."
            )
        one_of("Prune.scope", self.scope, ("tensor", "global"))

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        if self.scope == "global":
            cut = self._cut(tree.flat(update))
            return tree.mapped(lambda u: u * (u.abs() > cut), update)
        return tree.mapped(lambda u: u * (u.abs() > self._cut(u)), update)

    def cell(self, update: Tensors) -> tuple[Tensors, Tensors]:
        """The box of inner updates that could have given this one.

        What was kept is exact; what was zeroed was no larger than the smallest entry kept.
        """
        smallest = _smallest if self.scope == "tensor" else None
        pooled = _smallest(tree.flat(update))
        bound = tree.mapped(
            lambda u: torch.where(u == 0, smallest(u) if smallest else pooled, 0), update
        )
        return tree.subtract(update, bound), tree.total([update, bound])

    def _cut(self, entries: Tensor) -> Tensor | float:
        zeroed = int(self.ratio * entries.numel() + 1e-9)  # 0.29 * 100 is 28.999...
        if zeroed == 0:
            return -1.0
        return entries.detach().abs().flatten().kthvalue(zeroed).values


def _smallest(entries: Tensor) -> Tensor:
    kept = entries[entries != 0].abs()
    return kept.min() if kept.numel() else entries.new_tensor(float("inf"))
