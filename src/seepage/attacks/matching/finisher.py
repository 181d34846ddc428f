"""Solving to the end what a search brought near: damped Gauss-Newton steps in double precision."""

import math
import warnings
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
_SOLVED, _STALLED, _LEAST = 3e-14, 1e3, 1e-18
# Below this cost the update's own rounding counts, and all of its entries average it out.
_NEAR = 1e-10

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
        point, rest, damping = u.flatten(), residual(u.flatten()), 1e-9
        floor = _precision(search.problem) ** 2
        sketches = (_Sketch.of(len(rest), len(point), rest), _Sketch.of(len(rest), len(rest), rest))
        for _ in range(self.steps):
            cost = float(rest.square().sum())
            near = cost < _NEAR
            sketch = sketches[near]
            slopes = _jacobian(residual, point, sketch)
            system = slopes @ slopes.T, -(slopes @ sketch(rest))
            moved, new, damping = _accepted(residual, (point, cost), system, damping)
            if new is None:
                search.record.remarks.append("finisher stalled")
                break
            point, rest = moved, new
            left = float(rest.square().sum())
            if left < floor or (near and left > cost / 2):
                break
        return point.view(u.shape)

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


@dataclass(frozen=True, eq=False)
class _Sketch:
    """Random signed sums of a residual's entries: 1.5 of them for each unknown.

    A consistent system stays consistent and keeps its solution, and its normal matrix costs a
    fraction. Clarkson and Woodruff 2013, arXiv 1207.6365.
    """

    bucket: Tensor
    sign: Tensor
    size: int

    @classmethod
    def of(cls, rows: int, unknowns: int, like: Tensor) -> "_Sketch":
        """A fixed draw; fewer rows than that stay as they are."""
        size, rng = int(1.5 * unknowns), torch.Generator().manual_seed(0)
        if rows <= size:
            plain = torch.arange(rows, device=like.device)
            return cls(plain, torch.ones_like(like), rows)
        bucket = torch.randint(size, (rows,), generator=rng).to(like.device)
        sign = 2.0 * torch.randint(2, (rows,), generator=rng).to(like) - 1
        return cls(bucket, sign, size)

    def __call__(self, rows: Tensor) -> Tensor:
        """The sums along the last dimension."""
        sums = rows.new_zeros((*rows.shape[:-1], self.size))
        return sums.index_add_(-1, self.bucket, rows * self.sign)


def _accepted(
    residual: Residual, at: tuple[Tensor, float], system: tuple[Tensor, Tensor], damping: float
) -> tuple[Tensor, Tensor | None, float]:
    """The first step, damped more and more, that lowers the cost; no residual where none does."""
    point, cost = at
    while damping <= _STALLED:
        moved = point + _damped(*system, damping)
        new = residual(moved)
        if bool(new.square().sum() < cost):
            return moved, new, max(damping / 10, _LEAST)
        damping *= 10
    return point, None, damping


def _precision(problem: Problem) -> float:
    """The relative distance to which the update itself was rounded."""
    kinds = [g.dtype for g in problem.match.observed.values()]
    return max(_SOLVED, *(1.5 * torch.finfo(kind).eps for kind in kinds))


def _jacobian(residual: Residual, point: Tensor, sketch: _Sketch) -> Tensor:
    """Each row the residual's derivative in one entry of the point, sketched."""

    def along(direction: Tensor) -> Tensor:
        slope: Tensor = torch.func.jvp(residual, (point,), (direction,))[1]
        return slope

    directions = torch.eye(len(point), dtype=point.dtype, device=point.device)
    with warnings.catch_warnings():
        # Forward derivatives in torch 2.13 still use a part of it that warns that it is old.
        warnings.simplefilter("ignore", DeprecationWarning)
        parts = [sketch(torch.func.vmap(along)(part)) for part in torch.split(directions, _AT_ONCE)]
    return torch.cat(parts)


def _damped(gram: Tensor, right: Tensor, damping: float) -> Tensor:
    ridge = damping * gram.diagonal().mean()
    lifted = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(lifted)
    if bool(failed):
        return torch.full_like(right, math.nan)
    return torch.cholesky_solve(right[:, None], factor)[:, 0]
