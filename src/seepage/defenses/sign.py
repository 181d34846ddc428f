"""One bit an entry."""

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.core import Batch, Client, Model
from seepage.tree import Tensors
from seepage.values import value


@value
class Sign:
    """sgn(u), and 0 stays 0. Bernstein et al. 2018, arXiv 1802.04434.

    Who differentiates through it gets the derivative of tanh(3 u / mean|u|).
    """

    inner: Client

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        wide = tree.blur(update)
        return tree.mapped(lambda u: tree.straight_through(u.sign(), (u / wide).tanh()), update)

    def cell(self, update: Tensors) -> tuple[Tensors, Tensors]:
        """The half-lines of inner updates with these signs."""
        return tree.mapped(lambda u: _edge(u < 0, -1, u), update), tree.mapped(
            lambda u: _edge(u > 0, +1, u), update
        )


def _edge(open_ended: Tensor, side: int, like: Tensor) -> Tensor:
    return torch.where(open_ended, side * float("inf"), torch.zeros_like(like))
