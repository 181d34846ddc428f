"""Bins narrower than a batch: rows that wait for one example of thousands."""

import torch
from torch import Tensor

from seepage.guard.scan import duplicates

__all__ = ["narrowest"]

_SAME = 0.999


def narrowest(weight: Tensor, bias: Tensor, x: Tensor) -> tuple[float, tuple[int, ...]]:
    """The mass of the narrowest bin between parallel rows, by the client's own law of w.x.

    Rows i, j with the same direction w cut h = w.x at c_i and c_j; an example of this client falls
    between them with probability p = F(c_j) - F(c_i), F fitted to its batch. The sum over 1/p such
    examples isolates one of them in 1/e of rounds (Fowl et al. 2021, the one-shot attack).
    Returns (1, ()) where no rows are parallel.
    """
    left = list(duplicates(weight))
    best: tuple[float, tuple[int, ...]] = (1.0, ())
    while left:
        rows = weight[left].double()
        length = rows.norm(dim=1)
        w = rows[0] / length[0]
        cosine = rows @ w / length
        group = torch.nonzero(cosine.abs() >= _SAME).flatten()
        edges, order = (-bias.double()[left][group] / (cosine[group] * length[group])).sort()
        members = [left[i] for i in group[order].tolist()]
        h = x.double() @ w
        shares = torch.special.ndtr((edges - h.mean()) / h.std().clamp_min(1e-300))
        masses = shares.diff()
        inner = torch.nonzero((masses > 0) & (edges.diff() > 0)).flatten().tolist()
        for i in inner:
            best = min(best, (float(masses[i]), (members[i], members[i + 1])))
        left = [row for row in left if row not in set(members)]
    return best
