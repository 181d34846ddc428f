"""Clipping of the whole update."""

from torch import Generator

from seepage import tree
from seepage.checks import positive
from seepage.core import Batch, Client, Model
from seepage.tree import Tensors
from seepage.values import value


@value
class Clip:
    """u min(1, C / |u|), over all tensors together: it hides the length, never the direction."""

    inner: Client
    norm: float

    def __post_init__(self) -> None:
        positive("Clip.norm", self.norm)

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        length = tree.norm(update)
        return tree.scale(update, self.norm / length) if length > self.norm else update
