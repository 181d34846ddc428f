"""The row space of a gradient and its rank: the span of the inputs, exactly."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Subspace:
    """An orthonormal basis (d, r) of the row space, and the spectrum it was read from."""

    basis: Tensor
    rank: int
    spectrum: Tensor

    @property
    def full(self) -> bool:
        return self.rank >= len(self.spectrum)


def row_space(gradient: Tensor, floor: float, rank: int | None = None) -> Subspace:
    """The span of the inputs: G_W = M X has no other rows.

    The rank is where neighbouring singular values differ most, counting a floor of rounding below
    the smallest; noise hides that gap, and the rank must then be told.

    >>> generator = torch.Generator().manual_seed(0)
    >>> left, right = (torch.randn(9, 3, generator=generator) for _ in range(2))
    >>> row_space((left @ right.T).double(), floor=1e-6).rank
    3
    """
    _, spectrum, rows = torch.linalg.svd(gradient, full_matrices=False)
    if rank is None:
        ends = torch.cat([spectrum, spectrum[:1] * floor]).clamp_min(float(spectrum[0]) * floor)
        rank = int((ends[:-1] / ends[1:]).argmax()) + 1
    rank = min(rank, len(spectrum))
    return Subspace(rows[:rank].T.contiguous(), rank, spectrum)
