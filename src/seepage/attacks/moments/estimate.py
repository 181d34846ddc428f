"""The moment estimator: from the gradient of the head to inputs, and starts for refining them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage.attacks.moments.carry import Passage
from seepage.attacks.moments.decompose import decomposed
from seepage.attacks.moments.hermite import Plan
from seepage.attacks.moments.rows import Rows
from seepage.attacks.moments.signs import Weighed, best_signed, inputs_from
from seepage.attacks.moments.span import (
    LowMoments,
    component_tensor,
    low_moments,
    second_span,
    third_span,
    without_second,
)
from seepage.attacks.span.activations import Activation
from seepage.attacks.span.equations import Equations, Unknown
from seepage.attacks.span.layers import Stack
from seepage.attacks.span.levenberg import Damping, solved
from seepage.attacks.span.measured import bias_of, required
from seepage.core import Observation
from seepage.errors import InvalidInput

_RESTARTS = 8
_FEW = 20_000


@dataclass(frozen=True)
class Wanted:
    """How many inputs there are (None: read it from the moments), and how often to refine."""

    count: int | None
    refine: int


@dataclass(frozen=True)
class Estimate:
    """The span (d, k), the hidden units seen in it (m, k), and the inputs there (n, k)."""

    basis: Tensor
    inside: Tensor
    x: Tensor


def estimated(
    rows: Rows, activation: Activation, plan: Plan, wanted: Wanted, rng: Generator
) -> Estimate:
    """Span, moments inside it, components, signs and lengths: the published attack.

    Several outputs are several problems with the same inputs: all show the span, and a random
    mixture of them is taken apart.
    """
    low, outputs = low_moments(rows), rows.gradient.shape[0]
    mix = torch.randn(outputs, 1, generator=rng, dtype=torch.float64)
    mix = mix if outputs > 1 else torch.ones_like(mix)
    mixed = LowMoments(low.first @ mix, low.rest @ mix)
    if plan.subspace == 2:
        basis = second_span(rows, low.rest, wanted.count, rng)
    else:
        basis = third_span(rows, mixed, wanted.count, wanted.refine, rng)
    inside, rest = rows.project(basis), mixed.rest[:, 0]
    second = component_tensor(inside, rest, 2)
    if plan.subspace == 2:
        rest = without_second(inside, rest, second)
    components = decomposed(component_tensor(inside, rest, plan.components), rng)
    weighed = Weighed(basis.T @ mixed.first[:, 0], second, components)
    return Estimate(basis, inside, inputs_from(weighed, plan, activation.function, rows.bias))


def starting(rows: Rows, activation: Activation, inside: Tensor, x: Tensor) -> Unknown:
    """Inputs of these directions with the signs and gradients that explain g best."""
    z, shift = inside @ x.T, rows.bias[:, None]
    up, down = activation.function(shift + z), activation.function(shift - z)
    side, slopes = best_signed(up, down, rows.gradient)
    return Unknown(x * side[:, None], slopes)


def outside(start: Unknown, found: Estimate) -> Unknown:
    """The same inputs in all d coordinates."""
    return Unknown(start.x @ found.basis.T, start.delta)


def restarts(
    rows: Rows, activation: Activation, found: Estimate, rng: Generator
) -> Iterator[Unknown]:
    """Random directions in the span, solved there, the best first: a bad tensor does not matter."""
    length = found.x.norm(dim=1).median()
    units = torch.randperm(len(rows), generator=rng)[:_FEW]
    few = Rows(rows.gradient[:, units], rows.weight[:1], rows.bias[units], rows.scale, rows.chunk)
    inside = found.inside[units]
    head = torch.zeros(len(rows.gradient), len(units), dtype=torch.float64)
    given = Equations(inside, few.bias, head, None, None, few.gradient, None)
    states = []
    for _ in range(_RESTARTS):
        drawn = torch.randn(found.x.shape, generator=rng, dtype=torch.float64)
        drawn = length * drawn / drawn.norm(dim=1, keepdim=True)
        start = starting(few, activation, inside, drawn)
        states.append(solved(given, activation.smooth, start, Damping(steps=25, start=1e-3)))
    for state in sorted(states, key=lambda state: state.cost):
        yield state.at


def measured_rows(seen: Observation, stack: Stack, way: Passage | None, chunk: int) -> Rows:
    """The head's gradient with the weights that its hidden units give to what they see."""
    weight = seen.model.state[stack.hidden.weight].detach()
    gradient, bias = required(seen, stack.head.weight), bias_of(seen, stack.hidden)
    if way is not None:  # its biases only move the origin to the centre of the features
        weight, bias = weight[:, : way.width], torch.zeros_like(bias)
    return Rows(gradient, weight, bias, _scale(weight, chunk), chunk)


def _scale(weight: Tensor, chunk: int) -> float:
    """The standard deviation of Gaussian weights; others have moments that mean something else."""
    sums = torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(weight), chunk):
        entries = weight[start : start + chunk].to("cpu", torch.float64)
        square = entries.square()
        parts = entries.sum(), square.sum(), (entries * square).sum(), square.square_().sum()
        sums += torch.stack(parts)
    mean, second, _, fourth = (sums / weight.numel()).tolist()
    spread = max(second - mean**2, 1e-300)
    noise = weight.numel() ** -0.5
    if abs(mean) > 6 * noise * spread**0.5 or abs(fourth / spread**2 - 3) > 0.1 + 30 * noise:
        raise InvalidInput(
            f"the hidden weights are not Gaussian (kurtosis {fourth / spread**2:.2f}, expected 3), "
            "and Moments reads Hermite moments of Gaussian weights. Use Span, which needs no "
            "particular weights, or broadcast Moments().craft(model, rng)."
        )
    return math.sqrt(spread)


def check(rows: Rows, stack: Stack, count: int | None) -> None:
    """Refuse what has no answer."""
    if not bool(rows.gradient.any()):
        raise InvalidInput(
            f"the update of '{stack.head.weight}' is all zero, so it holds nothing to recover. "
            "Check that the layer is trained and that the batch does not saturate it."
        )
    if count is not None and len(rows) < count + 2:
        raise InvalidInput(
            f"{len(rows)} hidden units cannot tell {count} examples apart: at least "
            f"{count + 2} are needed. Use a wider layer or a smaller batch."
        )
    if count is not None and count > rows.width:
        raise InvalidInput(
            f"a batch of {count} in {rows.width} columns has no span of its own. Use a batch of at "
            f"most {rows.width}, or Span."
        )
