"""Solving to the end what a search brought near: damped Gauss-Newton steps in double precision."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seepage import tree
from seepage.attacks.matching.problem import Problem
from seepage.attacks.matching.search import Search, answered
from seepage.checks import at_least
from seepage.clients import FedSGD
from seepage.core import Batch, Model, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value

_KINKED = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Threshold,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool2d,
)
_LARGEST, _AT_ONCE = 4096, 192
_SOLVED, _STALLED, _LEAST = 1e-27, 1e3, 1e-18

Residual = Callable[[Tensor], Tensor]


@value
class LM:
    """(J J^T + k mean(diag) I) d = -J r with r(u) = (G(u) - g) / ||g||, k falling as it succeeds.

    Levenberg 1944, Marquardt 1963, applied to the update of one gradient on a smooth network: a
    candidate of 30 dB becomes exact. For one example with a known label, one row of the last
    weight stands for all (they are multiples of it). `gigabytes` bounds the Jacobian.
    """

    steps: int = 20
    gigabytes: float = 2.0

    def __post_init__(self) -> None:
        at_least("LM.steps", self.steps, 1)

    def __call__(self, search: Search) -> Reconstruction:
        leaves, before = search.best()
        problem = search.problem
        self._check(problem, leaves)
        u = problem.u(leaves).double()
        found = self._solved(_residual(problem, u), u, search)
        after = problem.measure([found])
        if after.misfit < before.misfit:
            u, before = found, after
        x = problem.units.x(u.to(problem.units.center))
        return answered(x, problem.y, before, search.record)

    def _solved(self, residual: Residual, u: Tensor, search: Search) -> Tensor:
        shape, damping = u.shape, 1e-9
        point, rest = u.flatten(), residual(u.flatten())
        for _ in range(self.steps):
            slopes = _jacobian(residual, point)
            gram, right = slopes @ slopes.T, -(slopes @ rest)
            accepted = False
            while not accepted and damping <= _STALLED:
                moved = point + _damped(gram, right, damping)
                new = residual(moved)
                accepted = bool(new.square().sum() < rest.square().sum())
                damping = max(damping / 10, _LEAST) if accepted else damping * 10
            if not accepted:
                search.record.remarks.append("finisher stalled")
                break
            point, rest = moved, new
            if float(rest.square().sum()) < _SOLVED:
                break
        return point.view(shape)

    def _check(self, problem: Problem, leaves: Sequence[Tensor]) -> None:
        size = problem.u(leaves).numel()
        rows = tree.size(problem.match.observed)
        model = problem.exact.model
        kinks = {type(m).__name__ for m in model.module.modules() if isinstance(m, _KINKED)}
        reasons = [
            (bool(kinks), f"the network has {', '.join(sorted(kinks))}, which has kinks"),
            (size > _LARGEST, f"the batch has {size} entries, more than {_LARGEST}"),
            (
                8e-9 * size * rows > self.gigabytes,
                f"its Jacobian takes {8e-9 * size * rows:.1f} GB",
            ),
            (problem.exact.client != FedSGD(), "the believed client is not one plain gradient"),
            (problem.scored, "the labels are searched too"),
        ]
        for refused, why in reasons:
            if refused:
                raise InvalidInput(f"LM cannot finish here: {why}. Use Invert(finish=None).")


@dataclass(frozen=True, eq=False)
class _Rows:
    """Which entries of the update are compared."""

    names: list[str]
    cut: dict[str, int]

    def flat(self, tensors: tree.Tensors) -> Tensor:
        """They in one vector."""
        parts = [
            tensors[name][self.cut[name]] if name in self.cut else tensors[name]
            for name in self.names
        ]
        return torch.cat([part.reshape(-1) for part in parts])


def _residual(problem: Problem, u: Tensor) -> Residual:
    exact = problem.exact.doubled()
    observed = tree.mapped(lambda g: g.double(), problem.match.observed)
    rows = _Rows(list(observed), _one_row(exact.model, problem.y, observed))
    goal, length = rows.flat(observed), tree.norm(observed)
    center, scale = problem.units.center.double(), problem.units.scale.double()
    gradient = torch.func.grad(exact.model.risk)

    def residual(point: Tensor) -> Tensor:
        batch = Batch(center + scale * point.view(u.shape), problem.y)
        update = gradient(dict(exact.model.params), batch)
        return (rows.flat(update) - goal) / length

    return residual


def _one_row(model: Model, y: Tensor | None, observed: tree.Tensors) -> dict[str, int]:
    """The last matrix with a row for each class, where one example makes all rows multiples."""
    last = [name for name, g in observed.items() if g.ndim == 2 and len(g) == model.form.classes]
    known = y is not None and len(y) == 1 and not y.is_floating_point()
    return {last[-1]: int(y[0])} if last and known and y is not None else {}


def _jacobian(residual: Residual, point: Tensor) -> Tensor:
    """Each row the residual's derivative in one entry of the point."""

    def along(direction: Tensor) -> Tensor:
        slope: Tensor = torch.func.jvp(residual, (point,), (direction,))[1]
        return slope

    directions = torch.eye(len(point), dtype=point.dtype, device=point.device)
    parts = [torch.func.vmap(along)(part) for part in torch.split(directions, _AT_ONCE)]
    return torch.cat(parts)


def _damped(gram: Tensor, right: Tensor, damping: float) -> Tensor:
    ridge = damping * gram.diagonal().mean()
    lifted = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(lifted)
    if bool(failed):
        return torch.full_like(right, math.nan)
    return torch.cholesky_solve(right[:, None], factor)[:, 0]
