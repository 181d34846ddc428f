"""What sorting n examples into k equally likely bins is expected to recover, in closed form."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seepage.errors import InvalidInput

__all__ = [
    "bins",
    "isolated",
    "one_shot",
    "one_shot_mass",
    "peeled",
    "published",
    "simulated",
    "singletons",
    "variance",
]


def singletons(n: int, k: int, dropped: int = 0) -> float:
    """E = n (1 - 1/k)^(n-1): the expected number of examples alone in their bin.

    Each example is alone where the n - 1 others, independent, miss its bin. `dropped` bins whose
    content is not read (the top one, say) take their share away: times 1 - dropped/k.

    >>> round(singletons(64, 128), 2)
    39.05
    """
    _counts(n, k)
    return n * (1 - 1 / k) ** (n - 1) * (1 - dropped / k)


def published(n: int, k: int) -> float:
    """n k (k-1) / ((n+k-1) (n+k-2)) - n/k: the law of Fowl et al. 2021 (arXiv 2110.13057).

    It is their sum in closed form. It takes every pattern of occupied bins for equally likely,
    which independent examples are not: compare `singletons` and `simulated`.

    >>> round(published(64, 128), 2)
    28.17
    """
    _counts(n, k)
    return n * k * (k - 1) / ((n + k - 1) * (n + k - 2)) - n / k


def variance(n: int, k: int) -> float:
    """E + n (n-1) (k-1)/k (1 - 2/k)^(n-2) - E^2: the variance of the number of singletons.

    >>> round(variance(64, 128) ** 0.5, 2)
    4.61
    """
    expected = singletons(n, k)
    if n == 1:
        return 0.0
    pairs = n * (n - 1) * (k - 1) / k * (1 - 2 / k) ** (n - 2)
    return expected + pairs - expected**2


def bins(n: int, share: float) -> int:
    """The fewest bins that are expected to isolate this share of n examples.

    (1 - 1/k)^(n-1) >= share  <=>  k >= 1 / (1 - share^(1/(n-1)))

    >>> bins(64, 0.5)
    92
    """
    if not 0 < share < 1:
        raise InvalidInput(f"share={share} must lie between 0 and 1: all of them needs infinity.")
    if n == 1:
        return 1
    return math.ceil(1 / -math.expm1(math.log(share) / (n - 1)) - 1e-9)


def one_shot(n: int, mass: float) -> float:
    """n p (1 - p)^(n-1): the chance that a bin of mass p holds exactly one of n examples.

    >>> round(one_shot(16384, one_shot_mass(16384)), 4)
    0.3679
    """
    if not 0 <= mass <= 1:
        raise InvalidInput(f"mass={mass} is not a probability.")
    _counts(n, 1)
    return n * mass * (1 - mass) ** (n - 1)


def one_shot_mass(n: int) -> float:
    """The best mass of a single bin: p = 1/n, where the chance tends to 1/e from above."""
    _counts(n, 1)
    return 1 / n


def isolated(n: int, rows: int) -> float:
    """n (1 - (1-q)^k), q = (1/n) (1 - 1/n)^(n-1): examples alone in one of k independent traps.

    >>> round(isolated(64, 128), 1)
    33.6
    """
    _counts(n, rows)
    alone = (1 - 1 / n) ** (n - 1) / n
    return n * -math.expm1(rows * math.log1p(-alone)) if n > 1 else 1.0


def simulated(n: int, k: int, draws: int, rng: torch.Generator) -> Tensor:
    """(draws,) numbers of singletons of independent examples: the law without any formula."""
    _counts(n, k)
    placed = torch.randint(k, (draws, n), generator=rng)
    held = torch.zeros(draws, k, dtype=torch.long)
    held.scatter_add_(1, placed, torch.ones_like(placed))
    return (held == 1).sum(1)


def peeled(cells: Tensor | Sequence[Sequence[int]]) -> int:
    """How many examples peeling finds, told only which bin each falls into in each direction.

    `cells` is (P, n). An example alone in a bin of any direction is found and leaves the bins of
    all others, until no bin holds exactly one: what an attack on gradients can at best do.

    >>> peeled([[0, 0, 1, 1], [0, 1, 1, 2]])
    4
    """
    cells = torch.as_tensor(cells)
    left = torch.ones(cells.shape[1], dtype=torch.bool)
    while True:
        alone = torch.zeros_like(left)
        for row in cells:
            held = torch.bincount(row[left], minlength=int(row.max()) + 1)
            alone |= left & (held[row] == 1)
        if not bool(alone.any()):
            return int((~left).sum())
        left &= ~alone


def _counts(n: int, k: int) -> None:
    if n < 1 or k < 1:
        raise InvalidInput(f"n={n} examples and k={k} bins must be at least 1.")
