"""Where the search begins, in the coordinates of `Units`."""

from typing import Protocol

import torch
from torch import Generator, Tensor

from seepage.attacks.units import Units
from seepage.checks import at_least
from seepage.errors import InvalidInput
from seepage.values import value


class Start(Protocol):
    """A first candidate u of a shape, for labels where they are known."""

    def __call__(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> Tensor: ...


@value
class Normal:
    """u ~ N(0, 1)."""

    def __call__(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(units.center)


@value
class Uniform:
    """u uniform in the box, or in [-1, 1] where there is none."""

    def __call__(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> Tensor:
        share = torch.rand(shape, generator=rng, dtype=torch.float64).to(units.center)
        low = torch.where(units.low.isfinite(), units.low, -1)
        high = torch.where(units.high.isfinite(), units.high, 1)
        return low + share * (high - low)


@value
class Gray:
    """u = 0, the middle."""

    def __call__(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> Tensor:
        return units.center.new_zeros(shape)


@value
class Small:
    """u = 0.1 N(0, 1), clamped to 0.1 either side."""

    def __call__(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> Tensor:
        drawn = torch.randn(shape, generator=rng, dtype=torch.float64)
        return (0.1 * drawn).clamp(-0.1, 0.1).to(units.center)


@value
class Pattern:
    """One k x k patch of noise, tiled over the image. Wei et al. 2020, arXiv 2004.10397."""

    side: int = 4

    def __post_init__(self) -> None:
        at_least("Pattern.side", self.side, 1)

    def __call__(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> Tensor:
        if len(shape) != 4:
            raise InvalidInput(f"Pattern tiles images, and the data have shape {shape[1:]}.")
        n, channels, height, width = shape
        patch = torch.randn((n, channels, self.side, self.side), generator=rng, dtype=torch.float64)
        times = (-(-height // self.side), -(-width // self.side))
        return patch.repeat(1, 1, *times)[..., :height, :width].to(units.center)


@value
class StartFrom:
    """Begin at given inputs; fewer than n are repeated."""

    x: Tensor

    def __call__(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> Tensor:
        _check_shape("StartFrom.x", self.x, shape)
        times = -(-shape[0] // len(self.x))
        begin = self.x.to(units.center).repeat(times, *[1] * (self.x.ndim - 1))
        return units.u(begin[: shape[0]])


@value
class ClassMean:
    """The mean of public examples of each label. Wei et al. 2020, arXiv 2004.10397.

    A label that no public example has, or that is not known, gets the mean of all.
    """

    x: Tensor
    y: Tensor

    def __call__(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> Tensor:
        _check_shape("ClassMean.x", self.x, shape)
        pools = _pools(self.y, y, shape[0])
        means = torch.stack([self.x[pool].mean(0) for pool in pools])
        return units.u(means.to(units.center))


@value
class SameClass:
    """A random public example of each label. Wei et al. 2020, arXiv 2004.10397.

    A label that no public example has, or that is not known, gets one of all.
    """

    x: Tensor
    y: Tensor

    def __call__(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> Tensor:
        _check_shape("SameClass.x", self.x, shape)
        pools = _pools(self.y, y, shape[0])
        picked = [pool[int(torch.randint(len(pool), (), generator=rng))] for pool in pools]
        return units.u(self.x[torch.stack(picked)].to(units.center))


def _pools(public: Tensor, y: Tensor | None, n: int) -> list[Tensor]:
    """The places of the public examples that share each of n labels, or of all."""
    every = torch.arange(len(public))
    if y is None or y.is_floating_point():
        return [every] * n
    found = [every[(public == label).cpu()] for label in y]
    return [pool if len(pool) else every for pool in found]


def _check_shape(what: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(x.shape[1:]) != tuple(shape[1:]):
        raise InvalidInput(
            f"{what} has examples of shape {tuple(x.shape[1:])}, and the model takes "
            f"{tuple(shape[1:])}. Pass inputs as the model takes them."
        )
