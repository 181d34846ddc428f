"""Noise on the update."""

from typing import Literal

from torch import Generator, Tensor

from seepage import tree
from seepage.checks import at_least, one_of
from seepage.core import Batch, Client, Model, noiseless
from seepage.defenses.chance import laplace, normal
from seepage.defenses.sensitivity import telling
from seepage.tree import Tensors
from seepage.values import value


@value
class Noise:
    """u + s xi, with s = std, or std times the root mean square of the whole update.

    `std` is the standard deviation of what is added, for Laplace noise too (its scale is
    s / sqrt(2)). `optimal` is Gaussian and spreads the same mean square in proportion to what each
    entry tells of the data over its size (arXiv 2411.03746). Noise without a clipped update bounds
    nothing: see `Clip`.
    """

    inner: Client
    std: float
    kind: Literal["gauss", "laplace", "optimal"] = "gauss"
    relative: bool = False

    def __post_init__(self) -> None:
        at_least("Noise.std", self.std, 0)
        one_of("Noise.kind", self.kind, ("gauss", "laplace", "optimal"))

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update, spread = self._spread(model, batch, rng)
        rms = tree.norm(update) / tree.size(update) ** 0.5 if self.relative else 1.0
        draw = laplace if self.kind == "laplace" else normal
        size = self.std * rms
        return {n: u + size * spread.get(n, 1.0) * draw(u, rng) for n, u in update.items()}

    def noiseless(self) -> Client:
        return noiseless(self.inner)

    def _spread(
        self, model: Model, batch: Batch, rng: Generator
    ) -> tuple[Tensors, dict[str, Tensor]]:
        """The inner update, and factors of mean square 1 on its noise where they are not 1."""
        if self.kind != "optimal":
            return self.inner(model, batch, rng), {}
        update, ratio = telling(self.inner, model, batch, rng)
        return update, tree.scale(ratio, tree.size(ratio) ** 0.5 / tree.norm(ratio))
