"""Activations that can be turned around: z and the derivative from the output alone."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

_EDGE = 1e-12

Kind = Literal["kinked", "rectified", "smooth", "affine"]


@dataclass(frozen=True, eq=False)
class Elementwise:
    """One elementwise map x = f(z), its inverse, and f'(z) written in terms of x.

    `kinked` maps are positively homogeneous with two slopes, `rectified` ones lose the negative
    side, `affine` ones are BatchNorm in eval mode and the identity.
    """

    name: str
    kind: Kind
    apply: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    odd: bool = False
    homogeneous: bool = False
    range: tuple[float, float] = (-math.inf, math.inf)
    slope: Tensor | float = 1.0


@dataclass(frozen=True, eq=False)
class Turned:
    """What an activation's output tells: its input z, the derivative there, and where it is known.

    `known` is None where every unit is known (all but ReLU), `saturated` counts the entries that
    lay outside the range of the activation and were moved inside.
    """

    z: Tensor
    derivative: Tensor
    known: Tensor | None = None
    saturated: int = 0


@dataclass(frozen=True, eq=False)
class Activation:
    """All elementwise maps between two layers, in order; none is the identity."""

    steps: tuple[Elementwise, ...] = ()

    @property
    def name(self) -> str:
        return "+".join(step.name for step in self.steps) or "Identity"

    @property
    def homogeneous(self) -> bool:
        """f(c z) = c f(z) for every c > 0."""
        return all(step.homogeneous for step in self.steps)

    @property
    def odd(self) -> bool:
        """f(-z) = -f(z)."""
        return all(step.odd for step in self.steps)

    @property
    def kinked(self) -> bool:
        return any(step.kind == "kinked" for step in self.steps)

    @property
    def rectified(self) -> bool:
        return any(step.kind == "rectified" for step in self.steps)

    @property
    def smooth(self) -> bool:
        return not self.kinked and not self.rectified

    def apply(self, z: Tensor) -> Tensor:
        """x = f(z)."""
        for step in self.steps:
            z = step.apply(z)
        return z

    def turned(self, x: Tensor) -> Turned:
        """z and f'(z) from x = f(z)."""
        derivative, known, saturated = torch.ones_like(x), None, 0
        for step in reversed(self.steps):
            low, high = step.range
            inside = x.clamp(low + _EDGE, high - _EDGE) if _bounded(step) else x
            saturated += int((inside != x).sum())
            if step.kind == "rectified":
                known = inside > gap(inside)
            derivative = derivative * step.derivative(inside)
            x = step.inverse(inside)
        if known is not None:
            derivative = derivative * known
        return Turned(x, derivative, known, saturated)

    def frozen(self, x: Tensor) -> "Activation":
        """The activation with every kink replaced by the slope found at the output x."""
        steps = []
        for step in reversed(self.steps):
            slope = step.derivative(x)
            if step.kind == "rectified":
                slope = (x > gap(x)).to(x)
            steps.append(held(step, slope) if step.kind in ("kinked", "rectified") else step)
            x = step.inverse(x)
        return Activation(tuple(reversed(steps)))

    def frozen_at(self, z: Tensor, error: float) -> "Activation":
        """The same at the input z, of which up to `error` of the largest is rounding."""
        steps = []
        for step in self.steps:
            x = step.apply(z)
            slope = step.derivative(x)
            if step.kind == "rectified":
                slope = (z > error * z.abs().max()).to(z)
            steps.append(held(step, slope) if step.kind in ("kinked", "rectified") else step)
            z = x
        return Activation(tuple(steps))


def gap(x: Tensor) -> float:
    """Where a ReLU's output stops being rounding: the middle of the widest ratio in sorted |x|.

    Only a jump from below 1e-3 to below 3e-2 of the largest counts; without one, zero.
    """
    size = x.detach().abs().flatten()
    top = float(size.max())
    if top == 0:
        return 0.0
    size = (size / top).clamp(min=1e-18).sort().values
    lower, upper = size[:-1], size[1:]
    # An exact zero and the smallest true value are apart too, so every low entry may be the edge.
    ratio = torch.where((lower < 1e-3) & (upper < 3e-2), upper / lower, 0)
    if not len(ratio) or float(ratio.max()) <= 1:
        return 0.0
    at = int(ratio.argmax())
    return top * math.sqrt(float(lower[at]) * float(upper[at]))


def identity() -> Activation:
    """x = z."""
    return Activation()


def affine(scale: Tensor, shift: Tensor, name: str) -> Elementwise:
    """x = scale z + shift, channel by channel: BatchNorm in eval mode."""
    return Elementwise(
        name,
        "affine",
        apply=lambda z: scale * z + shift,
        inverse=lambda x: (x - shift) / scale,
        derivative=scale.expand_as,
    )


def leaky(slope: Tensor | float, name: str = "LeakyReLU") -> Elementwise:
    """x = z, or slope z where z < 0: LeakyReLU and PReLU."""
    return Elementwise(
        name,
        "kinked",
        apply=lambda z: torch.where(z < 0, slope * z, z),
        inverse=lambda x: torch.where(x < 0, x / slope, x),
        derivative=lambda x: torch.where(x < 0, slope * torch.ones_like(x), 1.0),
        homogeneous=True,
        slope=slope,
    )


def relu() -> Elementwise:
    """x = max(z, 0)."""
    return Elementwise(
        "ReLU",
        "rectified",
        apply=lambda z: z.clamp(min=0),
        inverse=lambda x: x,
        derivative=torch.ones_like,
        homogeneous=True,
        slope=0.0,
    )


def tanh() -> Elementwise:
    """x = tanh z, f' = 1 - x^2."""
    return Elementwise(
        "Tanh",
        "smooth",
        torch.tanh,
        torch.atanh,
        lambda x: 1 - x * x,
        odd=True,
        range=(-1.0, 1.0),
    )


def sigmoid() -> Elementwise:
    """x = 1/(1 + e^-z), f' = x (1 - x)."""
    return Elementwise(
        "Sigmoid",
        "smooth",
        torch.sigmoid,
        torch.logit,
        lambda x: x * (1 - x),
        range=(0.0, 1.0),
    )


def softplus(beta: float) -> Elementwise:
    """x = log(1 + e^(beta z))/beta, f' = 1 - e^(-beta x)."""
    return Elementwise(
        "Softplus",
        "smooth",
        apply=lambda z: nn.functional.softplus(z, beta, threshold=40),
        inverse=lambda x: x + torch.log(-torch.expm1(-beta * x)) / beta,
        derivative=lambda x: -torch.expm1(-beta * x),
        range=(0.0, math.inf),
    )


def elu(alpha: float) -> Elementwise:
    """x = z, or alpha (e^z - 1) where z < 0; f' = x + alpha there."""
    return Elementwise(
        "ELU",
        "smooth",
        apply=lambda z: nn.functional.elu(z, alpha),
        inverse=lambda x: torch.where(x < 0, torch.log1p(x.clamp(max=0) / alpha), x),
        derivative=lambda x: torch.where(x < 0, x + alpha, 1.0),
        range=(-alpha, math.inf),
    )


def _bounded(step: Elementwise) -> bool:
    return math.isfinite(step.range[0]) or math.isfinite(step.range[1])


def held(step: Elementwise, slope: Tensor) -> Elementwise:
    """The same map where its kink has these slopes for good."""
    return dataclasses.replace(
        step,
        kind="affine",
        apply=lambda z: slope * z,
        inverse=lambda x: x / slope,
        derivative=lambda _x: slope,
        odd=True,
    )
