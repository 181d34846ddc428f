"""Searching the input of a network that makes images, in place of the pixels."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from seepage.attacks.matching.simulator import seeded
from seepage.attacks.units import Units
from seepage.checks import at_least
from seepage.errors import InvalidInput
from seepage.values import value

Render = Callable[[Sequence[Tensor]], Tensor]


class ImageGenerator(Protocol):
    """What is searched at first, and how it becomes a candidate u."""

    def begin(
        self, shape: tuple[int, ...], units: Units, rng: Generator
    ) -> tuple[list[Tensor], Render]: ...


class Hourglass(nn.Module):
    """Down by strided convolutions, up again by doubling: images without noise come easily."""

    def __init__(self, channels: int, depth: int, outputs: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(depth))
        self.up = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.GroupNorm(1, channels) for _ in range(2 * depth))
        self.last = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        sizes, norms = [], iter(self.norms)
        for layer in self.down:
            sizes.append(x.shape[-2:])
            x = nn.functional.leaky_relu(next(norms)(layer(x)), 0.2)
        for layer, size in zip(self.up, reversed(sizes), strict=True):
            x = nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
            x = nn.functional.leaky_relu(next(norms)(layer(x)), 0.2)
        output: Tensor = self.last(x)
        return output


@value
class DeepImage:
    """u = low + (high - low) sigmoid(f(e)): an untrained hourglass f of fixed noise e is searched.

    Ulyanov et al. 2018, arXiv 1711.10925. Use it with an unsigned `Adam(1e-3)`.
    """

    channels: int = 32
    depth: int = 3

    def __post_init__(self) -> None:
        at_least("DeepImage.channels", self.channels, 1)
        at_least("DeepImage.depth", self.depth, 1)

    def begin(
        self, shape: tuple[int, ...], units: Units, rng: Generator
    ) -> tuple[list[Tensor], Render]:
        if len(shape) != 4:
            raise InvalidInput(f"DeepImage makes images, and the data have shape {shape[1:]}.")
        like = units.center
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded(rng))
            network = Hourglass(self.channels, self.depth, shape[1]).to(like)
        noise = torch.randn(
            (shape[0], self.channels, *shape[2:]), generator=rng, dtype=torch.float64
        ).to(like)
        names = [name for name, _ in network.named_parameters()]

        def render(leaves: Sequence[Tensor]) -> Tensor:
            weights = dict(zip(names, leaves, strict=True))
            drawn: Tensor = torch.func.functional_call(network, weights, (noise,))
            return units.low + (units.high - units.low) * drawn.sigmoid()

        return [p.detach() for p in network.parameters()], render


@value
class Learned:
    """x = G(z) for a trained generator G, any module from (n, *latent) to inputs; z is searched.

    Jeon et al. 2021, arXiv 2110.14962. The module's own parameters stay as they are.
    """

    module: nn.Module
    latent: tuple[int, ...]

    def begin(
        self, shape: tuple[int, ...], units: Units, rng: Generator
    ) -> tuple[list[Tensor], Render]:
        start = torch.randn((shape[0], *self.latent), generator=rng, dtype=torch.float64)
        leaf = start.to(units.center)
        made = self.module(leaf)
        if tuple(made.shape) != shape:
            raise InvalidInput(
                f"Learned.module turns {tuple(leaf.shape)} into {tuple(made.shape)}, and the model "
                f"takes {shape}: {math.prod(shape)} numbers in this order."
            )

        def render(leaves: Sequence[Tensor]) -> Tensor:
            return units.u(self.module(leaves[0]))

        return [leaf], render
