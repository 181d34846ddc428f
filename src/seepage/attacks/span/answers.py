"""From a solution of the equations to an answer: labels, signs, and how far off it may be."""

import math

import torch
from torch import Tensor

from seepage.attacks.span.activations import Activation
from seepage.attacks.span.equations import Equations, State, Unknown, normal
from seepage.core import Model, Observation
from seepage.forms import Form, Images


def predicted_error(given: Equations, state: State) -> float:
    """sqrt(|r|^2 / (N - k) tr (J^T J)^-1) / |X|: the relative error that the residual implies."""
    matrix, _ = normal(given, state)
    matrix = matrix + 1e-14 * torch.diag(matrix.diagonal())
    n, rank = state.at.x.shape
    inverse = torch.linalg.pinv(matrix, hermitian=True).diagonal().view(n, -1)[:, :rank]
    spare = max(given.size - matrix.shape[0], 1)
    return math.sqrt(state.cost / spare * max(float(inverse.sum()), 0)) / float(state.at.x.norm())


def signed(at: Unknown, activation: Activation, bias: Tensor, x: Tensor, form: Form) -> Tensor:
    """+1 or -1 for each row: without biases an odd activation gives (x, d) and (-x, -d) alike.

    The softmax tells them apart (only the true class pulls its output up), else the form's range.
    """
    ones = torch.ones(len(x), dtype=x.dtype)
    points = torch.linspace(0.1, 3, 7, dtype=torch.float64)
    odd = torch.allclose(activation.function(points), -activation.function(-points), atol=1e-12)
    if bool(bias.any()) or not odd:
        return ones
    if at.delta.shape[1] > 2:
        return torch.where((at.delta < 0).sum(1) > at.delta.shape[1] // 2, -ones, ones)
    if not isinstance(form, Images) or x.shape[1] != math.prod(form.shape):
        return ones
    outside = [_outside(side * x, form) for side in (1, -1)]
    return torch.where(outside[0] > outside[1], -ones, ones)


def _outside(x: Tensor, form: Images) -> Tensor:
    pictures = x.view(-1, *form.shape)
    low, high = form.box(pictures)
    return ((low - pictures).relu() + (pictures - high).relu()).flatten(1).sum(1)


def labels(seen: Observation, delta: Tensor, x: Tensor | None) -> Tensor | None:
    """The labels: the only class whose output the loss pulls up; for one output, by the loss."""
    if delta.shape[1] > 1:
        return delta.argmin(1)
    if x is None:
        return None
    return torch.cat([_target(seen.model, one, d, len(x)) for one, d in zip(x, delta, strict=True)])


def _target(model: Model, x: Tensor, delta: Tensor, n: int) -> Tensor:
    """The label whose loss has this gradient: -1, 0, 1, or any number where it is affine in it."""
    output = model.predict(x[None]).detach()

    def pull(label: float) -> float:
        point = output.clone().requires_grad_()
        with torch.enable_grad():
            loss = model.loss(point, output.new_full((1,), label))
            (gradient,) = torch.autograd.grad(loss, point)
        return float(gradient.sum()) / n

    wanted = float(delta.sum())
    try:
        at = {label: pull(label) for label in (-1.0, 0.0, 1.0)}
    except (RuntimeError, ValueError, IndexError):
        return output.new_full((1,), torch.nan)
    best = min(at, key=lambda label: abs(at[label] - wanted))
    rate = at[1.0] - at[0.0]
    affine = abs(at[1.0] + at[-1.0] - 2 * at[0.0]) < 1e-6 * max(map(abs, at.values()))
    if affine and abs(rate) > 0:
        return output.new_full((1,), (wanted - at[0.0]) / rate)
    return output.new_full((1,), best)
