"""What real data look like: terms added to the misfit."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from seepage.checks import at_least
from seepage.errors import InvalidInput
from seepage.values import value

_SMALL = 1e-8


@runtime_checkable
class PixelPrior(Protocol):
    """A term of the candidate alone: its value and its derivative in u."""

    def of_pixels(self, u: Tensor) -> tuple[Tensor, Tensor]: ...


@value
class TV:
    """weight mean (|dx|^p + |dy|^p)^q over neighbouring pixels: natural images are flat.

    Rudin, Osher and Fatemi 1992. `colour` also counts the differences between channels, as if
    they were images. Differences are one-sided, and there is none at the border.

    >>> TV(2.0).of_pixels(torch.tensor([[[[0.0, 1.0]]]]))[1]
    tensor([[[[-1.,  1.]]]])
    """

    weight: float = 1e-5
    p: float = 1.0
    q: float = 1.0
    colour: bool = False

    def __post_init__(self) -> None:
        at_least("TV.weight", self.weight, 0)

    def of_pixels(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if u.ndim != 4:  # the entries of a table have no neighbours
            return u.new_zeros(()), torch.zeros_like(u)
        if self.colour and u.shape[1] != 3:
            raise InvalidInput(
                f"TV(colour=True) compares three channels, and the images have {u.shape[1]}. "
                "Use colour=False."
            )
        if not self.colour:
            return self._plain(u)
        rolled = u.roll(-1, 1)  # R-G, G-B, B-R: the sign of a difference does not matter
        term, slope = self._plain(torch.cat([u, u - rolled], 1))
        own, between = slope[:, :3], slope[:, 3:]
        return term, own + between - between.roll(1, 1)

    def _plain(self, u: Tensor) -> tuple[Tensor, Tensor]:
        right, down = torch.zeros_like(u), torch.zeros_like(u)
        torch.sub(u[..., :, 1:], u[..., :, :-1], out=right[..., :, :-1])
        torch.sub(u[..., 1:, :], u[..., :-1, :], out=down[..., :-1, :])
        across, along = right.abs() + _SMALL, down.abs() + _SMALL
        total = across**self.p + along**self.p
        outer = self.q * total ** (self.q - 1) * (self.weight / u.numel())
        across = outer * self.p * across ** (self.p - 1) * right.sign()
        along = outer * self.p * along ** (self.p - 1) * down.sign()
        slope = -(across + along)
        slope[..., :, 1:] += across[..., :, :-1]
        slope[..., 1:, :] += along[..., :-1, :]
        return self.weight * (total**self.q).mean(), slope


@value
class L2Prior:
    """weight mean(u^2) / 2: values near the middle."""

    weight: float = 1e-6

    def __post_init__(self) -> None:
        at_least("L2Prior.weight", self.weight, 0)

    def of_pixels(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.weight * u.square().mean() / 2, u * (self.weight / u.numel())


Prior = PixelPrior
