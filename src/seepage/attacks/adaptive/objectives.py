"""Misfits for defended updates: what a defense left open is not held against a candidate."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from seepage.attacks.matching.objectives import Cosine, Misfit, Sides, Weights
from seepage.checks import one_of, positive
from seepage.errors import InvalidInput
from seepage.values import value


@value
class Box:
    """D = sum_l w_l |outside(G_l)|^2 / |g|^2, the distance of G from the cell [lo, hi] of g.

    outside(G) = relu(lo - G) + relu(G - hi); v_l = 2 w_l (relu(G_l - hi_l) - relu(lo_l - G_l)) /
    |g|^2. `of` is the defense whose `cell` is meant, and the client to simulate is its inner one.
    Begin in the middle (`Gray`): a normal start costs tens of decibels (measured).

    >>> class Half:
    ...     def cell(self, update):
    ...         low = {name: u - 0.5 for name, u in update.items()}
    ...         return low, {name: u + 0.5 for name, u in update.items()}
    >>> sides = Sides.of([torch.tensor([3.0, 1.2])], [torch.tensor([1.0, 1.0])], [1.0])
    >>> misfit = Box(Half())(sides)
    >>> misfit.value, misfit.slopes
    (1.125, [tensor([1.5000, 0.0000])])
    """

    of: Any
    weights: Weights = "equal"
    task: float = 0.0

    def __post_init__(self) -> None:
        if not hasattr(self.of, "cell"):
            raise InvalidInput(
                f"Box.of={self.of!r} has no cell. Use one that has, such as Prune(...)."
            )

    def __call__(self, sides: Sides) -> Misfit:
        low, high = self.of.cell({str(i): g for i, g in enumerate(sides.observed)})
        total = _square(sides.observed).clamp(min=1e-30)
        rests = [
            (G - high[str(i)]).relu() - (low[str(i)] - G).relu() for i, G in enumerate(sides.given)
        ]
        parts = [w * r.square().sum() for w, r in zip(sides.weights, rests, strict=True)]
        slopes = [2 * w * r / total for w, r in zip(sides.weights, rests, strict=True)]
        return Misfit(float(torch.stack(parts).sum() / total), slopes)


@value
class Support:
    """`Cosine` over the entries of the update that are not zero: the mask that a defense shows.

    >>> pair = [torch.tensor([1.0, 7.0])], [torch.tensor([2.0, 0.0])]
    >>> Support()(Sides.of(*pair, [1.0])).value
    0.0
    """

    weights: Weights = "equal"
    task: float = 0.0

    def __call__(self, sides: Sides) -> Misfit:
        masks = [g != 0 for g in sides.observed]
        shown = [G * m for G, m in zip(sides.given, masks, strict=True)]
        found = Cosine(self.weights, self.task)(dataclasses.replace(sides, given=shown))
        slopes = [v * m for v, m in zip(found.slopes, masks, strict=True)]
        return dataclasses.replace(found, slopes=slopes)


@value
class Signs:
    """How G agrees with the signs g, with G in units of m = median|G|, which is held fixed.

    "soft": the mean of softplus(-2 g G/m) over g != 0; "tanh": 1 - cos(tanh(G/m), g).
    """

    kind: Literal["tanh", "soft"] = "tanh"
    weights: Weights = "equal"
    task: float = 0.0

    def __post_init__(self) -> None:
        one_of("Signs.kind", self.kind, ("tanh", "soft"))

    def __call__(self, sides: Sides) -> Misfit:
        middle = torch.cat([G.reshape(-1) for G in sides.given]).abs().median().clamp(min=1e-30)
        if self.kind == "soft":
            return self._soft(sides, middle)
        bent = [(G / middle).tanh() for G in sides.given]
        found = Cosine(self.weights, self.task)(dataclasses.replace(sides, given=bent))
        pairs = zip(found.slopes, bent, strict=True)
        slopes = [v * (1 - t.square()) / middle for v, t in pairs]
        return dataclasses.replace(found, slopes=slopes)

    def _soft(self, sides: Sides, middle: Tensor) -> Misfit:
        count = sum(g.numel() for g in sides.observed)
        triples = list(zip(sides.weights, sides.given, sides.observed, strict=True))
        parts = [
            w * (torch.nn.functional.softplus(-2 * g * G / middle) * (g != 0)).sum()
            for w, G, g in triples
        ]
        slopes = [
            -2 * w * g / middle * torch.sigmoid(-2 * g * G / middle) / count for w, G, g in triples
        ]
        return Misfit(float(torch.stack(parts).sum() / count), slopes)


@value
class Likelihood:
    """D = -log p(g | G): |G - g|^2 / 2 s^2 for Gaussian noise, sqrt(2) |G - g|_1 / s for Laplace.

    With a prior of weight one (`NormalPrior`) the answer is the likeliest input; without one it
    ends below the mean image.
    """

    std: float
    kind: Literal["gauss", "laplace"] = "gauss"
    weights: Weights = "equal"
    task: float = 0.0

    def __post_init__(self) -> None:
        positive("Likelihood.std", self.std)
        one_of("Likelihood.kind", self.kind, ("gauss", "laplace"))

    def __call__(self, sides: Sides) -> Misfit:
        rests = [G - g for G, g in zip(sides.given, sides.observed, strict=True)]
        pairs = list(zip(sides.weights, rests, strict=True))
        if self.kind == "gauss":
            scale = 1 / self.std**2
            total = torch.stack([w * r.square().sum() for w, r in pairs]).sum() * scale / 2
            return Misfit(float(total), [w * scale * r for w, r in pairs])
        scale = 2**0.5 / self.std
        total = torch.stack([w * r.abs().sum() for w, r in pairs]).sum() * scale
        return Misfit(float(total), [w * scale * r.sign() for w, r in pairs])


def _square(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.square().sum() for t in tensors]).sum()
