"""The subspace that a projection's gradient lies in: it holds every input of that layer."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from seepage.attacks.text.anatomy import Network
from seepage.core import Observation
from seepage.errors import InvalidInput

_SPARE = 20
"""Fewer directions outside the span than this cannot tell tokens apart."""

_CHANCE = 2
"""With one direction left in a LoRA of rank 16, one token of the vocabulary fits by chance."""

Rank = int | Literal["spectrum"] | None
"""How many directions there are: a number, those above noise, or (None) those above rounding."""

_NOISE = 2.858
"""Singular values above so many medians are signal, for square matrices in white noise."""

_FLOOR = {torch.float64: 1e-11, torch.float32: 1e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Singular values below this share of the largest are rounding."""


@dataclass(frozen=True, eq=False)
class Span:
    """What is orthogonal to all inputs of a layer, in float64.

    The gradient of a projection is sum_i d_i x_i^T, so its rows lie in span{x_i}. With N an
    orthonormal basis of the rest, the distance of v is |N v| / |v|. `through` maps v first (the
    A of a LoRA whose B alone has moved).
    """

    basis: Tensor
    """Orthonormal rows, the first `rank` of them the span."""
    values: Tensor
    rank: int
    through: Tensor | None = None
    adapter: bool = False

    @classmethod
    def of(cls, gradient: Tensor, rank: Rank = None, adapter: bool = False) -> "Span":
        """The span of the rows of a gradient (outputs, inputs); its rank counted unless given.

        "spectrum" counts what stands out of noise, Gavish and Donoho 2014, arXiv 1305.5870.
        """
        wide = gradient.double()
        _, values, basis = torch.linalg.svd(wide, full_matrices=wide.shape[0] < wide.shape[1])
        floor = _FLOOR[gradient.dtype] * values[0]
        if rank == "spectrum":
            floor = torch.maximum(floor, _NOISE * values.median())
        counted = rank if isinstance(rank, int) else int((values > floor).sum())
        return cls(basis, values, counted, adapter=adapter)

    @property
    def complement(self) -> Tensor:
        """N: orthonormal rows outside the span."""
        return self.basis[self.rank :]

    @property
    def full(self) -> bool:
        """Whether too few directions are left to tell tokens apart."""
        if self.adapter:
            return self.rank + _CHANCE > len(self.values)
        return len(self.complement) < _SPARE

    @property
    def rounding(self) -> float:
        """How far rounding moves inputs out: the gradient of a LoRA's A is one product longer."""
        return 10.0 if self.adapter and self.through is None else 1.0

    def cut(self, rank: int) -> "Span":
        """The same with another rank."""
        return replace(self, rank=rank)

    def outside(self, rows: Tensor) -> Tensor:
        """N v / |v| of each row, in float64."""
        wide = rows.double() if self.through is None else rows.double() @ self.through.double().T
        found: Tensor = wide @ self.complement.T / wide.norm(dim=-1, keepdim=True)
        return found

    def distance(self, rows: Tensor) -> Tensor:
        """|N v| / |v| of each row, in float64."""
        found: Tensor = self.outside(rows).norm(dim=-1)
        return found

    def lengths(self, rows: Tensor) -> Tensor:
        """|v| of each row, after the map, in single precision."""
        flat = rows.float() if self.through is None else rows.float() @ self.through.float().T
        found: Tensor = flat.norm(dim=-1)
        return found

    def sketch(self, directions: int = 32) -> Tensor:
        """Some directions of N in single precision: never further away than all of them."""
        rows = self.complement[:directions]
        return (rows if self.through is None else rows @ self.through.double()).float()

    def gap(self) -> int:
        """The rank where the singular values fall most steeply."""
        ends = self.values[:-_SPARE]
        return int((ends[:-1] / ends[1:].clamp_min(1e-300)).argmax()) + 1


def span_of(seen: Observation, network: Network, block: int, rank: Rank = None) -> Span:
    """The span of a block's inputs, from its projection's weight or from its LoRA pair."""
    anatomy = network.anatomy
    name = anatomy.spans[block]
    if name in seen.update:
        gradient = seen.update[name]
        return Span.of(gradient.T if anatomy.transposed else gradient, rank)
    if len(anatomy.adapters) > block:
        found = _adapter(seen, network, *anatomy.adapters[block])
        if found is not None:
            return found
    raise InvalidInput(
        f"the update holds neither '{name}' nor a LoRA pair beside it, and TokenSpan reads the "
        "inputs of the first blocks there. Share it, or use another attack."
    )


def _adapter(seen: Observation, network: Network, down: str, up: str) -> Span | None:
    """Rows of dA lie in span{x_i}; while B = 0, dA is 0 and rows of dB lie in span{A x_i}."""
    first, second = seen.update.get(down), seen.update.get(up)
    if first is not None and bool(first.any()):
        return Span.of(first, adapter=True)
    if second is None or not bool(second.any()):
        return None
    return replace(Span.of(second, adapter=True), through=network.state[down])
