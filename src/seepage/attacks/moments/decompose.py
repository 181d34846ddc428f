"""Symmetric tensors as sums of powers: T = sum_i c_i e_i x ... x e_i, with signs.

Directions by Jennrich's simultaneous diagonalisation (Leurgans, Ross and Abel 1993), then
Levenberg-Marquardt on a_i = |c_i|^(1/p) e_i. Power iteration with deflation, often used here, is
wrong by tens of percent when the directions are not orthogonal.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Components:
    """Unit directions e (B, k) in columns, their coefficients c (k), and the relative misfit."""

    directions: Tensor
    coefficients: Tensor
    misfit: float


def decomposed(tensor: Tensor, rng: Generator, count: int | None = None) -> Components:
    """The best fit of `count` powers over ten random mixtures and a few random starts.

    >>> generator = torch.Generator().manual_seed(0)
    >>> e = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    >>> t = torch.einsum("ai,bi,ci,i->abc", e, e, e, torch.tensor([1.0, -2.0, 3.0]).double())
    >>> bool(decomposed(t, generator).misfit < 1e-10)
    True
    """
    side = tensor.shape[0]
    count = count or side
    starts = [_jennrich(tensor, count, rng) for _ in range(10)]
    starts += [torch.randn(side, count, generator=rng, dtype=torch.float64) for _ in range(4)]
    fits = []
    for start in starts:
        unit = start / start.norm(dim=0).clamp_min(1e-300)
        fits.append(_fitted(tensor, unit, _weights(tensor, unit)))
        if fits[-1].misfit < 1e-12:
            break
    return min(fits, key=lambda fit: fit.misfit)


def _jennrich(tensor: Tensor, count: int, rng: Generator) -> Tensor:
    side = tensor.shape[0]
    if tensor.ndim == 3:
        slices = tensor.permute(2, 0, 1)
    else:
        left = torch.linalg.svd(tensor.reshape(side**2, side**2)).U[:, :count]
        slices = left.T.reshape(count, side, side)
    mixes = torch.randn(2, len(slices), generator=rng, dtype=torch.float64)
    first, second = torch.einsum("km,mab->kab", mixes, slices)
    vectors = torch.linalg.eig(first @ torch.linalg.pinv(second)).eigenvectors.real
    found: Tensor = vectors[:, :count]
    return found


def _weights(tensor: Tensor, unit: Tensor) -> Tensor:
    """c from (E^T E)^p c = T(e, ..., e)."""
    gram = (unit.T @ unit) ** tensor.ndim
    weights: Tensor = torch.linalg.pinv(gram) @ _powers(tensor, unit, 0)[:, None]
    return weights[:, 0]


def _powers(tensor: Tensor, columns: Tensor, kept: int) -> Tensor:
    """T(I, a, ..., a) for each column a with `kept` free indices (0 or 1): (k) or (B, k)."""
    found = torch.einsum("...a,ak->...ak", tensor, columns).sum(-2)
    while found.ndim > kept + 1:
        found = torch.einsum("...ak,ak->...k", found, columns)
    return found


def _built(columns: Tensor, signs: Tensor, order: int) -> Tensor:
    if order == 3:
        return torch.einsum("ai,bi,ci,i->abc", columns, columns, columns, signs)
    pairs = torch.einsum("ai,bi->abi", columns, columns)
    return torch.einsum("abi,cdi,i->abcd", pairs, pairs, signs)


def _fitted(tensor: Tensor, unit: Tensor, weights: Tensor) -> Components:
    order, size = tensor.ndim, tensor.norm()
    signs = torch.where(weights < 0, -1.0, 1.0).double()
    columns = unit * weights.abs().clamp_min(1e-12) ** (1 / order)
    residual = _built(columns, signs, order) - tensor
    damp = 1e-3
    for _ in range(60):
        matrix, vector = _system(columns, signs, residual)
        before = residual.norm()
        for _ in range(8):
            damped = matrix + damp * torch.diag(matrix.diagonal() + 1e-12)
            step = torch.linalg.solve(damped, -vector).view_as(columns.T).T
            trial = _built(columns + step, signs, order) - tensor
            if trial.norm() < before:
                break
            damp *= 4
        else:
            break
        columns, residual, damp = columns + step, trial, damp / 5
        if before - residual.norm() < 1e-12 * size:
            break
    lengths = columns.norm(dim=0).clamp_min(1e-300)
    return Components(columns / lengths, signs * lengths**order, float(residual.norm() / size))


def _system(columns: Tensor, signs: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    order, (side, count) = residual.ndim, columns.shape
    gram = columns.T @ columns
    both = signs[:, None] * signs
    same = order * both * gram ** (order - 1)
    crossed = order * (order - 1) * both * gram ** (order - 2)
    matrix = torch.einsum("ij,ab->iajb", same, torch.eye(side, dtype=columns.dtype))
    matrix += torch.einsum("ij,aj,bi->iajb", crossed, columns, columns)
    vector = order * signs * _powers(residual, columns, 1)
    return matrix.reshape(count * side, count * side), vector.T.reshape(-1)
