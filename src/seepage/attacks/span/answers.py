"""From a solution of the equations to an answer: labels, and how far off it may be."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from seepage.attacks.span.equations import State, normal
from seepage.attacks.span.layers import Stack
from seepage.attacks.span.measured import Measured, bias_of
from seepage.core import Model, Observation


def predicted_error(given: Measured, state: State) -> float:
    """The relative error that the residual implies, to within a small factor.

    Two parts: sqrt(|r|^2 / (N - k) tr (J^T J)^-1) for the coordinates in the row space, and the
    noise that the spectrum shows below the rank, carried through M^+, for the space itself.
    """
    equations, space = given.equations, given.space
    if not bool(state.curve.slope.isfinite().all() and state.back.isfinite().all()):
        return math.inf
    matrix, _ = normal(equations, state)
    n, rank = state.at.x.shape
    inverse = _inverted(matrix).diagonal().view(n, -1)[:, :rank]
    spare = max(equations.size - matrix.shape[0], 1)
    inside = state.cost / spare * max(float(inverse.sum()), 0.0)
    rows, columns = len(equations.weight), len(space.basis)
    rest = max((rows - rank) * (columns - rank), 1)
    density = float(space.spectrum[rank:].square().sum()) / rest
    through = torch.linalg.pinv(state.back * state.curve.slope)
    outside = density * (columns - rank) * float(through.square().sum())
    return math.sqrt(inside + outside) / float(state.at.x.norm())


def _inverted(matrix: Tensor) -> Tensor:
    """The inverse of J^T J, or where rounding makes it singular, ten times as slow, its
    pseudo-inverse; infinite where there is not even that."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not int(failed):
        return torch.cholesky_inverse(factor)
    try:
        pseudo: Tensor = torch.linalg.pinv(matrix, rtol=1e-15, hermitian=True)
    except RuntimeError:  # eigenvalues that did not converge
        return torch.full_like(matrix, torch.inf)
    return pseudo


def labels(seen: Observation, delta: Tensor, x: Tensor) -> Tensor:
    """The labels: the only class whose output the loss pulls up; for one output, by the loss."""
    if delta.shape[1] > 1:
        return delta.argmin(1)
    outputs = seen.model.predict(x).detach().reshape(len(x), 1).double()
    wanted = (delta * len(x)).reshape(-1).double()
    pulls = [slopes_of_loss(seen.model, outputs, label) for label in (-1.0, 0.0, 1.0)]
    at = torch.stack([pull.reshape(-1) for pull in pulls if pull is not None] or [wanted])
    if len(at) < 3:
        return torch.full_like(delta.reshape(-1), torch.nan)
    # A squared loss is affine in its label, whatever number that is; others have labels of -1..1.
    rate = at[2] - at[1]
    curved = (at[0] + at[2] - 2 * at[1]).abs() > 1e-6 * at.abs().amax(0)
    nearest = (at - wanted).abs().argmin(0) - 1.0
    return torch.where(curved | (rate == 0), nearest, (wanted - at[1]) / rate).to(delta)


def slope_misfit(seen: Observation, stack: Stack) -> Callable[[Tensor, Tensor], Tensor]:
    """How far gradients at the head's outputs are from the loss's, (k, C) both, without its bias.

    Up to a factor, since clients share means and steps. Fewer than four classes agree by chance.
    """
    bias = bias_of(seen, stack.head)

    def misfit(outputs: Tensor, delta: Tensor) -> Tensor:
        outputs, labels = outputs + bias, delta.argmin(1)
        apart = torch.full((len(delta),), torch.inf, dtype=delta.dtype)
        if not stack.ends or len(bias) < 4:
            return apart
        for label in set(labels.tolist()):
            some = labels == label
            slopes = slopes_of_loss(seen.model, outputs[some], label)
            if slopes is None:
                return apart
            unit, wanted = functional.normalize(slopes), delta[some]
            rest = wanted - unit * (unit * wanted).sum(1, keepdim=True)
            apart[some] = rest.norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-300)
        return apart

    return misfit


def slopes_of_loss(model: Model, outputs: Tensor, label: float) -> Tensor | None:
    """dL/do of each output as a batch of its own with this label; None where the loss refuses."""
    kind = torch.int64 if isinstance(label, int) else outputs.dtype
    wanted = torch.tensor([label], device=outputs.device).to(kind)
    points = outputs.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            losses = [model.loss(point[None], wanted) for point in points]
            (slopes,) = torch.autograd.grad(torch.stack(losses).sum(), points)
    except (RuntimeError, ValueError, IndexError):
        return None
    return slopes.detach()
