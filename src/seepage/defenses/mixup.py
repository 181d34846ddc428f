"""Mixtures of examples in place of examples."""

import torch
from torch import Generator, Tensor
from torch.nn import functional

from seepage.checks import at_least
from seepage.core import Batch, Client, Model, noiseless
from seepage.defenses.chance import mask
from seepage.errors import Failed, InvalidInput
from seepage.tree import Tensors
from seepage.values import value

_TRIES = 10_000


@value
class MixUp:
    """The inner client on x~_i = sum_j lambda_ij x_(pi_j(i)), with mixed labels.

    k examples of the batch go into each mixture, the first of them i itself; lambda is uniform on
    the simplex, drawn again until its largest is at most `cap`. Zhang et al. 2018, arXiv
    1710.09412. An attacker reads mixtures off as it would read examples.
    """

    inner: Client
    k: int = 2
    cap: float = 0.65

    def __post_init__(self) -> None:
        _check("MixUp", self.k, self.cap)

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        return self.inner(model, mixed(model, batch, self.k, self.cap, rng), rng)

    def noiseless(self) -> Client:
        return noiseless(self.inner)


@value
class InstaHide:
    """As `MixUp`, and then each pixel's sign is flipped at random.

    Huang et al. 2020, arXiv 2010.02772. Carlini et al. 2021, arXiv 2011.05315, undo it.
    """

    inner: Client
    k: int = 4
    cap: float = 0.65

    def __post_init__(self) -> None:
        _check("InstaHide", self.k, self.cap)

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        plain = mixed(model, batch, self.k, self.cap, rng)
        signs = 2 * mask(plain.x.numel(), 0.5, plain.x, rng).view(plain.x.shape) - 1
        return self.inner(model, Batch(plain.x * signs, plain.y), rng)

    def noiseless(self) -> Client:
        return noiseless(self.inner)


def mixed(model: Model, batch: Batch, k: int, cap: float, rng: Generator) -> Batch:
    """Every example mixed with k - 1 others of its batch, and labels likewise."""
    if batch.y is None or not batch.x.is_floating_point():
        raise InvalidInput(
            "a mixture needs numbers with class labels, not text: use Noise or Prune."
        )
    n, y = len(batch), batch.y
    shares = simplex(n, k, cap, rng)
    labels = y if y.is_floating_point() else functional.one_hot(y, model.form.classes).to(batch.x)
    x_total, y_total = torch.zeros_like(batch.x), torch.zeros_like(labels)
    for j in range(k):
        order = torch.randperm(n, generator=rng) if j else torch.arange(n)
        order = order.to(batch.x.device)
        x_total = x_total + _rows(shares[:, j], batch.x) * batch.x[order]
        y_total = y_total + _rows(shares[:, j], labels) * labels[order]
    return Batch(x_total, y_total)


def simplex(n: int, k: int, cap: float, rng: Generator) -> Tensor:
    """n points with k coordinates, uniform among those that add up to one with none above cap."""
    found = torch.empty(0, k, dtype=torch.float64)
    for _ in range(_TRIES):
        waits = -(-torch.rand((4 * n, k), generator=rng, dtype=torch.float64)).log1p()
        shares = waits / waits.sum(1, keepdim=True)
        found = torch.cat([found, shares[shares.amax(1) <= cap]])
        if len(found) >= n:
            return found[:n]
    raise Failed(f"no mixture with all shares at most {cap} in {_TRIES} tries. Use a larger cap.")


def _rows(factors: Tensor, like: Tensor) -> Tensor:
    return factors.view(-1, *[1] * (like.ndim - 1)).to(like)


def _check(owner: str, k: int, cap: float) -> None:
    at_least(f"{owner}.k", k, 1)
    if not 1 / k < cap <= 1 and not (k == 1 and cap == 1):
        raise InvalidInput(
            f"{owner}.cap={cap}: the largest of {k} shares is above {1 / k:.3g} and at most 1, "
            "so use a cap between."
        )
