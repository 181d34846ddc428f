"""Noise on the update."""

from typing import Literal

from torch import Generator

from seepage import tree
from seepage.checks import at_least, one_of
from seepage.core import Batch, Client, Model, noiseless
from seepage.defenses.chance import laplace, normal
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
        draw = normal if self.kind == "gauss" else laplace
        return tree.mapped(lambda u: u + self.std * rms * draw(u, rng), update)

    def noiseless(self) -> Client:
        return noiseless(self.inner)
