"""Dropout, of units or of entries of the update."""

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from seepage import tree
from seepage.checks import one_of
from seepage.core import Batch, Client, Model, noiseless
from seepage.defenses.chance import mask
from seepage.errors import InvalidInput
from seepage.tree import Tensors
from seepage.values import value

_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


@value
class Dropout:
    """Masks m ~ Bernoulli(keep)/keep on the inputs of all layers but the first, or on the update.

    `at="units"`: the inner client runs on W diag(m), and the gradient of W is that times diag(m),
    which is dropout of activations with one mask for the whole batch; Scheliga et al. 2022, arXiv
    2208.06163. `at="entries"`: u m, entry by entry. Either mask can be read off the update: what
    was dropped is zero.
    """

    inner: Client
    keep: float
    at: Literal["units", "entries"] = "units"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise InvalidInput(
                f"Dropout.keep={self.keep} is no share of what stays: use 0 < keep <= 1."
            )
        one_of("Dropout.at", self.at, ("units", "entries"))

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        if self.at == "units":
            return masked(self.inner, model, batch, rng, self._unit_masks(model, rng))
        update = self.inner(model, batch, rng)
        return tree.mapped(
            lambda u: u * mask(u.numel(), self.keep, u, rng).view(u.shape) / self.keep, update
        )

    def noiseless(self) -> Client:
        return noiseless(self.inner)

    def cell(self, update: Tensors) -> tuple[Tensors, Tensors]:
        """The box of inner updates that could have given this one; zeros tell nothing.

        With units dropped, the network itself was another one, and nothing is told.
        """
        far = float("inf")
        if self.at == "units":
            return (
                tree.mapped(lambda u: torch.full_like(u, -far), update),
                tree.mapped(lambda u: torch.full_like(u, far), update),
            )
        slack = 1 + 4 * torch.finfo(tree.flat(update).dtype).eps
        return (
            tree.mapped(
                lambda u: torch.where(u == 0, -far, _wider(u * self.keep, 1 / slack)), update
            ),
            tree.mapped(lambda u: torch.where(u == 0, far, _wider(u * self.keep, slack)), update),
        )

    def _unit_masks(self, model: Model, rng: Generator) -> Tensors:
        return {
            name: _shaped(
                mask(_inputs(layer), self.keep, model.state[name], rng) / self.keep, layer
            )
            for name, layer in hidden_layers(model)
        }


def masked(
    inner: Client, model: Model, batch: Batch, rng: Generator, masks: Tensors
) -> dict[str, Tensor]:
    """The inner client on W m, and its gradients times m, by the names of the weights."""
    thinned = model.replaced(tree.combined(torch.mul, masks, model.state))
    update = inner(thinned, batch, rng)
    return {name: u * masks[name] if name in masks else u for name, u in update.items()}


def hidden_layers(model: Model) -> list[tuple[str, _Layer]]:
    """The weights of all linear and convolutional layers but the first, in the network's order."""
    layers = [
        (f"{name}.weight".removeprefix("."), module)
        for name, module in model.module.named_modules()
        if isinstance(module, _Layer)
    ]
    return [(name, layer) for name, layer in layers[1:] if name in model.state]


def _inputs(layer: _Layer) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _shaped(channels: Tensor, layer: _Layer) -> Tensor:
    """A mask over input channels as one over the weight, whose rows see their own group only."""
    if isinstance(layer, nn.Linear):
        return channels.expand(layer.out_features, -1)
    rows = channels.view(layer.groups, -1).repeat_interleave(layer.out_channels // layer.groups, 0)
    return rows.view(*rows.shape, *[1] * len(layer.kernel_size)).expand(layer.weight.shape)


def _wider(u: Tensor, factor: float) -> Tensor:
    return torch.where(u > 0, u * factor, u / factor)
