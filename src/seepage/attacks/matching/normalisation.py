"""BatchNorm in eval mode, with its second derivative written out; for searching, not for training.

As with `Convolution`, the cotangents of scale and shift are built only where those depend on the
candidate.
"""

from typing import Any

import torch
from torch import Tensor, nn

from seepage.attacks.matching.attention import unseen


class _Affine(torch.autograd.Function):
    """y = s (x - m) r + t channel by channel, with fixed mean m and r = 1 / sqrt(var + eps)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, past: tuple[Tensor, Tensor, float]
    ) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.learned, ctx.past = not scale.is_leaf, past
        mean, var, eps = past
        return nn.functional.batch_norm(x, mean, var, scale, shift, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (x, scale) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_AffineSlopes.apply(delta, x, scale, ctx.past), None)  # type: ignore[no-untyped-call]
        mask = (ctx.needs_input_grad[0], ctx.learned, ctx.learned)
        return (*_slopes(delta, x, scale, ctx.past, mask), None)


class _AffineSlopes(torch.autograd.Function):
    """The gradients of `_Affine`, and the cotangents of its output slope and of its input."""

    @staticmethod
    def forward(
        ctx: Any, delta: Tensor, x: Tensor, scale: Tensor, past: tuple[Tensor, Tensor, float]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.save_for_backward(delta, x, scale)
        ctx.set_materialize_grads(False)
        ctx.learned, ctx.past = not scale.is_leaf, past
        return _slopes(delta, x, scale, past, (True, True, True))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        (a, big, b), (delta, x, scale), (mean, var, eps) = cotangents, ctx.saved_tensors, ctx.past
        rate = (var + eps).rsqrt()
        back = None if a is None else a * _wide(scale * rate)
        across = None
        if big is not None:
            bent = big * rate
            offset = (0 if b is None else b) - mean * bent
            back = x * _wide(bent) if back is None else back.addcmul_(x, _wide(bent))
            back.add_(_wide(offset))
            across = delta * _wide(bent) if ctx.needs_input_grad[1] else None
        elif b is not None:
            back = _wide(b).expand_as(x) if back is None else back.add_(_wide(b))
        along = None
        if ctx.learned and a is not None:
            along = (a * delta).sum((0, 2, 3)) * rate
        return back, across, along, None


class Normalisation(nn.Module):
    """`BatchNorm2d` with the same parameters: in train mode it is the plain layer."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, plain: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = plain.weight, plain.bias, plain.eps
        self.momentum = plain.momentum
        for name, buffer in plain.named_buffers(recurse=False):
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
            past = (self.running_mean, self.running_var, self.weight, self.bias)
            return nn.functional.batch_norm(x, *past, True, self.momentum or 0.0, self.eps)
        fixed = (self.running_mean, self.running_var, self.eps)
        return unseen(_Affine, x, self.weight, self.bias, fixed)


def _wide(channels: Tensor) -> Tensor:
    return channels.view(1, -1, 1, 1)


def _slopes(
    delta: Tensor,
    x: Tensor,
    scale: Tensor,
    past: tuple[Tensor, Tensor, float],
    mask: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, scale and shift that the mask asks for."""
    mean, var, eps = past
    found: tuple[Tensor | None, Tensor | None, Tensor | None]
    found = torch.ops.aten.native_batch_norm_backward(
        delta, x, scale, mean, var, None, None, False, eps, mask
    )
    return found
