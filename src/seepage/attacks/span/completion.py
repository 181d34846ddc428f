"""Row spaces of pruned gradients: what was zeroed is filled in as a matrix of low rank."""

from dataclasses import replace

import torch
from torch import Tensor

from seepage.attacks.span.measured import Measured
from seepage.attacks.span.subspace import row_space

_ROUNDS = 200


def pruned(gradient: Tensor) -> bool:
    """Whether entries are missing from rows and columns that have others."""
    shown = gradient[gradient.any(1)][:, gradient.any(0)]
    return float((shown == 0).double().mean()) > 0.02


def completed(given: Measured, gradient: Tensor, weight: Tensor, rank: int) -> Measured | None:
    """The equations of the units that kept most of their gradient, the rest of it filled in.

    Alternating least squares on the entries that were kept: where there are enough of them the
    fit is exact, and so is its row space. The other gradients are pruned too, and left out.
    """
    units = given.reached.nonzero()[:, 0]
    kept = (gradient != 0).sum(1)[units]
    order = kept.argsort(descending=True)
    half = int((kept >= 0.5 * gradient.shape[1]).sum())
    best = order[: max(half, 12 * rank)]
    best = best[kept[best] >= 2 * rank]
    # A matrix of this rank has rank (rows + columns) numbers of its own: fewer fit anything.
    own = rank * (len(best) + int(gradient[units[best]].any(0).sum()))
    if len(best) < 2 * rank or int(kept[best].sum()) < 1.5 * own:
        return None
    filled = _filled(gradient[units[best]], rank)
    space = row_space(filled, 1e-10, rank)
    equations = replace(
        given.equations.rows(best),
        weight=weight[units[best]] @ space.basis,
        weight_gradient=filled @ space.basis,
        bias_gradient=None,
        head_gradient=None,
        head_bias_gradient=None,
    )
    reached = torch.zeros_like(given.reached)
    reached[units[best]] = True
    ordered = equations.rows(units[best].argsort())
    return replace(given, equations=ordered, space=space, reached=reached)


def _filled(gradient: Tensor, rank: int) -> Tensor:
    mask = (gradient != 0).double()
    columns = torch.linalg.svd(gradient, full_matrices=False).Vh[:rank].T
    for _ in range(_ROUNDS):
        rows = _fit(mask, gradient, columns)
        columns = torch.linalg.qr(_fit(mask.T, gradient.T, rows)).Q
    filled: Tensor = _fit(mask, gradient, columns) @ columns.T
    return filled


def _fit(mask: Tensor, values: Tensor, factors: Tensor) -> Tensor:
    """For each row the least-squares combination of the factors on its visible entries."""
    gram = torch.einsum("jd,da,db->jab", mask, factors, factors)
    ridge = 1e-12 * factors.square().mean() * torch.eye(factors.shape[1], dtype=factors.dtype)
    solution: Tensor = torch.linalg.solve(gram + ridge, ((values * mask) @ factors)[..., None])
    return solution[..., 0]
