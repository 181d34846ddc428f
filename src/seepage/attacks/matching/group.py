"""Several searches side by side that agree on one picture."""

import functools

import torch
from torch import Generator, Tensor

from seepage.attacks.matching.invert import Invert
from seepage.attacks.matching.search import Search, answered
from seepage.checks import at_least
from seepage.core import Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value


@value
class Group:
    """`members` searches, each pulled by weight ||u_g - mean||^2 to the mean of all.

    Registered first: images are matched to those of the first member, and shifted by the whole
    pixels (an eighth of the side at most) where they correlate best. The answer is the member, or
    the mean, that explains the update best. Yin et al. 2021, arXiv 2104.07586.
    """

    inner: Invert
    weight: float = 0.01
    members: int = 4

    def __post_init__(self) -> None:
        at_least("Group.weight", self.weight, 0)
        at_least("Group.members", self.members, 2)
        if self.inner.generator is not None:
            raise InvalidInput("Group compares pixels, and its inner attack searches a generator.")

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        seeds = torch.randint(2**62, (self.members,), generator=rng).tolist()
        searches = [self.inner.begin(seen, Generator().manual_seed(seed)) for seed in seeds]
        mean = searches[0].leaves[0]
        for done, factor in self.inner.moments():
            means, mean = agreed([search.leaves[0] for search in searches])
            for search, goal in zip(searches, means, strict=True):
                search.pull = functools.partial(_pull, goal, 2 * self.weight)
                search.step(done, factor)
        return _best(searches, mean)


def agreed(members: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The mean of registered members, as each member sees it, and as the first does."""
    if members[0].ndim != 4:
        mean = torch.stack(members).mean(0)
        return [mean] * len(members), mean
    base = members[0]
    orders = [_order(base, member) for member in members]
    ordered = [member[order] for member, order in zip(members, orders, strict=True)]
    shifts = [_shifts(base, member) for member in ordered]
    registered = [_shifted(m, s) for m, s in zip(ordered, shifts, strict=True)]
    mean = torch.stack(registered).mean(0)
    seen = [
        _shifted(mean, -shift)[order.argsort()] for shift, order in zip(shifts, orders, strict=True)
    ]
    return seen, mean


def _order(base: Tensor, member: Tensor) -> Tensor:
    """Which image of the member belongs to each image of the base."""
    if len(base) == 1:
        return torch.zeros(1, dtype=torch.long, device=base.device)
    from scipy.optimize import linear_sum_assignment

    costs = torch.cdist(base.flatten(1), member.flatten(1)).square()
    found = linear_sum_assignment(costs.cpu().numpy())[1]
    return torch.as_tensor(found, device=base.device)


def _shifts(base: Tensor, member: Tensor) -> Tensor:
    """The shift (down, right) of each image that correlates best with the base, (n, 2)."""
    height, width = base.shape[-2:]
    product = torch.fft.rfft2(base.double()) * torch.fft.rfft2(member.double()).conj()
    gain = torch.fft.irfft2(product, s=(height, width)).sum(1)
    sides = (height, width)
    reach = [torch.arange(-(s // 8), s // 8 + 1, device=base.device) for s in sides]
    near = gain[:, reach[0] % height][:, :, reach[1] % width].flatten(1).argmax(1)
    across = len(reach[1])
    return torch.stack([reach[0][near // across], reach[1][near % across]], 1)


def _shifted(images: Tensor, shifts: Tensor) -> Tensor:
    pairs = zip(images, shifts.tolist(), strict=True)
    return torch.stack([image.roll((down, right), (-2, -1)) for image, (down, right) in pairs])


def _pull(goal: Tensor, weight: float, u: Tensor) -> Tensor:
    return weight * (u - goal)


def _best(searches: list[Search], mean: Tensor) -> Reconstruction:
    found = [(search, *search.best()) for search in searches]
    first = searches[0]
    joint = [mean, *first.leaves[1:]]
    found.append((first, joint, first.problem.measure(joint)))
    search, leaves, measure = min(found, key=lambda one: one[2].misfit)
    x = search.problem.units.x(leaves[0])
    return answered(x, search.problem.labels(leaves), measure, search.record)
