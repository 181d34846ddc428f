"""How much each entry of an update tells of the data: where noise or pruning costs least."""

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.core import Batch, Client, Model
from seepage.defenses.chance import normal
from seepage.errors import InvalidInput
from seepage.tree import Tensors

SKETCHES = 10
_LEAST, _MOST = 1e-8, 1e6


def telling(
    inner: Client, model: Model, batch: Batch, rng: Generator
) -> tuple[Tensors, dict[str, Tensor]]:
    """The inner client's update g, and sqrt(J / |g|) of each of its entries.

    J_k = |dg_k / dx| is how much entry k tells of the data, and |g_k| what training loses with it:
    the ratio that weighs noise, and orders pruning, at the best trade of one for the other.
    From arXiv 2411.03746. J by ten random directions v, the same in every round, since nothing
    here is meant to be secret: J_k^2 = E (dg_k/dx . v)^2.
    """
    if not batch.x.is_floating_point():
        raise InvalidInput(
            f'kind="optimal" differentiates the update by the data, and these are '
            f"{batch.x.dtype}. Use another kind for tokens."
        )
    x = batch.x if batch.x.requires_grad else batch.x.detach().requires_grad_()
    with torch.enable_grad():
        update = inner(model, Batch(x, batch.y), rng)
        lengths = _lengths(update, x)
    ratio = tree.combined(_ratio, lengths, update)
    return update if batch.simulated else tree.detached(update), ratio


def _ratio(length: Tensor, entry: Tensor) -> Tensor:
    ratio = (length / entry.detach().abs().clamp_min(_LEAST)).sqrt()
    return ratio.clamp(_LEAST, _MOST)


def _lengths(update: Tensors, x: Tensor) -> dict[str, Tensor]:
    # The product with v from the left is linear in the weights: its derivative by them is J v.
    moving = {name: u for name, u in update.items() if u.requires_grad}
    squares = tree.mapped(lambda u: torch.zeros_like(u).detach(), update)
    weights = [torch.zeros_like(u).requires_grad_() for u in moving.values()]
    if not moving:
        return squares
    (back,) = torch.autograd.grad(
        list(moving.values()), x, weights, create_graph=True, materialize_grads=True
    )
    fixed = Generator().manual_seed(0)
    for _ in range(SKETCHES):
        pushed = torch.autograd.grad(
            back, weights, normal(x.detach(), fixed), retain_graph=True, materialize_grads=True
        )
        for name, part in zip(moving, pushed, strict=True):
            squares[name] = squares[name] + part.detach().square() / SKETCHES
    return tree.mapped(torch.sqrt, squares)
