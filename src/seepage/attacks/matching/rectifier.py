"""The exact GELU with its second derivative in three products."""

import math
from typing import Any

import torch
from torch import Tensor, nn

_PEAK = 1 / math.sqrt(2 * math.pi)


class _Gelu(torch.autograd.Function):
    """x Phi(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return nn.functional.gelu(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        slope: Tensor = _GeluSlope.apply(*cotangents, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return slope


class _GeluSlope(torch.autograd.Function):
    """d (Phi + x phi), whose own derivative in x is d (2 - x^2) phi."""

    @staticmethod
    def forward(ctx: Any, delta: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(delta, x)
        return torch.ops.aten.gelu_backward(delta, x)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, Tensor]:
        (a,), (delta, x) = cotangents, ctx.saved_tensors
        square = x * x
        bell = (square * -0.5).exp_().mul_(_PEAK).mul_(square.neg_().add_(2))
        return torch.ops.aten.gelu_backward(a, x), bell.mul_(a).mul_(delta)


class SmoothRectifier(nn.Module):
    """`GELU`, for searching: it has no third derivative."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = _Gelu.apply(x)  # type: ignore[no-untyped-call]
        return output
