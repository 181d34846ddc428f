"""LayerNorm with its second derivative written out; for searching, not for training.

With z = (x - mean) r row by row, <.> a row's mean, and P(t) = r (t - <t> - z <t z>), the slopes in
x, scale s and shift are P(s d), sum d z and sum d. For their cotangents (a, A, b), h = s d and
c = A d - r (<h z> a + <a z> h), the cotangents of d, x and s are

    s P(a) + A z + b        P(c) - r <a P(h)> z        sum d P(a)
"""

from typing import Any

import torch
from torch import Tensor, nn

from seepage.attacks.matching.attention import unseen


class _Normalise(torch.autograd.Function):
    """s z + t; its derivative is `_NormaliseSlopes` where a graph is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        output, mean, rate = torch.native_layer_norm(x, scale.shape, scale, shift, eps)
        ctx.save_for_backward(x, scale)
        ctx.learned, ctx.moments = not scale.is_leaf, (mean, rate)
        return output

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (x, scale) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_NormaliseSlopes.apply(delta, x, scale, ctx.moments), None)  # type: ignore[no-untyped-call]
        mask = (ctx.needs_input_grad[0], ctx.learned, ctx.learned)
        return (*_slopes(delta, x, scale, ctx.moments, mask), None)


class _NormaliseSlopes(torch.autograd.Function):
    """The gradients of `_Normalise`, and the cotangents of the equations above."""

    @staticmethod
    def forward(
        ctx: Any, delta: Tensor, x: Tensor, scale: Tensor, moments: tuple[Tensor, Tensor]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        found = _slopes(delta, x, scale, moments, (True, True, True))
        ctx.save_for_backward(delta, x, scale, found[0])
        ctx.learned, ctx.moments = not scale.is_leaf, moments
        return found

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        (a, big, b), (delta, x, scale, slope) = cotangents, ctx.saved_tensors
        mean, rate = ctx.moments
        flat = (x - mean).mul_(rate)
        back = along = bent = spread = None
        if a is not None:
            straight = _projected(a, x, ctx.moments)
            back, h = straight * scale, delta * scale
            share = rate / -x.shape[-1]
            bent = a * _dots(h, flat, share)
            bent.addcmul_(h, _dots(a, flat, share))
            spread = _dots(a, slope, share)
            along = (delta * straight).flatten(0, -2).sum(0) if ctx.learned else None
        if big is not None:
            back = flat * big if back is None else back.addcmul_(flat, big)
            bent = delta * big if bent is None else bent.addcmul_(delta, big)
        if b is not None:
            back = b.expand_as(x) if back is None else back.add_(b)
        across = None if bent is None else _projected(bent, x, ctx.moments)
        if across is not None and spread is not None:
            across.addcmul_(flat, spread)
        return back, across, along, None


class LayerNormalisation(nn.Module):
    """`LayerNorm` over the last dimension with the same parameters."""

    def __init__(self, plain: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = plain.weight, plain.bias, plain.eps
        self.normalized_shape = plain.normalized_shape

    def forward(self, x: Tensor) -> Tensor:
        return unseen(_Normalise, x, self.weight, self.bias, self.eps)


def _slopes(
    delta: Tensor,
    x: Tensor,
    scale: Tensor | None,
    moments: tuple[Tensor, Tensor],
    mask: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, scale and shift that the mask asks for."""
    found: tuple[Tensor | None, Tensor | None, Tensor | None]
    found = torch.ops.aten.native_layer_norm_backward(
        delta, x, x.shape[-1:], *moments, scale, scale, mask
    )
    return found


def _projected(t: Tensor, x: Tensor, moments: tuple[Tensor, Tensor]) -> Tensor:
    """P(t)."""
    found: Tensor = torch.ops.aten.native_layer_norm_backward(
        t, x, x.shape[-1:], *moments, None, None, (True, False, False)
    )[0]
    return found


def _dots(left: Tensor, right: Tensor, factor: Tensor) -> Tensor:
    """The inner product of each row, times a factor of its own."""
    found: Tensor = torch.linalg.vecdot(left, right)
    return found.unsqueeze_(-1).mul_(factor)
