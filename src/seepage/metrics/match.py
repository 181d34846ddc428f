"""Which candidate stands for which truth: the assignment with the least total log error."""

import torch
from torch import Tensor

from seepage.errors import InvalidInput

FLOOR = 1e-12
"""Errors below this count as an exact hit, so that rounding does not decide."""

_BLOCK = 2**24


def distances(left: Tensor, right: Tensor) -> Tensor:
    """The mean squared error of every left example (n, ...) to every right one (m, ...): (n, m).

    Whole numbers (tokens) have no distance but equal or not: their error is the share of places
    that differ.

    >>> distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    tensor([[0.0000, 2.5000]], dtype=torch.float64)
    """
    _check_comparable(left, right)
    a, b = left.detach().flatten(1).cpu(), right.detach().flatten(1).cpu()
    if not a.is_floating_point():
        shares = [(row != b).double().mean(1) for row in a]
        return torch.stack(shares)
    total = torch.zeros(len(a), len(b), dtype=torch.float64)
    width = max(1, _BLOCK // (len(a) + len(b)))
    for start in range(0, a.shape[1], width):
        part = slice(start, start + width)
        total += _squares(a[:, part].double(), b[:, part].double())
    return total.clamp_min(0) / a.shape[1]


def _squares(a: Tensor, b: Tensor) -> Tensor:
    # |a - b|^2 = |a|^2 + |b|^2 - 2ab is one matrix product; moving both near zero keeps its digits.
    centre = a.mean(0)
    a, b = a - centre, b - centre
    return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T


def assign(cost: Tensor) -> Tensor:
    """For each truth (row) the candidate (column) that stands for it, or -1 where none is left.

    The assignment minimises sum log10 max(cost, 1e-12). On the plain error it would give up an
    exact hit to make two misses milder. Candidates whose error is not finite match nothing.

    >>> assign(torch.tensor([[1e-9, 0.2], [0.3, 0.6]]))
    tensor([0, 1])
    """
    from scipy.optimize import linear_sum_assignment

    matched = torch.full((len(cost),), -1)
    usable = torch.isfinite(cost).all(0).nonzero().flatten()
    log = cost[:, usable].double().clamp_min(FLOOR).log10()
    rows, columns = map(torch.as_tensor, linear_sum_assignment(log.cpu().numpy()))
    matched[rows] = usable.cpu()[columns]
    return matched


def check_paired(what: str, x: Tensor, truth: Tensor) -> None:
    """Demand one example of x for each truth."""
    if x.shape != truth.shape:
        raise InvalidInput(
            f"{what} compares pairs, and was given {tuple(x.shape)} and {tuple(truth.shape)}. "
            "Match candidates to truths first: metrics.match.assign."
        )


def _check_comparable(left: Tensor, right: Tensor) -> None:
    if left.shape[1:] != right.shape[1:]:
        raise InvalidInput(
            f"examples of shape {tuple(left.shape[1:])} cannot be compared with examples of shape "
            f"{tuple(right.shape[1:])}. Pass both in the form's shape."
        )
