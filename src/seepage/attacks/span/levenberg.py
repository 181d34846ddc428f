"""Levenberg-Marquardt on the gradient's equations: damped Gauss-Newton steps that never go up."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.span.activations import Drawing
from seepage.attacks.span.equations import Equations, State, Unknown, evaluated, normal


@dataclass(frozen=True)
class Damping:
    """How a solve is damped, and when it stops."""

    steps: int = 80
    start: float = 1e-2
    up: float = 4.0
    down: float = 6.0
    tries: int = 10
    enough: float = 1e-28
    stalled: float = 1e-13


def solved(given: Equations, draw: Drawing, start: Unknown, damping: Damping) -> State:
    """The best state that damped Gauss-Newton steps reach from a start."""
    state, damp = evaluated(given, draw, start), damping.start
    for _ in range(damping.steps):
        if not state.cost > damping.enough:
            break
        matrix, vector = normal(given, state)
        better = None
        for _ in range(damping.tries):
            better = _tried(given, draw, state, _step(matrix, vector, damp))
            if better is not None:
                break
            damp *= damping.up
        if better is None:
            break
        drop, state = state.cost - better.cost, better
        damp = max(damp / damping.down, 1e-15)
        if drop < damping.stalled * state.cost:
            break
    return state


def _tried(given: Equations, draw: Drawing, state: State, step: Tensor | None) -> State | None:
    if step is None:
        return None
    new = evaluated(given, draw, state.at.moved(step))
    return new if new.cost < state.cost else None


def _step(matrix: Tensor, vector: Tensor, damp: float) -> Tensor | None:
    diagonal = matrix.diagonal()
    damped = matrix + torch.diag(damp * (diagonal + 1e-12 * diagonal.max()))
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):
        return None
    return -torch.cholesky_solve(vector[:, None], factor)[:, 0]
