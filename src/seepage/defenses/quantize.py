"""Fewer bits."""

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.checks import at_least
from seepage.core import Batch, Client, Model, noiseless
from seepage.defenses.chance import uniform
from seepage.tree import Tensors
from seepage.values import value


@value
class Quantize:
    """s round(v / s) tensor by tensor, s = max|v| / L with L = 2^(bits-1) - 1 levels either side.

    `stochastic` rounds up with the probability of the remainder, s floor(v/s + U), which keeps the
    mean. Alistarh et al. 2017, arXiv 1610.02132. The largest entry keeps its value, so that s can
    be read off the update.
    """

    inner: Client
    bits: int = 8
    stochastic: bool = False

    def __post_init__(self) -> None:
        at_least("Quantize.bits", self.bits, 2)

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        return tree.mapped(
            lambda v: tree.straight_through(self._rounded(v.detach(), rng), v), update
        )

    def noiseless(self) -> Client:
        return Quantize(noiseless(self.inner), self.bits)

    def cell(self, update: Tensors) -> tuple[Tensors, Tensors]:
        """The box of inner updates that could have given this one: half a step either side.

        A whole step where rounding is stochastic; never beyond the largest entry.
        """
        half = 1.0 if self.stochastic else 0.5

        def edge(u: Tensor, side: int) -> Tensor:
            # Dividing by s and multiplying again errs by some last places of the largest entry.
            limit = _largest(u) * (1 + 4 * torch.finfo(u.dtype).eps)
            far = u + side * half * _largest(u) / self._levels + side * (limit - _largest(u))
            return torch.minimum(torch.maximum(far, -limit), limit)

        return (
            tree.mapped(lambda u: edge(u, -1), update),
            tree.mapped(lambda u: edge(u, +1), update),
        )

    @property
    def _levels(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def _rounded(self, v: Tensor, rng: Generator) -> Tensor:
        step = _largest(v) / self._levels
        if step == 0:
            return v
        steps = v / step
        whole = (steps + uniform(v, rng).to(v)).floor() if self.stochastic else steps.round()
        return step * whole.clamp(-self._levels, self._levels)


def _largest(v: Tensor) -> Tensor:
    return v.abs().max() if v.numel() else v.new_zeros(())
