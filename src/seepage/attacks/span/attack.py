"""Span: the row space of a gradient is the span of the inputs, and a small problem finds them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from seepage.attacks.span import depth
from seepage.attacks.span.activations import Activation, named
from seepage.attacks.span.answers import labels, predicted_error, slope_misfit
from seepage.attacks.span.completion import completed, pruned
from seepage.attacks.span.equations import State, Unknown, evaluated
from seepage.attacks.span.layers import Stack, stack_of
from seepage.attacks.span.measured import (
    Measured,
    exact,
    floor_of,
    measured,
    required,
    weight_of,
)
from seepage.attacks.span.peeling import peeled
from seepage.attacks.span.scale import factors
from seepage.attacks.span.search import Found, Search, Sought, affordable, best, refined
from seepage.checks import at_least
from seepage.core import Observation, Reconstruction
from seepage.values import value


@value
class Span:
    """All inputs of a two-layer network from one gradient: G_W = M X, so rows(G_W) = span{x_i}.

    In coordinates of that span the network's width no longer matters: the n (r + C) unknowns
    (inputs and gradients at the outputs) solve M X = G_W, M 1 = G_b, D^T H^T = G_A, D^T 1 = G_c
    exactly, from random starts. Wang, Lee and Lei 2023, arXiv 2212.03714, give the equations'
    setting; a residual at rounding level certifies the answer, any other is "not recovered".
    In deeper networks the last two fully connected layers give the features that they read
    (`trace["features"]`), and layers below them are then inverted one by one, down to the data
    where every layer is fully connected. A search makes at most `starts` starts, and fewer where
    the unknowns are so many that each takes minutes.

    >>> from seepage import FedSGD, observe, stream, zoo
    >>> photos = zoo.photos(4, 16)
    >>> model = photos.model(zoo.two_layer(768, 64, "gelu", classes=8, seed=0))
    >>> seen = observe(model, photos.batch, FedSGD(), stream(0, "client"))
    >>> answer = Span()(seen, stream(0, "attack"))
    >>> answer.note, bool(answer.residual.max() < 2e-6)
    ('', True)
    """

    starts: int = 40
    rows: int = 16
    tol: float | None = None
    activation: str | Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        at_least("Span.starts", self.starts, 1)
        at_least("Span.rows", self.rows, 2)
        if self.tol is not None:
            at_least("Span.tol", self.tol, 0)
        told(self.activation)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        stack = stack_of(seen.model, told(self.activation))
        given = measured(seen, stack, None, rng)
        if too_many := _too_many(seen, given):
            return Reconstruction.nothing(seen, too_many)
        solution = self._solution(seen, stack, given, rng)
        if not solution.holds:
            solution = self._completed(seen, stack, solution, rng)
        return _answer(seen, stack, solution)

    def _completed(
        self, seen: Observation, stack: Stack, solution: "_Solution", rng: Generator
    ) -> "_Solution":
        """Where the gradient has holes, as pruning leaves them: fill them, and try again."""
        gradient = required(seen, stack.hidden.weight)
        if seen.n is None or not pruned(gradient):
            return solution
        weight = weight_of(seen, stack.hidden)
        given = completed(solution.given, gradient, weight, seen.n)
        if given is None or _too_many(seen, given):
            return solution
        again = self._solution(seen, stack, given, rng)
        return min(solution, again, key=lambda one: one.found.residual / one.enough)

    def _solution(
        self, seen: Observation, stack: Stack, given: Measured, rng: Generator
    ) -> "_Solution":
        enough = max(exact(seen), 1.1 * given.noise) if self.tol is None else self.tol
        search = Search(self.starts, self.rows, enough, 8 if given.noise > 0 else 1)
        tried = []
        for found in _tried(seen, stack, given, search, rng):
            tried.append(found)
            if found.residual <= enough:
                break
        least = min(tried, key=lambda one: one.residual)
        return _Solution(given, least, enough, sum(one.starts for one in tried))


@dataclass(frozen=True)
class _Solution:
    given: Measured
    found: Found
    enough: float
    starts: int

    @property
    def holds(self) -> bool:
        """Whether all equations hold, of a gradient that n examples can have: of rank n at most."""
        possible = self.given.noise > 0 or self.given.space.rank <= len(self.found.state.at.x)
        return possible and self.found.residual <= self.enough


def told(activation: str | Callable[[Tensor], Tensor] | None) -> Activation | None:
    """The activation that a user named or passed."""
    if activation is None:
        return None
    return named(activation) if isinstance(activation, str) else Activation("given", activation)


def _tried(
    seen: Observation, stack: Stack, given: Measured, search: Search, rng: Generator
) -> Iterator[Found]:
    """What comes off a kinked network without a search, then searches for what is left."""
    equations, activation, counts = given.equations, stack.activation, _counts(seen, given)
    none = known = Unknown(equations.weight[:0], equations.head.T[:0])
    if activation.sloped is not None and given.noise == 0:
        misfit = slope_misfit(seen, stack)
        known = peeled(equations, activation.sloped, counts[0], floor_of(seen), misfit)
        if len(known.x) in counts:
            yield refined(equations, activation, known, search.enough)
    for count in counts:
        sought = Sought(count, known if len(known.x) < count else none)
        yield best(equations, activation, sought, search, rng)


def _counts(seen: Observation, given: Measured) -> Sequence[int]:
    rank = given.space.rank
    if seen.n is None or seen.n <= rank:
        return [seen.n or rank]
    return [seen.n, rank]


def _too_many(seen: Observation, given: Measured) -> str | None:
    rank, classes = given.space.rank, len(given.equations.head)
    most = min(given.space.spectrum.numel(), rank)
    if given.space.full and seen.n is None:
        return (
            f"batch too large for this layer: its gradient has full rank {most}, so neither the "
            "number of inputs nor their span can be read from it"
        )
    unknowns = _counts(seen, given)[0] * (rank + classes)
    if given.equations.size < unknowns:
        return (
            f"batch too large for this layer: {unknowns} unknowns and only "
            f"{given.equations.size} equations (entries of the update that are not zero)"
        )
    return None


def _answer(seen: Observation, stack: Stack, solution: _Solution) -> Reconstruction:
    state, certain = _settled(seen, stack, solution.given, solution.found.state)
    level = depth.top(seen, stack.hidden, state, solution.given)
    features = level.inputs
    layers = stack.layers[:-2] if solution.holds and certain else ()
    for layer in reversed(layers):
        lower = depth.below(seen, layer, level)
        if lower is None:
            break
        level = lower
    reached = stack.reads_data and level.inputs.shape[1] == math.prod(seen.model.form.shape)
    trace = _trace(solution, features, state.at.delta, like(seen))
    note = _note(seen, solution, reached, certain)
    if solution.holds and solution.given.noise == 0 and trace["predicted error"] > 1e-3:
        vague = f"inputs nearly coincide: settled to about {trace['predicted error']:.0e} at best"
        note = "; ".join(part for part in (note, vague) if part)
    if not reached:
        nothing = Reconstruction.nothing(seen, "")
        return replace(nothing, note=note, trace=trace)
    x = level.inputs.reshape(-1, *seen.model.form.shape).to(like(seen))
    y = labels(seen, state.at.delta.to(like(seen)), x)
    residual = torch.full((len(x),), level.residual).to(like(seen))
    return Reconstruction(x, y, -residual, residual, note, trace)


def _settled(seen: Observation, stack: Stack, given: Measured, state: State) -> tuple[State, bool]:
    """The solution with its open signs and lengths settled, and whether something settled them."""
    chosen = factors(seen, stack, given, state)
    by = chosen.values[:, None]
    at = Unknown(state.at.x * by, state.at.delta / by)
    z = given.equations.weight @ at.x.T + given.equations.bias[:, None]
    activation = stack.activation
    draw = activation.smooth if activation.sides is None else activation.frozen(z > 0)
    return evaluated(given.equations, draw, at), chosen.known


def like(seen: Observation) -> Tensor:
    """A tensor with the dtype and device that an answer has."""
    return next(iter(seen.model.params.values()))


def _trace(solution: _Solution, features: Tensor, delta: Tensor, as_this: Tensor) -> dict[str, Any]:
    return {
        "rank": solution.given.space.rank,
        "starts": solution.starts,
        "residual": solution.found.residual,
        "enough": solution.enough,
        "holds": solution.holds,
        "predicted error": predicted_error(solution.given, solution.found.state),
        "features": features.to(as_this),
        "output gradients": delta.to(as_this),
    }


def _spent(solution: _Solution) -> str:
    unknowns = solution.found.state.at.flat.numel()
    if solution.starts < affordable(solution.given.equations, unknowns):
        return ""
    return f" (with {unknowns} unknowns more would take too long: attack smaller batches)"


def _note(seen: Observation, solution: _Solution, reached: bool, certain: bool) -> str:
    rank = solution.given.space.rank
    few = seen.n is not None and rank < seen.n
    parts = [f"rank {rank} for {seen.n} examples: some are duplicates or dead"] if few else []
    if not solution.holds and solution.found.residual <= solution.enough:
        parts.insert(
            0,
            f"not recovered: rank {rank}, which is more than a gradient of {seen.n} examples has",
        )
    elif not solution.holds:
        parts.insert(
            0,
            f"not recovered: residual {solution.found.residual:.1e} after "
            f"{solution.starts} starts, where {solution.enough:.1e} is needed{_spent(solution)}",
        )
    elif not certain:
        parts.insert(
            0,
            "not recovered: only up to signs or lengths, which neither the gradient nor the loss "
            "settles in a network without hidden biases",
        )
    elif not reached:
        parts.insert(
            0,
            "not recovered: only the features that the last two fully connected layers "
            "read, in trace['features']",
        )
    elif solution.given.noise > 0:
        parts.append("explains the update as well as its noise allows, which certifies nothing")
    return "; ".join(parts)
