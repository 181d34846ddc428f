"""The signs and lengths that the gradient's equations leave open, from the loss and the form.

Without hidden biases (t x, d / t) solves the equations as well as (x, d) where the activation is
homogeneous, for every t > 0, and where it is odd, for t = -1. The softmax settles the sign: only
the true class pulls its output up. And d is the loss's slope at the output, which settles t.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.span.activations import Activation
from seepage.attacks.span.answers import slopes_of_loss
from seepage.attacks.span.equations import State, Unknown
from seepage.attacks.span.layers import Stack
from seepage.attacks.span.measured import Measured, bias_of
from seepage.core import Observation
from seepage.forms import Form, Images

_FACTORS = torch.logspace(-4, 4, 321, dtype=torch.float64)


@dataclass(frozen=True)
class Factors:
    """One factor for each input, and whether something determined them."""

    values: Tensor
    known: bool


def factors(seen: Observation, stack: Stack, given: Measured, state: State) -> Factors:
    """By what to multiply each input, and divide its gradients, for the one true solution."""
    activation, at = stack.activation, state.at
    biased = bool(given.equations.bias.any()) or given.equations.bias_gradient is not None
    x = at.x @ given.space.basis.T
    if activation.sloped is not None and not biased:
        outputs = state.curve.value.T @ given.equations.head.T
        return lengths(seen, stack, Unknown(x, at.delta), outputs)
    if is_odd(activation) and not biased:
        return signs(Unknown(x, at.delta), seen.model.form)
    return Factors(torch.ones(len(x), dtype=torch.float64), known=True)


def is_odd(activation: Activation) -> bool:
    """Whether s(-z) = -s(z)."""
    points = torch.linspace(0.1, 3, 7, dtype=torch.float64)
    mirrored = -activation.function(-points)
    return torch.allclose(activation.function(points), mirrored, atol=1e-12)


def signs(at: Unknown, form: Form) -> Factors:
    """Of x and -x the one that the softmax or the form's range allows."""
    x, delta, ones = at.x, at.delta, torch.ones(len(at.x), dtype=torch.float64)
    if delta.shape[1] > 2:
        flipped = (delta < 0).sum(1) > delta.shape[1] // 2
        return Factors(torch.where(flipped, -ones, ones), known=True)
    if not isinstance(form, Images) or x.shape[1] != math.prod(form.shape):
        return Factors(ones, known=False)
    outside = [_outside(side * x, form) for side in (1, -1)]
    unlike = bool((outside[0] != outside[1]).all())
    return Factors(torch.where(outside[0] > outside[1], -ones, ones), unlike)


def _outside(x: Tensor, form: Images) -> Tensor:
    pictures = x.view(-1, *form.shape)
    low, high = form.box(pictures)
    return ((low - pictures).relu() + (pictures - high).relu()).flatten(1).sum(1)


def lengths(seen: Observation, stack: Stack, at: Unknown, outputs: Tensor) -> Factors:
    """Of all t x the one whose output, t outputs + bias, has the loss slope delta / t."""
    x, shift = at.x, bias_of(seen, stack.head)
    if not stack.ends:
        return Factors(torch.ones(len(x), dtype=torch.float64), known=False)
    found = [
        [
            factor
            for label in _labels(seen, delta)
            for factor in _explaining(seen, output, shift, delta * len(x), label)
            if _inside(seen.model.form, factor * one)
        ]
        for one, output, delta in zip(x, outputs, at.delta, strict=True)
    ]
    # Of several lengths in range the largest is likeliest: private data use their range.
    chosen = torch.tensor([max(factors, default=1.0) for factors in found], dtype=torch.float64)
    return Factors(chosen, known=all(len(factors) == 1 for factors in found))


def _inside(form: Form, x: Tensor) -> bool:
    if not isinstance(form, Images) or len(x) != math.prod(form.shape):
        return True
    low, high = form.box(x)
    return float(_outside(x[None], form)) <= 1e-4 * float((high - low).max()) * len(x)


def _labels(seen: Observation, delta: Tensor) -> list[float]:
    if len(delta) > 1:
        return [int(delta.argmin())]
    if seen.y is not None:
        return sorted(set(seen.y.reshape(-1).tolist()))
    return [-1.0, 0.0, 1.0] if seen.model.form.classes > 1 else []


def _explaining(
    seen: Observation, output: Tensor, shift: Tensor, delta: Tensor, label: float
) -> list[float]:
    """All factors t at which t dL/do(t o) is the gradient that was solved for."""

    def misfit(factors: Tensor) -> Tensor:
        slopes = slopes_of_loss(seen.model, factors[:, None] * output + shift, label)
        if slopes is None:
            return torch.full_like(factors, torch.inf)
        relative: Tensor = (slopes * factors[:, None] - delta).norm(dim=1) / delta.norm()
        return relative

    coarse = misfit(_FACTORS)
    valleys = (coarse[1:-1] <= coarse[:-2]) & (coarse[1:-1] < coarse[2:])
    found = [_refined(misfit, int(place)) for place in valleys.nonzero()[:, 0] + 1]
    return [factor for factor, error in found if error < 1e-5]


def _refined(misfit: Callable[[Tensor], Tensor], place: int) -> tuple[float, float]:
    grid = _FACTORS
    for _ in range(10):
        low, high = float(grid[max(place - 1, 0)]), float(grid[min(place + 1, len(grid) - 1)])
        grid = torch.linspace(low, high, 41, dtype=torch.float64)
        errors = misfit(grid)
        place = int(errors.argmin())
    return float(grid[place]), float(errors[place])
