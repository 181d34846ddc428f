"""BatchNorm in eval mode, with its second derivative written out; for searching, not for training.

As with `Convolution`, the cotangents of scale and shift are built only where those depend on the
candidate.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _Affine(torch.autograd.Function):
    """y = s (x - m) r + t channel by channel, with fixed mean m and reciprocal deviation r."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, rate: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, scale, mean, rate)
        ctx.learned = not scale.is_leaf
        slope = scale * rate
        return torch.addcmul(_wide(shift - mean * slope), x, _wide(slope))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (x, scale, mean, rate) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            found = _AffineSlopes.apply(delta, x, scale, mean, rate)  # type: ignore[no-untyped-call]
            return (*found, None, None)
        back = delta * _wide(scale * rate) if ctx.needs_input_grad[0] else None
        if not ctx.learned:
            return back, None, None, None, None
        return back, *_sums(delta, x, mean, rate), None, None


class _AffineSlopes(torch.autograd.Function):
    """The gradients of `_Affine`, and the cotangents of its output slope and of its input."""

    @staticmethod
    def forward(
        ctx: Any, delta: Tensor, x: Tensor, scale: Tensor, mean: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(delta, x, scale, mean, rate)
        ctx.set_materialize_grads(False)
        ctx.learned = not scale.is_leaf
        return (delta * _wide(scale * rate), *_sums(delta, x, mean, rate))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        (a, big, b), (delta, x, scale, mean, rate) = cotangents, ctx.saved_tensors
        back = None if a is None else a * _wide(scale * rate)
        across = None
        if big is not None:
            bent = big * rate
            offset = _wide((0 if b is None else b) - mean * bent)
            if back is None:
                back = torch.addcmul(offset, x, _wide(bent))
            else:
                back.addcmul_(x, _wide(bent)).add_(offset)
            across = delta * _wide(bent) if ctx.needs_input_grad[1] else None
        elif b is not None:
            back = _wide(b).expand_as(x) if back is None else back.add_(_wide(b))
        along = None
        if ctx.learned and a is not None:
            along = _total(a * delta) * rate
        return back, across, along, None, None


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
        rate = (self.running_var + self.eps).rsqrt()
        output: Tensor = _Affine.apply(x, self.weight, self.bias, self.running_mean, rate)  # type: ignore[no-untyped-call]
        return output


def _wide(channels: Tensor) -> Tensor:
    return channels.view(1, -1, 1, 1)


def _total(t: Tensor) -> Tensor:
    return t.sum((0, 2, 3))


def _sums(delta: Tensor, x: Tensor, mean: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    total = _total(delta)
    return (_total(delta * x) - mean * total) * rate, total
