"""Slopes in doubt of all layers at once, solved for together with the input.

The repair of one layer sees only that layer's equations. Here every unit whose z lies within the
error of its kink has its slope as an unknown beside x, in Gauss-Newton on the whole gradient; the
slopes are then rounded, as a unit has one of two.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.rgap.problem import Problem
from seepage.attacks.rgap.recursion import Step
from seepage.attacks.rgap.refine import Fit, frozen
from seepage.chains import Activation, Chain
from seepage.chains.activations import held

_MOST = 200


@dataclass(frozen=True, eq=False)
class _Units:
    """The units in doubt of one layer: where, what slopes they had, and the lower of the two."""

    layer: int
    places: Tensor
    base: Tensor
    low: Tensor

    def slopes(self, values: Tensor) -> Tensor:
        return self.base.flatten().index_copy(0, self.places, values).view_as(self.base)


def freed(
    problem: Problem, x: Tensor, label: int | None, trail: list[Step], width: float
) -> tuple[Tensor, list[Step]]:
    """The input and the steps with the slopes of units within `width` errors of their kink."""
    chain = frozen(problem.chain, trail)
    doubts = list(_doubts(problem.chain, chain, x, trail, width))
    counts = [len(units.places) for units in doubts]
    if not sum(counts):
        return x, trail
    n = x.numel()

    def unpack(at: Tensor) -> tuple[Chain, Tensor]:
        return _with(chain, doubts, torch.split(at[n:], counts)), at[:n].view_as(x)

    low = torch.cat([units.low for units in doubts])
    at = torch.cat([x.reshape(-1), (1 + low) / 2])
    fit = Fit(problem, label, trail[-1].k, unpack)
    for _ in range(5):
        at = at + fit.step(at)
        at[n:] = torch.maximum(at[n:].clamp(max=1), low)
    nearest = torch.where(at[n:] > (1 + low) / 2, 1.0, low)
    return at[:n].view_as(x), _rounded(trail, doubts, torch.split(nearest, counts))


def _doubts(
    chain: Chain, steady: Chain, x: Tensor, trail: list[Step], width: float
) -> "list[_Units]":
    made = []
    x = chain.before.apply(x)
    for i, (layer, fixed, step) in enumerate(zip(chain.layers, steady.layers, trail, strict=True)):
        z = layer.forward(x.reshape(layer.inputs))
        x = fixed.after.apply(z)
        steps = layer.after.steps
        if len(steps) != 1 or not layer.after.kinked or step.slope is None:
            continue
        size = z.abs().flatten()
        near = size.argsort()[: min(_MOST, int((size < width * trail[i + 1].error).sum()))]
        low = (torch.ones_like(z) * steps[0].slope).flatten()[near]
        made.append(_Units(i, near, step.slope, low))
    return made


def _with(chain: Chain, doubts: list[_Units], values: tuple[Tensor, ...]) -> Chain:
    layers = list(chain.layers)
    for units, slopes in zip(doubts, values, strict=True):
        layer = layers[units.layer]
        after = Activation((held(layer.after.steps[0], units.slopes(slopes)),))
        layers[units.layer] = dataclasses.replace(layer, after=after)
    return dataclasses.replace(chain, layers=tuple(layers))


def _rounded(trail: list[Step], doubts: list[_Units], values: tuple[Tensor, ...]) -> list[Step]:
    made = list(trail)
    for units, slopes in zip(doubts, values, strict=True):
        step = made[units.layer]
        ambiguous = max(step.ambiguous, len(units.places))
        made[units.layer] = dataclasses.replace(
            step, slope=units.slopes(slopes), ambiguous=ambiguous
        )
    return made
