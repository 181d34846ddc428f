"""Dropout masks read off the update that they made."""

import torch
from torch import Generator, Tensor, nn

from seepage import tree
from seepage.core import Batch, Client, Model
from seepage.tree import Tensors
from seepage.values import value


@value
class Thinned:
    """The inner client on weights times known masks, and its gradients times them."""

    inner: Client
    masks: Tensors

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        masks = {name: m.to(model.state[name]) for name, m in self.masks.items()}
        thinned = model.replaced(tree.combined(torch.mul, masks, model.state))
        update = self.inner(thinned, batch, rng)
        return {name: u * masks[name] if name in masks else u for name, u in update.items()}


def read_masks(model: Model, update: Tensors, keep: float) -> dict[str, Tensor]:
    """1/keep for each input of a layer whose gradient column is not zero, for all but the first.

    A unit that gave zero for every example looks as if it was dropped, and does as little.
    """
    names = [
        f"{name}.weight".removeprefix(".")
        for name, module in model.module.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]
    return {name: _columns(update[name]) / keep for name in names[1:] if name in update}


def _columns(u: Tensor) -> Tensor:
    alive = u.flatten(2).ne(0).any(2) if u.ndim > 2 else u.ne(0)
    kept = alive.any(0).to(u)
    return kept.view(1, -1, *[1] * (u.ndim - 2)).expand(u.shape)
