"""Several examples in one gradient, where the last layer has more classes than there are examples.

The last layer's mean gradient is G = K X / n, with k_b = softmax(W x_b) - e_{y_b} the columns of K.
It has rank n, so X = M V with V its row space, and only the n x n numbers of M are open; the
softmax has n (C - 1) equations for them. From there every layer is the least squares of one
example, [W x_b = z_b for every b; sum_b K(k_b) x_b = n g], solved for all inputs at once.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.attacks.rgap.certificate import clamped, verdict
from seepage.attacks.rgap.problem import Problem
from seepage.attacks.rgap.recursion import Step, back
from seepage.attacks.rgap.refine import settled
from seepage.chains import layer_rank
from seepage.core import Batch, Observation, Reconstruction

_CHOICES, _STARTS = 20, 8
_SOLVED, _EXACT = 1e-6, 1e-5


@dataclass(frozen=True, eq=False)
class Several:
    """n examples with their labels, the steps behind them, and the certificate."""

    x: Tensor
    y: Tensor
    trail: list[Step]
    residual: float


def separable(problem: Problem, n: int) -> bool:
    """Whether the last layer has an equation for every number that is open."""
    classes = problem.chain.layers[-1].outputs[0]
    return problem.loss.kind == "softmax" and not problem.clipped and n < classes


def separated(problem: Problem, n: int, told: Tensor | None, tol: float, rng: Generator) -> Several:
    """All examples of a batch, from the last layer to the first."""
    chain = problem.chain
    x, k, labels = _head(problem, n, told, rng)
    gradient = tree.scale(problem.gradient, n)
    trail = [Step(x, k)]
    for i in reversed(range(len(chain.layers) - 1)):
        trail.insert(0, back(chain, i, gradient, trail[0], tol))
    found = chain.before.turned(trail[0].x).z.reshape(n, *chain.shape)
    y = torch.tensor(labels, device=found.device)
    made = Several(found, y, trail, problem.misfit(Batch(found, y)))
    if made.residual <= _EXACT:
        return made
    # A unit within rounding of its kink may have ended on the wrong side: see `settled`.
    each = [settled(chain, one, [step.of(b) for step in trail]) for b, one in enumerate(found)]
    moved = dataclasses.replace(made, x=torch.stack(each))
    moved = dataclasses.replace(moved, residual=problem.misfit(Batch(moved.x, y)))
    return min(made, moved, key=lambda several: several.residual)


def answer(found: Several, problem: Problem, seen: Observation) -> Reconstruction:
    """The examples; their one certificate is that of the batch."""
    like, n = next(iter(seen.model.params.values())), len(found.x)
    belief = verdict(found.residual, problem.relative)
    note = _failure(found, problem) if belief == "failed" else ""
    residual = like.new_full((n,), found.residual)
    x = torch.stack([clamped(one, seen.model.form) for one in found.x]).to(like)
    rows = [
        step.row(layer, layer_rank(layer, n) - n * layer.unknowns)
        for layer, step in zip(problem.chain.layers, found.trail, strict=True)
    ]
    return Reconstruction(x, found.y, -residual, residual, note, {"layers": rows, "belief": belief})


def _failure(found: Several, problem: Problem) -> str:
    n = len(found.x)
    start = f"not recovered (residual {found.residual:.1e})"
    for layer in reversed(problem.chain.layers):
        short = n * layer.unknowns - layer_rank(layer, n)
        if short > 0:
            return f"{start}: layer '{layer.name}' is short of {short} equations for {n} examples"
    return f"{start}: the last layer was not separated, or signs were lost to noise"


def _head(
    problem: Problem, n: int, told: Tensor | None, rng: Generator
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Inputs, error signals and labels of the last layer: the choice of labels that fits best."""
    best, least = None, torch.inf
    for labels in _choices(problem, n, told):
        fit = _Fit.of(problem, n, labels)
        mixing = fit.solved(rng)
        misfit = float(fit.misfit(mixing).norm())
        if best is None or misfit < least:
            best, least = (fit, mixing), misfit
        if least < _SOLVED:
            break
    assert best is not None
    fit, mixing = best
    return mixing @ fit.rows, fit.error(mixing).T, fit.labels


def _choices(problem: Problem, n: int, told: Tensor | None) -> Iterator[tuple[int, ...]]:
    """The told labels, or those whose e_y - 1/C lies nearest to the columns of G, then repeats."""
    if told is not None:
        yield tuple(int(label) for label in told)
        return
    weight = problem.weight(-1)
    span = torch.linalg.svd(weight, full_matrices=False)[0][:, :n]
    classes = len(weight)
    errors = torch.eye(classes, dtype=weight.dtype, device=weight.device) - 1 / classes
    nearest = (errors - span @ (span.T @ errors)).norm(dim=0).argsort()[:n].tolist()
    repeats = itertools.combinations_with_replacement(nearest, n)
    yield from sorted(repeats, key=lambda labels: -len(set(labels)))[:_CHOICES]


@dataclass(frozen=True, eq=False)
class _Fit:
    """K M = N with K = softmax(M A + b)^T - E: the head with its labels, and M unknown."""

    scores: Tensor
    shift: Tensor
    wanted: Tensor
    rows: Tensor
    labels: tuple[int, ...]

    @classmethod
    def of(cls, problem: Problem, n: int, labels: tuple[int, ...]) -> "_Fit":
        layer, weight = problem.chain.layers[-1], problem.weight(-1)
        left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
        rows = right[:n]
        shift = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias
        return cls(rows @ layer.weight.T, shift, n * left[:, :n] * sizes[:n], rows, labels)

    def error(self, mixing: Tensor) -> Tensor:
        """K, a column for each example."""
        chances = torch.softmax(mixing @ self.scores + self.shift, 1)
        told = torch.eye(len(self.shift)).to(chances)[list(self.labels)]
        return (chances - told).T

    def misfit(self, mixing: Tensor) -> Tensor:
        """(K M - N) / |N|."""
        gap: Tensor = (self.error(mixing) @ mixing - self.wanted) / self.wanted.norm()
        return gap.flatten()

    def solved(self, rng: Generator) -> Tensor:
        """Gauss-Newton from M = K^+ N with K at equal chances, then with K disturbed.

        Examples of one label begin alike, and only a disturbance parts them.
        """
        even = self.error(torch.zeros_like(self.wanted[: len(self.rows)]))
        tried = []
        for i in range(_STARTS):
            size = 0.0 if i == 0 else (0.3, 0.03)[i % 2]
            chance = torch.randn(even.shape, generator=rng, dtype=torch.float64).to(even)
            tried.append(self._descended(torch.linalg.pinv(even + size * chance) @ self.wanted))
            if float(self.misfit(tried[-1]).norm()) < _SOLVED:
                break
        return min(tried, key=lambda mixing: float(self.misfit(mixing).norm()))

    def _descended(self, mixing: Tensor) -> Tensor:
        best = float(self.misfit(mixing).norm())
        for _ in range(40):
            slopes = torch.func.jacrev(self.misfit)(mixing).flatten(1)
            step = -(torch.linalg.pinv(slopes) @ self.misfit(mixing)).view_as(mixing)
            sizes = [0.5**i for i in range(12)]
            least, size = min((float(self.misfit(mixing + s * step).norm()), s) for s in sizes)
            if least >= best:
                break
            mixing, best = mixing + size * step, least
        return mixing
