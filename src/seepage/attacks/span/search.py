"""Starts and stages: from random guesses to a solution of all equations, or the best one found."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from seepage.attacks.span.activations import Activation
from seepage.attacks.span.equations import Equations, State, Unknown, evaluated
from seepage.attacks.span.kinks import judged, sharpened, softened, without
from seepage.attacks.span.levenberg import Damping, solved

# Multiplications of a whole search: some minutes. A solve takes about as many steps.
_WORK, _STEPS = 1e12, 80


@dataclass(frozen=True)
class Search:
    """How long to look, and when a solution counts: at a relative residual of `enough`.

    With noise a false solution may count too, so at least `least` starts compete.
    """

    starts: int
    rows: int
    enough: float
    least: int = 1


@dataclass(frozen=True)
class Found:
    """The best state over all starts, on all equations, and how many starts it took."""

    state: State
    starts: int

    @property
    def residual(self) -> float:
        return math.sqrt(self.state.cost)


@dataclass(frozen=True)
class Sought:
    """How many examples explain the equations, and those of them that are known already."""

    count: int
    known: Unknown


def refined(given: Equations, activation: Activation, known: Unknown, enough: float) -> Found:
    """Known examples as an answer of their own, solved to the end where they are not yet."""
    state = judged(given, activation, known)
    if math.sqrt(state.cost) > enough:
        state = sharpened(given, activation, known)
    return Found(state, 0)


def best(
    given: Equations, activation: Activation, sought: Sought, search: Search, rng: Generator
) -> Found:
    """Start afresh until all equations hold, and keep the best; or until it has cost too much."""
    unknowns = sought.count * (given.weight.shape[1] + len(given.head))
    starts = min(search.starts, affordable(given, unknowns))
    tries = _attempts(given, activation, sought, replace(search, starts=starts), rng)
    kept: Found | None = None
    for number, state in enumerate(tries, 1):
        if kept is None or state.cost < kept.state.cost:
            kept = Found(state, number)
        if kept.residual <= search.enough and number >= search.least:
            return kept
    if kept is None:
        start = guess(given, activation, sought.count - len(sought.known.x), rng)
        return Found(judged(given, activation, sought.known.joined(start)), 0)
    return Found(kept.state, starts)


def affordable(given: Equations, unknowns: int) -> int:
    """How many starts a search may make: none where a single one would take an hour.

    A step forms J^T J from the hidden units, and factorises it.
    """
    step = len(given.weight) * unknowns**2 + unknowns**3 / 3
    return int(_WORK / (_STEPS * step))


def _attempts(
    given: Equations, activation: Activation, sought: Sought, search: Search, rng: Generator
) -> Iterator[State]:
    known, count = sought.known, sought.count - len(sought.known.x)
    rest = without(given, activation, known) if len(known.x) else given
    for _ in range(search.starts):
        if activation.sides is None:
            some = _chosen(given, search.rows * count, rng)
            start = guess(some, activation, count, rng)
            state = solved(some, activation.smooth, start, Damping())
            yield _finished(given, activation, state, search)
        else:
            some = _chosen(rest, 2 * search.rows * count, rng)
            start = softened(some, activation, guess(some, activation, count, rng), rng)
            yield sharpened(given, activation, known.joined(start))


def _finished(given: Equations, activation: Activation, state: State, search: Search) -> State:
    whole = evaluated(given, activation.smooth, state.at)
    if whole.cost > max(1e-2, (3 * search.enough) ** 2):
        return whole
    return solved(given, activation.smooth, state.at, Damping(start=1e-6))


def guess(given: Equations, activation: Activation, count: int, rng: Generator) -> Unknown:
    """A random start: inputs around their weighted mean, gradients of random labels."""
    x = _guessed_inputs(given, count, rng)
    classes = len(given.head)
    if classes == 1 or given.bias_gradient is None or given.weight_gradient is None:
        delta = _least_delta(given, activation, x)
    else:
        delta = _label_delta(count, classes, rng).to(x)
    return Unknown(x, _scaled(given, activation, x, delta))


def _guessed_inputs(given: Equations, count: int, rng: Generator) -> Tensor:
    rank = given.weight.shape[1]
    noise = torch.randn(count, rank, generator=rng, dtype=torch.float64)
    bias, weight = given.bias_gradient, given.weight_gradient
    if bias is not None and weight is not None:
        centre = (weight.T @ bias) / bias.square().sum()
        # Collinear inputs (features of deep networks) spread unevenly, and G_W shows how much:
        # half of the starts follow its spectrum.
        spectrum = weight.norm(dim=0) / weight.norm(dim=0).max()
        even = bool(torch.randint(2, (), generator=rng))
        around: Tensor = centre + 0.5 * centre.norm() * (noise if even else noise * spectrum)
        return around
    # Without biases nothing tells the size of the inputs: take one that the activation feels.
    size = float((0.5 * torch.randn((), generator=rng)).exp()) / _typical(given.weight)
    if count > rank:
        return size * noise / math.sqrt(rank)
    orthogonal: Tensor = torch.linalg.qr(noise.T)[0].T
    return size * orthogonal


def _typical(weight: Tensor) -> float:
    return max(float(weight.square().mean().sqrt()), 1e-300)


def _label_delta(count: int, classes: int, rng: Generator) -> Tensor:
    labels = torch.randint(classes, (count,), generator=rng)
    hot = torch.nn.functional.one_hot(labels, classes)
    noise = 1e-3 * torch.randn(count, classes, generator=rng, dtype=torch.float64)
    delta: Tensor = (1 / classes - hot) / count + noise
    return delta


def _least_delta(given: Equations, activation: Activation, x: Tensor) -> Tensor:
    """The gradients at the outputs that fit best for these inputs: all equations are linear."""
    draw = activation.smooth if activation.sides is None else activation.softened(5.0)
    empty = Unknown(x, x.new_zeros(len(x), len(given.head)))
    state = evaluated(given, draw, empty)
    matrix, vector = _linear_part(given, state)
    damped = matrix + 1e-12 * matrix.diagonal().max() * torch.eye(len(matrix), dtype=x.dtype)
    delta = torch.linalg.solve(damped, -vector).view(len(x), -1)
    least = 1e-3 * delta.abs().max()
    return torch.where(delta.abs() < least, torch.where(delta < 0, -least, least), delta)


def _linear_part(given: Equations, state: State) -> tuple[Tensor, Tensor]:
    from seepage.attacks.span.equations import normal

    matrix, vector = normal(given, state)
    n, rank = state.at.x.shape
    width = rank + len(given.head)
    whole = matrix.view(n, width, n, width)[:, rank:, :, rank:]
    size = n * len(given.head)
    return whole.reshape(size, size), vector.view(n, width)[:, rank:].reshape(size)


def _scaled(given: Equations, activation: Activation, x: Tensor, delta: Tensor) -> Tensor:
    """Match the size of the head's gradient: a client's learning rate multiplies all gradients."""
    if given.head_gradient is None:
        return delta
    values = activation.function(given.weight @ x.T + given.bias[:, None])
    made = delta.T @ values.T
    ratio = (made * given.head_gradient).sum() / made.square().sum().clamp_min(1e-300)
    return delta * ratio.abs() if float(ratio.abs()) > 0 else delta


def _chosen(given: Equations, count: int, rng: Generator) -> Equations:
    order = torch.randperm(len(given.weight), generator=rng)
    return given if count >= len(order) else given.rows(order[:count])
