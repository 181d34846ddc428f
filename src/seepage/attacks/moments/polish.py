"""Refinement on the exact equations g_j = sum_i l_i s(w_j.x_i), a chunk of hidden units at a time.

The moments only start it: what is then reached no longer depends on how well they converge.
"""

from dataclasses import dataclass

from torch import Tensor

from seepage.attacks.moments.rows import Rows
from seepage.attacks.span.activations import Activation, Curve
from seepage.attacks.span.equations import Unknown


@dataclass(frozen=True)
class Fit:
    """A point (x in units of the scale, gradients at the outputs) and how well it explains g."""

    at: Unknown
    curve: Curve
    misfit: Tensor

    @property
    def cost(self) -> float:
        return float(self.misfit.square().sum())

    def relative(self, rows: Rows) -> float:
        """|g - prediction| / |g|."""
        return float(self.misfit.norm() / rows.gradient.norm())


def fitted(rows: Rows, activation: Activation, at: Unknown) -> Fit:
    """The residual at one point."""
    draw = activation.smooth
    curve = draw(rows.project(at.x.T) + rows.bias[:, None])
    return Fit(at, curve, at.delta.T @ curve.value.T - rows.gradient)


def polished(rows: Rows, activation: Activation, start: Unknown, steps: int = 40) -> Fit:
    """Damped Gauss-Newton, each step by conjugate gradients: no Jacobian is ever formed."""
    fit, damp = fitted(rows, activation, start), 1e-3
    for _ in range(steps):
        before = fit.cost
        better = None
        for _ in range(8):
            trial = fitted(rows, activation, _moved(fit.at, _step(rows, fit, damp)))
            if trial.cost < before:
                better = trial
                break
            damp *= 4
        if better is None:
            break
        fit, damp = better, max(damp / 6, 1e-12)
        if before - fit.cost < 1e-4 * before or fit.relative(rows) < 1e-14:
            break
    return fit


def _moved(at: Unknown, step: Unknown) -> Unknown:
    return Unknown(at.x + step.x, at.delta + step.delta)


def _step(rows: Rows, fit: Fit, damp: float) -> Unknown:
    """Solve (J^T J + damp D) step = -J^T r, preconditioned by the diagonal D."""
    inputs = fit.at.delta.square().sum(1, keepdim=True) * fit.curve.rise.square().sum(0)[:, None]
    outputs = fit.curve.value.square().sum(0)[:, None]
    scale = Unknown(inputs.clamp_min(1e-30), outputs.clamp_min(1e-30))
    residual = _scaled(_back(rows, fit, fit.misfit), -1.0)
    solution = _scaled(residual, 0.0)
    ready = _divided(residual, scale)
    direction, power = ready, _dot(residual, ready)
    first = power
    for _ in range(60):
        pushed = _forward(rows, fit, direction)
        applied = _back(rows, fit, pushed)
        applied = Unknown(
            applied.x + damp * scale.x * direction.x,
            applied.delta + damp * scale.delta * direction.delta,
        )
        length = power / _dot(direction, applied).clamp_min(1e-300)
        solution = _sum(solution, direction, length)
        residual = _sum(residual, applied, -length)
        ready = _divided(residual, scale)
        new = _dot(residual, ready)
        if new <= 1e-10 * first:
            break
        direction, power = _sum(ready, direction, new / power), new
    return solution


def _forward(rows: Rows, fit: Fit, step: Unknown) -> Tensor:
    """J step: (C, m)."""
    moved = fit.curve.rise * rows.project(step.x.T)
    return fit.at.delta.T @ moved.T + step.delta.T @ fit.curve.value.T


def _back(rows: Rows, fit: Fit, residual: Tensor) -> Unknown:
    """J^T residual."""
    through = (residual.T @ fit.at.delta.T) * fit.curve.rise
    return Unknown(rows.gather(through).T, (residual @ fit.curve.value).T)


def _dot(left: Unknown, right: Unknown) -> Tensor:
    return (left.x * right.x).sum() + (left.delta * right.delta).sum()


def _sum(left: Unknown, right: Unknown, factor: float | Tensor) -> Unknown:
    return Unknown(left.x + factor * right.x, left.delta + factor * right.delta)


def _scaled(one: Unknown, factor: float) -> Unknown:
    return Unknown(one.x * factor, one.delta * factor)


def _divided(one: Unknown, by: Unknown) -> Unknown:
    return Unknown(one.x / by.x, one.delta / by.delta)
