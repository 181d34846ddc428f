"""Noise on the update."""

from typing import Literal

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.checks import at_least, one_of
from seepage.core import Batch, Client, Model, noiseless
from seepage.tree import Tensors
from seepage.values import value


@value
class Noise:
    """u + s xi, with s = std, or std times the root mean square of the whole update.

    `std` is the standard deviation of what is added, for Laplace noise too (its scale is
    s / sqrt(2)). Noise without a clipped update bounds nothing: see `Clip`.
    """

    inner: Client
    std: float
    kind: Literal["gauss", "laplace"] = "gauss"
    relative: bool = False

    def __post_init__(self) -> None:
        at_least("Noise.std", self.std, 0)
        one_of("Noise.kind", self.kind, ("gauss", "laplace"))

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        rms = tree.norm(update) / tree.size(update) ** 0.5 if self.relative else 1.0
        return tree.mapped(lambda u: u + self.std * rms * self._draw(u, rng), update)

    def noiseless(self) -> Client:
        return noiseless(self.inner)

    def _draw(self, like: Tensor, rng: Generator) -> Tensor:
        # Drawn on the CPU, so that one seed means one draw on every device.
        if self.kind == "gauss":
            unit = torch.randn(like.shape, generator=rng, dtype=torch.float64)
        else:
            half = torch.rand(like.shape, generator=rng, dtype=torch.float64) - 0.5
            unit = -half.sign() * torch.log1p(-2 * half.abs()) / 2**0.5
        return unit.to(like)
