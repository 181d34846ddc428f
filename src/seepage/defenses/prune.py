"""Gradient pruning."""

from typing import Literal

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.checks import one_of
from seepage.core import Batch, Client, Model
from seepage.defenses.sensitivity import telling
from seepage.errors import InvalidInput
from seepage.tree import Tensors
from seepage.values import value


@value
class Prune:
    """Zero the floor(ratio * size) entries of smallest magnitude; ties at the cut are zeroed.

    Zhu et al. 2019, arXiv 1906.08935. `scope="tensor"` counts in each tensor by itself,
    `"global"` in all together. `kind="optimal"` zeroes first what tells most of the data for its
    size: those of the largest |dg_k/dx| / |g_k| (arXiv 2411.03746).
    """

    inner: Client
    ratio: float = 0.9
    scope: Literal["tensor", "global"] = "tensor"
    kind: Literal["magnitude", "optimal"] = "magnitude"

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise InvalidInput(
                f"Prune.ratio={self.ratio} removes everything or is no share: use 0 <= ratio < 1."
            )
        one_of("Prune.scope", self.scope, ("tensor", "global"))
        one_of("Prune.kind", self.kind, ("magnitude", "optimal"))

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update, worth = self._worth(model, batch, rng)
        pooled = self._cut(tree.flat(worth)) if self.scope == "global" else None
        cuts = {name: self._cut(w) if pooled is None else pooled for name, w in worth.items()}
        return {name: u * (worth[name] > cuts[name]) for name, u in update.items()}

    def cell(self, update: Tensors) -> tuple[Tensors, Tensors]:
        """The box of inner updates that could have given this one.

        What was kept is exact; what was zeroed was no larger than the smallest entry kept, or of
        any size where size was not what decided.
        """
        if self.kind == "optimal":
            far = tree.mapped(lambda u: torch.where(u == 0, torch.inf, 0.0).to(u), update)
            return tree.subtract(update, far), tree.total([update, far])
        smallest = _smallest if self.scope == "tensor" else None
        pooled = _smallest(tree.flat(update))
        bound = tree.mapped(
            lambda u: torch.where(u == 0, smallest(u) if smallest else pooled, 0), update
        )
        return tree.subtract(update, bound), tree.total([update, bound])

    def _worth(
        self, model: Model, batch: Batch, rng: Generator
    ) -> tuple[Tensors, dict[str, Tensor]]:
        """The inner update, and what keeping each entry is worth."""
        if self.kind == "magnitude":
            update = self.inner(model, batch, rng)
            return update, tree.mapped(lambda u: u.detach().abs(), update)
        update, ratio = telling(self.inner, model, batch, rng)
        return update, tree.mapped(torch.reciprocal, ratio)

    def _cut(self, entries: Tensor) -> Tensor | float:
        zeroed = int(self.ratio * entries.numel() + 1e-9)  # 0.29 * 100 is 28.999...
        if zeroed == 0:
            return -1.0
        return entries.flatten().kthvalue(zeroed).values


def _smallest(entries: Tensor) -> Tensor:
    kept = entries[entries != 0].abs()
    return kept.min() if kept.numel() else entries.new_tensor(float("inf"))
