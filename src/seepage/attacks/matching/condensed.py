"""What an objective needs of a layer's gradient G, without keeping G: three numbers.

    own = <G, G>      cross = <G, g>      apart = ||g - t G||^2, t = cross / own

`Cosine` and `L2` are functions of them, and a network's worth of memory is neither written nor
read to compare it. `apart` follows from the other two, but keeps its digits where G comes near g:
||g - s G||^2 = apart + (s - t)^2 own for every s.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_NEAR = 1e-3


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
        along, towards = 2 * float(slopes[0]), float(slopes[1])
        if towards == 1:
            return torch.add(self.observed, gradient, alpha=along, out=gradient)
        if along == 1:
            return torch.add(gradient, self.observed, alpha=towards, out=gradient)
        return gradient.mul_(along).add_(self.observed, alpha=towards)


def distance(numbers: Tensor, scale: float) -> Tensor:
    """||g - scale G||^2 from the three numbers of G."""
    own, cross, apart = numbers[0], numbers[1], numbers[2]
    return apart + (scale - cross / own.clamp(min=1e-38)).square() * own


def dot(left: Tensor, right: Tensor) -> Tensor:
    """The inner product of two tensors."""
    return torch.dot(left.reshape(-1), right.reshape(-1))


def placeholder(weight: Tensor) -> nn.Parameter:
    """The parameter in whose place a layer's gradient is the three numbers."""
    return nn.Parameter(weight.new_zeros(3))
