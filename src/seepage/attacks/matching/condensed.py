"""What an objective needs of a layer's gradient G, without keeping G: three numbers.

    own = <G, G>      cross = <G, g>      apart = ||g - t G||^2, t = cross / own

`Cosine` and `L2` are functions of them, and a network's worth of memory is neither written nor
read to compare it. `apart` follows from the other two, but keeps its digits where G comes near g:
||g - s G||^2 = apart + (s - t)^2 own for every s.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

_NEAR = 1e-3

# With so many rows, a product in single precision with a matrix as it lies in memory takes a third
# less time than with its transpose; beyond them the matrix is packed in either case.
_FEW, _MANY = 2, 128


@dataclass(frozen=True, eq=False)
class Goal:
    """The observed gradient of one layer's weight, and its square."""

    observed: Tensor
    square: float

    @classmethod
    def of(cls, observed: Tensor) -> "Goal":
        """Squared once."""
        return cls(observed, float(dot(observed, observed)))

    def numbers(self, gradient: Tensor) -> Tensor:
        """The three numbers of a gradient."""
        own, cross = float(dot(gradient, gradient)), float(dot(gradient, self.observed))
        apart = self.apart(own, cross)
        if apart < _NEAR * self.square:
            rest = torch.sub(self.observed, gradient, alpha=cross / own)
            apart = float(dot(rest, rest))
        return gradient.new_tensor([own, cross, apart])

    def apart(self, own: float, cross: float) -> float:
        """The third number from the others: few digits where it is small."""
        return self.square - cross * cross / own if own > 0 else self.square

    def near(self, own: float, cross: float) -> bool:
        """Whether products of the gradient's factors leave too few digits."""
        return self.apart(own, cross) < _NEAR * self.square

    def cotangent(self, slopes: Tensor, gradient: Tensor) -> Tensor:
        """2 s_own G + s_cross g, the derivative in G, written over G."""
        half, towards, _ = slopes.tolist()
        along = 2 * half
        if towards == 1:
            return torch.add(self.observed, gradient, alpha=along, out=gradient)
        if along == 1:
            return torch.add(gradient, self.observed, alpha=towards, out=gradient)
        return gradient.mul_(along).add_(self.observed, alpha=towards)


@dataclass(frozen=True, eq=False)
class Fixed:
    """A layer's weight, its goal, and both transposed where that is faster."""

    weight: Tensor
    goal: Goal

    @classmethod
    def of(cls, weight: Tensor, observed: Tensor) -> "Fixed":
        """With the goal of an observed gradient, laid out as the layer's own will be."""
        return cls(weight, Goal.of(laid(observed)))

    def turned(self, rows: int) -> tuple[Tensor, Tensor]:
        """W^T and g^T for a product with so many rows."""
        if _FEW <= rows <= _MANY and self.weight.dtype == torch.float32:
            return self._turned
        return self.weight.T, self.goal.observed.T

    @cached_property
    def _turned(self) -> tuple[Tensor, Tensor]:
        return self.weight.T.contiguous(), self.goal.observed.T.contiguous()


def laid(t: Tensor) -> Tensor:
    """A convolution's weight with channels last in memory: up to a third faster on processors."""
    if t.ndim == 4 and t.dtype == torch.float32 and t.device.type == "cpu":
        return t.contiguous(memory_format=torch.channels_last)
    return t


def dot(left: Tensor, right: Tensor) -> Tensor:
    """The inner product of two tensors, read as they lie in memory."""
    if left.ndim == 4 and not left.is_contiguous():
        left, right = left.permute(0, 2, 3, 1), right.permute(0, 2, 3, 1)
    return torch.dot(left.reshape(-1), right.reshape(-1))


def placeholder(weight: Tensor) -> nn.Parameter:
    """The parameter in whose place a layer's gradient is the three numbers."""
    return nn.Parameter(weight.new_zeros(3))
