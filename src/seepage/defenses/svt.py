"""The sparse vector technique on an update."""

import math

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.checks import positive
from seepage.core import Batch, Client, Model, noiseless
from seepage.defenses.percentile import Percentile
from seepage.errors import Failed, InvalidInput
from seepage.tree import Tensors
from seepage.values import value

_PASSES = 10_000


@value
class SVT:
    """Release c = ceil(fraction p) noisy entries among those whose noisy size passes a threshold.

    With v = clamp(u, +-gamma), e1 = epsilon / (1 + (2c)^(2/3)) and e2 = epsilon - e1, an entry
    passes where |v| + Lap(2 gamma c / e2) >= tau + Lap(gamma / e1), and then its
    v + Lap(2 gamma / noise_var) is released; the rest is 0.

    Li et al. 2019, arXiv 1910.00962, as in NVFlare's SVTPrivacy. Its budget for a round is epsilon
    + c noise_var, far more than `epsilon`: see `guard.dp`.
    """

    inner: Client
    fraction: float = 0.1
    epsilon: float = 0.1
    noise_var: float = 0.1
    gamma: float = 1e-5
    tau: float = 1e-6
    replace: bool = True

    def __post_init__(self) -> None:
        for name in ("epsilon", "noise_var", "gamma", "tau"):
            positive(f"SVT.{name}", getattr(self, name))
        if not 0 < self.fraction <= 1:
            raise InvalidInput(f"SVT.fraction={self.fraction} is no share: use 0 < fraction <= 1.")

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        v = tree.flat(update).double().cpu().clamp(-self.gamma, self.gamma)
        chosen = self._chosen(v.detach(), rng)
        noise = _laplace(len(v), 2 * self.gamma / self.noise_var, rng)
        released = torch.zeros_like(v)
        released[chosen] = (v + noise)[chosen]
        sizes = [u.numel() for u in update.values()]
        parts = zip(update.items(), torch.split(released, sizes), strict=True)
        return {name: part.view(u.shape).to(u) for (name, u), part in parts}

    def noiseless(self) -> Client:
        # Which entries are released is chance too: what is left is the clamp.
        return Percentile(noiseless(self.inner), percentile=0.0, gamma=self.gamma)

    def released(self, entries: int) -> int:
        """c, the number of entries released of so many."""
        return math.ceil(self.fraction * entries)

    def _chosen(self, v: Tensor, rng: Generator) -> Tensor:
        count = self.released(len(v))
        first = self.epsilon / (1 + (2 * count) ** (2 / 3))
        threshold = self.tau + _laplace(1, self.gamma / first, rng)
        spread = 2 * self.gamma * count / (self.epsilon - first)
        accepted = torch.zeros(len(v), dtype=torch.bool)
        for _ in range(_PASSES):
            accepted |= v.abs() + _laplace(len(v), spread, rng) >= threshold
            if int(accepted.sum()) >= count:
                return self._sampled(accepted.nonzero().flatten(), count, rng)
        raise Failed(
            f"SVT: fewer than {count} of {len(v)} entries passed the threshold in {_PASSES} "
            "passes. Use a smaller fraction or tau."
        )

    def _sampled(self, places: Tensor, count: int, rng: Generator) -> Tensor:
        if self.replace:
            return places[torch.randint(len(places), (count,), generator=rng)]
        return places[torch.randperm(len(places), generator=rng)[:count]]


def _laplace(size: int, scale: float, rng: Generator) -> Tensor:
    half = torch.rand(size, generator=rng, dtype=torch.float64) - 0.5
    return -scale * half.sign() * torch.log1p(-2 * half.abs())
