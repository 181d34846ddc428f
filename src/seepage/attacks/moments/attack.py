"""Moments: the gradient of a wide layer's head, read as a tensor of moments of the batch."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from seepage.attacks.moments.carry import Passage, carried
from seepage.attacks.moments.craft import crafted
from seepage.attacks.moments.estimate import (
    Estimate,
    Wanted,
    check,
    estimated,
    measured_rows,
    outside,
    restarts,
    starting,
)
from seepage.attacks.moments.hermite import Plan, coefficients, planned
from seepage.attacks.moments.polish import Fit, fitted, polished
from seepage.attacks.moments.rows import Rows
from seepage.attacks.span.activations import Activation
from seepage.attacks.span.answers import labels
from seepage.attacks.span.attack import like, told
from seepage.attacks.span.equations import Unknown
from seepage.attacks.span.layers import Stack, stack_of
from seepage.attacks.span.measured import noise_of, weight_of
from seepage.attacks.span.scale import Factors, is_odd, lengths, signs
from seepage.checks import at_least
from seepage.core import Model, Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value


@value
class Moments:
    """The provable attack on two-layer networks from dL/dA alone: its moments are the batch's.

    For Gaussian rows w_j, mean_j g_j He_p(w_j) estimates sum_i l_i c_p x_i x ... x x_i: the second
    moment gives the span of the inputs and the third or fourth, decomposed, the inputs, with
    error O(sqrt(d / m)). Wang, Lee and Lei 2023, arXiv 2212.03714. `polish` then solves the exact
    equations g_j = sum_i l_i s(w_j x_i) from there, which ends the dependence on sqrt(d / m).

    A malicious server sets the weights with `craft`; fully connected layers below the wide one it
    makes pass the data on (section 5). `order` is 3, 4 or "auto".

    >>> from seepage import FedSGD, observe, stream, zoo
    >>> digits = zoo.digits(2)
    >>> model = digits.model(zoo.two_layer(64, 4000, "gelu", classes=10, seed=0))
    >>> model = Moments().craft(model, stream(0, "server"))
    >>> seen = observe(model, digits.batch, FedSGD(), stream(0, "client"))
    >>> answer = Moments()(seen, stream(0, "attack"))
    >>> answer.note, bool(answer.residual.max() < 1e-5)
    ('', True)
    """

    order: Literal["auto"] | int = "auto"
    batch: int | None = None
    chunk: int = 1024
    refine: int = 2
    polish: bool = True
    activation: str | Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.order not in ("auto", 3, 4):
            raise InvalidInput(f"Moments.order={self.order!r} is not known: use 'auto', 3 or 4.")
        at_least("Moments.chunk", self.chunk, 1)
        at_least("Moments.refine", self.refine, 0)
        if self.batch is not None:
            at_least("Moments.batch", self.batch, 1)
        told(self.activation)

    def craft(self, model: Model, rng: Generator) -> Model:
        """The model that a malicious server broadcasts."""
        return crafted(model, stack_of(model, told(self.activation)), rng)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        stack = stack_of(seen.model, told(self.activation))
        way = carried(seen.model, stack)
        rows, count = measured_rows(seen, stack, way, self.chunk), self.batch or seen.n
        check(rows, stack, count)
        plan = planned(coefficients(stack.activation.function, biases=rows.bias), self.order)
        wanted = Wanted(count, self.refine)
        noise = noise_of(seen, rng).get(stack.head.weight, 0.0)
        expected = noise * math.sqrt(rows.gradient.numel()) / float(rows.gradient.norm())
        enough = max(_exact(seen), 1.1 * expected)
        visible, tried = rows.visible() if self.polish else rows, list[_Result]()
        both = self.polish and len(visible) < len(rows)
        for known in [rows, visible] if both else [rows]:
            found = estimated(known, stack.activation, plan, wanted, rng)
            found = replace(found, inside=visible.project(found.basis))
            tried.append(self._refined(visible, stack.activation, found, enough, rng))
            if tried[-1].holds:
                break
        result = min(tried, key=lambda one: one.residual)
        return _answer(seen, stack, _Setting(rows, plan, way), result)

    def _refined(
        self, rows: Rows, activation: Activation, found: Estimate, enough: float, rng: Generator
    ) -> "_Result":
        first = starting(rows, activation, found.inside, found.x)
        fits = [fitted(rows, activation, outside(first, found))]
        again = restarts(rows, activation, found, rng) if self.polish else iter(())
        for start in itertools.chain([first] if self.polish else [], again):
            fits.append(polished(rows, activation, outside(start, found)))
            if fits[-1].relative(rows) <= enough:
                break
        best = min(fits, key=lambda fit: fit.cost)
        return _Result(best, best.relative(rows), enough, max(len(fits) - 2, 0))


@dataclass(frozen=True)
class _Result:
    fit: Fit
    residual: float
    enough: float
    restarts: int

    @property
    def holds(self) -> bool:
        return self.residual <= self.enough


def _exact(seen: Observation) -> float:
    double = all(tensor.dtype == torch.float64 for tensor in seen.update.values())
    return 1e-6 if double else 5e-6


@dataclass(frozen=True)
class _Setting:
    rows: Rows
    plan: Plan
    way: Passage | None


def _answer(seen: Observation, stack: Stack, setting: _Setting, result: _Result) -> Reconstruction:
    rows, way, delta = setting.rows, setting.way, result.fit.at.delta
    at = Unknown(result.fit.at.x / rows.scale / (way.gain if way else 1.0), delta)
    open_factors = _factors(seen, stack, rows, result.fit, at)
    by = open_factors.values[:, None]
    x, delta = at.x * by, at.delta / by
    trace = _trace(setting.plan, result, x.to(like(seen)), delta.to(like(seen)))
    reached = stack.reads_data and (way is not None or len(stack.layers) == 2)
    if way is not None and not way.twofold:
        x = way.back(x)
    note = _note(result, open_factors.known, reached)
    if not reached:
        return replace(Reconstruction.nothing(seen, ""), note=note, trace=trace)
    x = x.reshape(-1, *seen.model.form.shape).to(like(seen))
    residual = torch.full((len(x),), result.residual).to(like(seen))
    y = labels(seen, delta.to(like(seen)), x)
    return Reconstruction(x, y, -residual, residual, note, trace)


def _factors(seen: Observation, stack: Stack, rows: Rows, fit: Fit, at: Unknown) -> Factors:
    """What the head's gradient leaves open without hidden biases: lengths, or signs."""
    if not bool(rows.bias.any()):
        if stack.activation.sloped is not None:
            values = stack.activation.function(rows.project(fit.at.x.T))
            outputs = values.T @ weight_of(seen, stack.head).T
            return lengths(seen, stack, at, outputs)
        if is_odd(stack.activation):
            return signs(at, seen.model.form)
    return Factors(torch.ones(len(at.x), dtype=torch.float64), known=True)


def _trace(plan: Plan, result: _Result, x: Tensor, delta: Tensor) -> dict[str, Any]:
    return {
        "path": plan.path,
        "order": plan.components,
        "residual": result.residual,
        "enough": result.enough,
        "restarts": result.restarts,
        "features": x,
        "output gradients": delta,
    }


def _note(result: _Result, known: bool, reached: bool) -> str:
    if not result.holds:
        return (
            f"not recovered: residual {result.residual:.1e}, where {result.enough:.1e} is needed, "
            f"after {result.restarts} restarts"
        )
    if not known:
        return (
            "not recovered: only up to signs or lengths, which neither the gradient nor the loss "
            "settles"
        )
    if not reached:
        return (
            "not recovered: only the features that the last two fully connected layers read, "
            "in trace['features']"
        )
    return ""
