"""Activations as the exact attacks need them: values, slopes, bends, kinks and inverses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from seepage.errors import InvalidInput

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """An activation at given points.

    `slope` multiplies the gradient that flows back and `bend` is its derivative; `rise` is the
    derivative of `value`. They differ where a kinked activation is smoothed.
    """

    value: Tensor
    slope: Tensor
    bend: Tensor
    rise: Tensor


Drawing = Callable[[Tensor], Curve]


@dataclass(frozen=True)
class Activation:
    """An elementwise function; `sides` are its smooth parts above and below a kink at zero."""

    name: str
    function: Function
    sides: tuple[Function, Function] | None = None

    def smooth(self, z: Tensor) -> Curve:
        """The activation where it is smooth, differentiated twice."""
        return drawn(self.function, z)

    def softened(self, sharpness: float) -> Drawing:
        """The kink rounded off: each side weighted by a logistic switch of this sharpness."""
        return lambda z: _mixed(self._sides, z, torch.sigmoid(sharpness * z), sharpness)

    def frozen(self, positive: Tensor) -> Drawing:
        """Each unit held on the side that a given pattern says, wherever z moves."""
        return lambda z: _mixed(self._sides, z, positive.to(z.dtype), 0.0)

    @property
    def _sides(self) -> tuple[Function, Function]:
        return self.sides or (self.function, self.function)

    @property
    def sloped(self) -> tuple[float, float] | None:
        """The slopes of both sides, if both are straight lines through zero: (1, 0) for ReLU."""
        if self.sides is None:
            return None
        points = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        ratios = self.sides[0](points) / points, self.sides[1](-points) / -points
        straight = all(bool((ratio - ratio[0]).abs().max() < 1e-12) for ratio in ratios)
        return (float(ratios[0][0]), float(ratios[1][0])) if straight else None


def drawn(function: Function, z: Tensor) -> Curve:
    """A smooth function with its first two derivatives."""
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        value = function(point)
        slope = _derivative(value, point, keep=True)
        bend = _derivative(slope, point, keep=False)
    return Curve(value.detach(), slope.detach(), bend, slope.detach())


def _derivative(of: Tensor, at: Tensor, keep: bool) -> Tensor:
    if not of.requires_grad:
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(of.sum(), at, create_graph=keep, allow_unused=True)
    return torch.zeros_like(at) if found is None else found


def _mixed(sides: tuple[Function, Function], z: Tensor, on: Tensor, sharpness: float) -> Curve:
    # Far on the wrong side a part may overflow (exp) where its weight is zero anyway.
    above, below = drawn(sides[0], z), drawn(sides[1], z.clamp(max=30.0))
    turn = sharpness * on * (1 - on)
    slope = on * above.slope + (1 - on) * below.slope
    return Curve(
        on * above.value + (1 - on) * below.value,
        slope,
        on * above.bend + (1 - on) * below.bend + turn * (above.slope - below.slope),
        slope + turn * (above.value - below.value),
    )


_SMOOTH: dict[str, Function] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    "silu": functional.silu,
    "softplus": functional.softplus,
    "elu": functional.elu,
    "mish": functional.mish,
    "softsign": functional.softsign,
    "logsigmoid": functional.logsigmoid,
}
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def leaky(slope: float) -> Activation:
    """max(z, 0) + slope min(z, 0): ReLU at slope 0."""
    return Activation(
        "relu" if slope == 0 else "leaky_relu",
        lambda z: functional.leaky_relu(z, slope) if slope else functional.relu(z),
        (lambda z: z, lambda z: slope * z),
    )


def exponential(scale: float, alpha: float) -> Activation:
    """scale z above zero and scale alpha (exp(z) - 1) below: SELU and ELU with alpha not 1."""
    return Activation(
        "selu" if abs(scale - _SELU_SCALE) < 1e-9 else "elu",
        lambda z: scale * functional.elu(z, alpha),
        (lambda z: scale * z, lambda z: scale * alpha * torch.expm1(z)),
    )


def named(name: str) -> Activation:
    """An activation by the name of its function in torch.nn.functional."""
    if name == "relu":
        return leaky(0.0)
    if name == "leaky_relu":
        return leaky(0.01)
    if name == "selu":
        return exponential(_SELU_SCALE, _SELU_ALPHA)
    if name in _SMOOTH:
        return Activation(name, _SMOOTH[name])
    known = ", ".join(["relu", "leaky_relu", "selu", *_SMOOTH])
    raise InvalidInput(
        f"activation={name!r} is not known: use {known}, or pass the function itself."
    )


def recognised(z: Tensor, h: Tensor, modules: Function | None) -> Activation | None:
    """The activation that turns these outputs of one layer into the inputs of the next."""
    if modules is not None and not bool((z < 0).any()) and _elementwise(modules, z, h):
        # Crafted layers have outputs of one sign, where a kink at zero does not show.
        z = torch.linspace(-3, 3, z.numel(), dtype=z.dtype, device=z.device).view_as(z)
        h = modules(z)
    for name, function in _SMOOTH.items():
        if _same(function(z), h):
            return Activation(name, function)
    kinked = _kinked(z, h)
    if kinked is not None:
        return kinked
    if modules is not None and _elementwise(modules, z, h):
        return Activation("modules", modules)
    return None


def _kinked(z: Tensor, h: Tensor) -> Activation | None:
    low, high = z.argmin(), z.argmax()
    if not float(z.view(-1)[low]) < 0 < float(z.view(-1)[high]):
        return None
    scale = float(h.view(-1)[high] / z.view(-1)[high])
    below = float(h.view(-1)[low] / z.view(-1)[low])
    if _same(leaky(below).function(z), h):
        return leaky(0.0 if abs(below) < 1e-12 else _rounded(below))
    if scale == 0:
        return None
    alpha = float(h.view(-1)[low] / torch.expm1(z.view(-1)[low])) / scale
    made = exponential(_rounded(scale), _rounded(alpha))
    return made if abs(alpha) > 1e-6 and _same(made.function(z), h) else None


def _rounded(number: float) -> float:
    # A slope read off a float32 network is that of its code, which has few digits.
    return (
        _SELU_SCALE
        if abs(number - _SELU_SCALE) < 1e-6
        else (_SELU_ALPHA if abs(number - _SELU_ALPHA) < 1e-6 else round(number, 6))
    )


def _elementwise(function: Function, z: Tensor, h: Tensor) -> bool:
    try:
        mixed = z.clone()
        mixed[:, 1::2] = z.flip(0)[:, 1::2]
        return _same(function(z), h) and _same(function(mixed)[:, ::2], h[:, ::2])
    except (RuntimeError, IndexError):
        return False


def _same(left: Tensor, right: Tensor) -> bool:
    loose = 1e-9 if left.dtype == torch.float64 else 3e-6
    return left.shape == right.shape and torch.allclose(left, right, rtol=loose, atol=loose)


def inverted(activation: Activation, h: Tensor) -> Tensor:
    """The z > 0 with activation(z) = h, by bisection; NaN where h is not reached from there."""
    low, high = torch.zeros_like(h), torch.full_like(h, 1.0)
    for _ in range(12):
        high = torch.where(activation.function(high) < h, 2 * high, high)
    reached = (activation.function(low) < h) & (activation.function(high) >= h)
    for _ in range(70):
        middle = (low + high) / 2
        below = activation.function(middle) < h
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(reached, (low + high) / 2, torch.nan)
