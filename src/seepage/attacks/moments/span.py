"""The span of the inputs from the second or third moments, and the moments inside it.

With g_j = sum_i l_i s(w_j.x_i), the mean over hidden units of g_j He_p(w_j) estimates
sum_i l_i c_p x_i^(p). Wang, Lee and Lei 2023, arXiv 2212.03714, Algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage.attacks.moments.rows import Rows

_DENSE = 1024


@dataclass(frozen=True)
class LowMoments:
    """The first moments h = mean g u (d, C), and g without its constant and linear parts (m, C)."""

    first: Tensor
    rest: Tensor


def low_moments(rows: Rows) -> LowMoments:
    """Remove what the higher moments do not need: their noise falls by a factor of 3 to 7."""
    gradient = rows.gradient.T
    first = rows.gather(gradient / len(rows))
    return LowMoments(first, gradient - gradient.mean(0) - rows.project(first))


def without_second(projected: Tensor, rest: Tensor, second: Tensor) -> Tensor:
    """Remove the quadratic part inside the span too, which the third and fourth do not need."""
    shape = (projected @ second * projected).sum(1) - second.trace()
    return rest - shape / 2


def second_span(rows: Rows, rest: Tensor, count: int | None, rng: Generator) -> Tensor:
    """The leading eigenvectors of P = mean g (u u^T - I), summed squared over the outputs.

    `rest` (m, C). Above 1024 columns P is only applied, never formed.
    """
    if rows.width <= _DENSE:
        return _leading(_second(rows, rest), count)

    def applied(basis: Tensor) -> list[Tensor]:
        shadows = rows.project(basis)
        return [
            rows.gather(shadows * (one[:, None] / len(rows))) - one.mean() * basis for one in rest.T
        ]

    return _iterated(rows, applied, count, rng)


def third_span(
    rows: Rows, moments: LowMoments, count: int | None, refine: int, rng: Generator
) -> Tensor:
    """The span where second moments vanish: slices of the third, first along mean g u.

    That direction lies in the span and meets every input; a random one meets none.
    """
    rest = moments.rest[:, :1]
    basis: Tensor = moments.first[:, :1] / moments.first[:, :1].norm()
    for _ in range(refine + 1):
        if rows.width <= _DENSE:
            basis = _leading(_slices(rows, rest[:, 0], basis), count)
        else:  # never d x d
            basis = _iterated(rows, _sliced(rows, rest, basis), count, rng)
    return basis


def _iterated(
    rows: Rows, applied: Callable[[Tensor], list[Tensor]], count: int | None, rng: Generator
) -> Tensor:
    """Randomised subspace iteration for matrices that are only applied to a few columns."""
    width = (count or 32) + 4
    basis = torch.linalg.qr(torch.randn(rows.width, width, generator=rng, dtype=torch.float64)).Q
    for _ in range(6):
        made = torch.cat(applied(basis), 1)
        basis = torch.linalg.svd(made, full_matrices=False).U[:, :width]
    inside = torch.stack([basis.T @ part for part in applied(basis)])
    found: Tensor = basis @ _leading(inside, count)
    return found


def _sliced(rows: Rows, rest: Tensor, columns: Tensor) -> Callable[[Tensor], list[Tensor]]:
    weights = rest / len(rows)
    seen, first = rows.project(columns), rows.gather(weights)

    def applied(basis: Tensor) -> list[Tensor]:
        shadows = rows.project(basis)
        return [
            rows.gather(shadows * weights * mark[:, None])
            - first @ (column[None] @ basis)
            - column[:, None] @ (first.T @ basis)
            - (weights[:, 0] @ mark) * basis
            for mark, column in zip(seen.T, columns.T, strict=True)
        ]

    return applied


def _second(rows: Rows, rest: Tensor) -> Tensor:
    m, width = len(rows), rows.width
    found = torch.zeros(rest.shape[1], width, width, dtype=torch.float64)
    for part, units in rows:
        for c in range(rest.shape[1]):
            found[c] += units.T @ (units * (rest[part, c : c + 1] / m))
    return found - rest.mean(0)[:, None, None] * torch.eye(width, dtype=torch.float64)


def _slices(rows: Rows, rest: Tensor, columns: Tensor) -> Tensor:
    """T3(I, I, v) for each column v: symmetric (k, d, d)."""
    m, width = len(rows), rows.width
    shadows = rows.project(columns)
    found = torch.zeros(columns.shape[1], width, width, dtype=torch.float64)
    for part, units in rows:
        for k in range(columns.shape[1]):
            found[k] += units.T @ (units * (rest[part] * shadows[part, k] / m)[:, None])
    first = rows.gather(rest[:, None] / m)[:, 0]
    crossed = torch.einsum("a,bk->kab", first, columns)
    means = (rest[:, None] * shadows).mean(0)
    identity = torch.eye(width, dtype=torch.float64)
    return found - crossed - crossed.transpose(1, 2) - means[:, None, None] * identity


def _leading(matrices: Tensor, count: int | None) -> Tensor:
    """Top eigenvectors of the sum of squares of symmetric matrices; the widest gap by default."""
    if len(matrices) == 1:
        values, vectors = torch.linalg.eigh((matrices[0] + matrices[0].T) / 2)
    else:
        even = (matrices + matrices.transpose(1, 2)) / 2
        values, vectors = torch.linalg.eigh(torch.einsum("kab,kbc->ac", even, even))
    order = values.abs().argsort(descending=True)
    if count is None:
        sizes = values.abs()[order][: max(2, len(values) // 2)]
        count = int((sizes[:-1] / sizes[1:].clamp_min(1e-300)).argmax()) + 1
    leading: Tensor = vectors[:, order[:count]]
    return leading


def component_tensor(projected: Tensor, rest: Tensor, order: int) -> Tensor:
    """The p-th moment inside the span: mean g He_p(V^T u), symmetric of side B.

    Every trace term counts: three ways to pair one index of three, six and three of four.
    """
    m, side = projected.shape
    weights = rest[:, None] / m
    pairs = (projected[:, :, None] * projected[:, None, :]).reshape(m, side * side)
    identity = torch.eye(side, dtype=projected.dtype)
    if order == 2:
        return (projected * weights).T @ projected - rest.mean() * identity
    if order == 3:
        raw = (pairs.T @ (projected * weights)).view(side, side, side)
        first = (weights.T @ projected)[0]
        return raw - symmetrised("a,bc->abc", first, identity)
    raw = (pairs.T @ (pairs * weights)).view(side, side, side, side)
    second = (projected * weights).T @ projected
    constant = rest.mean() * symmetrised("ab,cd->abcd", identity, identity) / 2
    return raw - symmetrised("ab,cd->abcd", second, identity) + constant


def symmetrised(product: str, left: Tensor, right: Tensor) -> Tensor:
    """The sum of an outer product over all distinct ways to hand out its indices."""
    whole = torch.einsum(product, left, right)
    if whole.ndim == 3:
        return whole + whole.permute(1, 0, 2) + whole.permute(1, 2, 0)
    places = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 3, 1), (2, 0, 1, 3), (2, 0, 3, 1), (2, 3, 0, 1)]
    return torch.stack([whole.permute(place) for place in places]).sum(0)
