"""The rate bound: what noise lets through in nats limits how well any data can be rebuilt."""

import math

import scipy
import torch
from torch import Generator, Tensor

from seepage import accounting
from seepage.analysis.bounds.bound import Bound
from seepage.analysis.bounds.channel import ONCE, Channel, noise_of
from seepage.analysis.bounds.prior import Spread
from seepage.checks import at_least
from seepage.errors import InvalidInput


def water_filled(sizes: Tensor, nats: float) -> float:
    """The least mean squared error of a Gaussian vector described in R nats.

    (1/N) sum min(theta, s_i) with sum max(0, ln(s_i / theta) / 2) = R, s_i the eigenvalues of its
    covariance. Cover and Thomas 2006, chapter 10.

    >>> round(water_filled(torch.tensor([1.0, 1.0]), math.log(2)), 4)
    0.5
    """
    at_least("water_filled.nats", nats, 0)
    s = sizes.double().clamp(min=1e-300)
    if nats == 0:
        return float(s.mean())

    def excess(level: float) -> float:
        return float((s.log() - level).clamp(min=0).sum()) / 2 - nats

    top = float(s.log().max())
    level = scipy.optimize.brentq(excess, float(s.log().min()) - 2 * nats / len(s) - 1, top)
    return float(s.clamp(max=math.exp(level)).mean())


def private_records(
    prior: Spread, multiplier: float, rounds: int = 1, rate: float = 1.0, spare: float = 0.0
) -> Bound:
    """Of one record under DP-SGD: R = T / 2z^2 nats, or T KL(P||Q) where batches are sampled.

    Any network, any attack that knows the other records. `spare` nats are added for what else the
    answer is chosen by, such as a scorer who picks the nearest of e^spare candidates.

    >>> from seepage.analysis.bounds import Gaussian
    >>> prior = Gaussian(torch.zeros(1, 1, 2), torch.eye(2).double())
    >>> round(private_records(prior, multiplier=1.0).value, 4)
    0.6065
    """
    nats = rounds * accounting.divergence(rate, multiplier) + spare
    value = water_filled(prior.spectrum, nats)
    why = (prior.about, f"{nats:.4g} nats let through")
    return Bound(value, "mean squared error", "certified", why)


def any_network(
    channel: Channel, samples: int, directions: int, rng: Generator, spare: float = 0.0
) -> Bound:
    """R <= 1/2 sum_(i<=k) ln(1 + l_i/s^2) + (p-k)/2 ln(1 + r/((p-k) s^2)): smooth or not.

    The k directions come from half of the samples' gradients, the energies l_i along them and the
    rest r from the other half, given the known labels: pruning, signs and ReLU are allowed.
    `spare` as in `private_records`.
    """
    std, kind, relative = noise_of(channel.client, channel.n)
    if kind != "gauss" or relative:
        raise InvalidInput("the rate bound needs Gaussian noise of a fixed standard deviation.")
    one, two = (_gradients(channel, samples, rng) for _ in range(2))
    center = one.mean(0)
    along = _along(one - center, two - center, directions)
    total = (two - center).square().sum(1).mean()
    rest = float((total - along.sum()).clamp(min=0))
    nats = float((along / std**2).log1p().sum()) / 2 + spare
    left = one.shape[1] - len(along)
    if left:
        nats += left / 2 * math.log1p(rest / (left * std**2))
    sizes = channel.prior.spectrum.repeat(channel.n)
    why = (channel.prior.about, ONCE, f"2 x {samples} samples")
    return Bound(water_filled(sizes, nats), "mean squared error", "estimated", why)


def bits(prior: Spread, number: float, n: int = 1) -> Bound:
    """Without noise: an update of this many bits carries R = bits ln 2 nats."""
    value = water_filled(prior.spectrum.repeat(n), number * math.log(2))
    why = (prior.about, f"the update fits in {number:g} bits")
    return Bound(value, "mean squared error", "certified", why)


def _along(one: Tensor, two: Tensor, directions: int) -> Tensor:
    """The mean energies of `two` along the largest principal directions of `one`."""
    # Of many entries: by the products of the rows alone, which are few.
    squares, sides = torch.linalg.eigh(one @ one.T)
    k = min(directions, len(one) - 1, one.shape[1])
    squares, sides = squares.flip(0)[:k], sides.flip(1)[:, :k]
    known = squares > 1e-12 * squares[0]
    within = two @ one.T @ sides[:, known] / squares[known].sqrt()
    energies: Tensor = within.square().mean(0)
    return energies


def _gradients(channel: Channel, samples: int, rng: Generator) -> Tensor:
    return torch.stack([channel.gradient(channel.sample(rng)).detach() for _ in range(samples)])
