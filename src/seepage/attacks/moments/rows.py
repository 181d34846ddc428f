"""The hidden units, a chunk at a time: neither the weights nor their moments are ever held."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Gradients g (C, m) at the head and weights W (m, d) = scale U, read as standard normal U."""

    gradient: Tensor
    weight: Tensor
    bias: Tensor
    scale: float
    chunk: int

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the units with their standard-normal weights in float64."""
        for start in range(0, len(self), self.chunk):
            part = slice(start, min(start + self.chunk, len(self)))
            yield part, self.weight[part].to("cpu", torch.float64, copy=True).div_(self.scale)

    def visible(self) -> "Rows":
        """The units whose gradient is not exactly zero: pruning and dropout hide the others."""
        shown = self.gradient.any(0)
        if bool(shown.all()):
            return self
        return replace(
            self,
            gradient=self.gradient[:, shown],
            weight=self.weight[shown.to(self.weight.device)],
            bias=self.bias[shown],
        )

    def project(self, columns: Tensor) -> Tensor:
        """U columns, (m, k)."""
        # Filled in place: small results kept between large chunks would keep their memory too.
        shadows = columns.new_empty(len(self), columns.shape[1])
        for part, units in self:
            torch.mm(units, columns, out=shadows[part])
        return shadows

    def gather(self, values: Tensor) -> Tensor:
        """U^T values, (d, k)."""
        total = values.new_zeros(self.width, values.shape[1])
        for part, units in self:
            total += units.T @ values[part]
        return total
