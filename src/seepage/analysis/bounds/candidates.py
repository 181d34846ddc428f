"""Which of some candidates was it: what noise leaves of the answer, for any data, text too."""

import math

import scipy
import torch
from torch import Generator, Tensor

from seepage.analysis.bounds.bound import Bound
from seepage.checks import positive
from seepage.errors import InvalidInput

_PRIOR = "the candidates are equally likely and one of them is the truth"


def pair_accuracy(one: Tensor, other: Tensor, std: float) -> Bound:
    """Phi(|G - G'| / 2 sigma): the best share of right answers between two updates.

    >>> pair_accuracy(torch.tensor([0.0]), torch.tensor([2.0]), std=1.0).value
    0.8413447460685429
    """
    positive("pair_accuracy.std", std)
    distance = float((one - other).double().norm())
    value = float(scipy.special.ndtr(distance / (2 * std)))
    return Bound(value, "probability", "certified", ("both are equally likely",))


def best_identification(updates: Tensor, std: float, draws: int, rng: Generator) -> Bound:
    """The best attacker's success: mean over y of max_i softmax(-|y - G_i|^2 / 2 sigma^2).

    One row of `updates` for each candidate.
    """
    positive("best_identification.std", std)
    rows = _reduced(_rows(updates))
    truth = torch.randint(len(rows), (draws,), generator=rng)
    noise = torch.randn((draws, rows.shape[1]), generator=rng, dtype=torch.float64)
    seen = rows[truth] + std * noise
    best = (-torch.cdist(seen, rows).square() / (2 * std**2)).softmax(1).amax(1)
    mean, error = float(best.mean()), 2.576 * float(best.std()) / draws**0.5
    reach = max(mean - error, 0.0), min(mean + error, 1.0)
    return Bound(mean, "probability", "estimated", (_PRIOR, f"{draws} draws, 99%"), reach)


def fano(updates: Tensor, std: float) -> Bound:
    """Success <= (mean pair KL + ln 2) / ln M, with KL = |G_i - G_j|^2 / 2 sigma^2."""
    positive("fano.std", std)
    rows = _rows(updates)
    divergence = torch.cdist(rows, rows).square().mean() / (2 * std**2)
    value = min(1.0, (float(divergence) + math.log(2)) / math.log(len(rows)))
    return Bound(value, "probability", "certified", (_PRIOR,))


def le_cam(x: Tensor, other: Tensor, distance: float, std: float) -> Bound:
    """Worst error >= |x - x'| Phi(-|G - G'| / 2 sigma), over the two inputs with updates G, G'."""
    positive("le_cam.std", std)
    apart = float((x - other).double().norm())
    value = apart * float(scipy.special.ndtr(-distance / (2 * std)))
    return Bound(value, "distance", "certified", ("worst case over the two inputs",))


def _rows(updates: Tensor) -> Tensor:
    if updates.ndim < 2 or len(updates) < 2:
        raise InvalidInput(
            f"candidates' updates of shape {tuple(updates.shape)}: stack at least two, a row each."
        )
    return updates.flatten(1).double()


def _reduced(rows: Tensor) -> Tensor:
    """The same distances in as many coordinates as there are candidates: noise beside is noise."""
    centred = rows - rows.mean(0)
    if rows.shape[1] <= len(rows):
        return centred
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    turned: Tensor = left * sizes
    return turned
