"""Signs, lengths and gradients of the inputs whose directions are known.

A unit direction e with s x = r e weighs l k_p(r) in the p-th moment, k_p(r) = E[He_p(Z) s(rZ)].
Odd moments change sign with e and even ones do not, so two of them settle both signs.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.moments.decompose import Components
from seepage.attacks.moments.hermite import Function, Plan, weighted

_RADII = torch.logspace(-1, 0.9, 61, dtype=torch.float64)
_MOST_FLIPPED = 10


@dataclass(frozen=True)
class Weighed:
    """The moments in the span: first (k), second (k, k), and the components of the p-th."""

    first: Tensor
    second: Tensor
    components: Components


def inputs_from(seen: Weighed, plan: Plan, function: Function, biases: Tensor) -> Tensor:
    """Inputs in the coordinates of the span (B, k): the parity of the moments signs them."""
    unit, high = seen.components.directions, seen.components.coefficients
    odd = torch.linalg.pinv(unit) @ seen.first
    even = _second_weights(unit, seen.second)
    worth = weighted(function, 1.0, biases)
    if plan.path == "C":
        slope = torch.ones_like(high)  # x and l change sign together
    else:
        slope = high * worth[4] if plan.components == 4 else even * worth[2]
    side = torch.sign(odd * worth[1]) * torch.sign(slope)
    low = 1 if plan.path == "C" else 2
    ratio = high.abs() / (odd if low == 1 else even).abs().clamp_min(1e-300)
    radii = _radii(ratio, function, biases, (low, plan.components))
    return (unit * torch.where(side == 0, 1.0, side) * radii).T


def _second_weights(unit: Tensor, second: Tensor) -> Tensor:
    squares = torch.einsum("ai,bi->abi", unit, unit).reshape(-1, unit.shape[1])
    weights: Tensor = torch.linalg.pinv(squares) @ second.reshape(-1)
    return weights


def _radii(ratio: Tensor, function: Function, biases: Tensor, orders: tuple[int, int]) -> Tensor:
    """The lengths at which two moments have these ratios; 1 where the ratio tells nothing."""
    low, high = orders
    table = torch.stack([weighted(function, float(r), biases) for r in _RADII])
    curve = (table[:, high] / table[:, low]).abs()
    steps = curve.diff() / curve.max()
    if not bool((steps > 1e-9).all() or (steps < -1e-9).all()):
        return torch.ones_like(ratio)
    order = curve.argsort()
    place = torch.searchsorted(curve[order], ratio).clamp(0, len(curve) - 1)
    return _RADII[order][place].clamp(0.2, 5.0)


def best_signed(up: Tensor, down: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The signs of the inputs that explain most of g, and the gradients l (n, C).

    `up` and `down` (m, n) are the hidden values of the inputs and of their opposites; all 2^n ways
    are tried, or n flips one at a time.
    """
    n = up.shape[1]
    values = torch.cat([up, down], 1)
    gram, crossed = values.T @ values, values.T @ gradient.T

    def explained(signs: tuple[int, ...]) -> tuple[float, Tensor]:
        picked = torch.tensor([i if s > 0 else i + n for i, s in enumerate(signs)])
        block = gram[picked][:, picked]
        ridge = 1e-13 * block.diagonal().max() * torch.eye(n, dtype=up.dtype)
        slopes = torch.linalg.solve(block + ridge, crossed[picked])
        return float((slopes * crossed[picked]).sum()), slopes

    best = (1,) * n
    if n <= _MOST_FLIPPED:
        # Where both signs explain alike (an odd activation) the given ones stand.
        floor = (1 - 1e-9) * max(explained(s)[0] for s in itertools.product((1, -1), repeat=n))
        ways = sorted(itertools.product((1, -1), repeat=n), key=lambda s: -sum(s))
        best = next(signs for signs in ways if explained(signs)[0] >= floor)
    else:
        for place in range(n):
            flipped = tuple(-s if i == place else s for i, s in enumerate(best))
            best = max(best, flipped, key=lambda signs: explained(signs)[0])
    return torch.tensor(best, dtype=up.dtype), explained(best)[1]
