"""Layers whose second derivative does no wasted work, for the one product that a step needs.

Let d be the slope of the risk in a layer's output, and (a, A, b) the cotangents of the layer's
input, weight and bias gradients. A matching step needs the cotangents of d and of the input:

    d' = conv(a, W) + conv(x, A) + b = conv([a, x], [W, A]) + b      x' = conv^T(d, A)

one convolution and one transposed one; PyTorch's own rule also builds the weight's cotangent, which
nobody asked for. The weight's is only built where the weight depends on the candidate (a later
local step). These layers are for searching, not for training: without a graph they return no
weight gradient.
"""

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from seepage.core import Model

Pair = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Shape:
    """The settings of a convolution."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """conv(x, W) + b."""
        return torch.nn.functional.conv2d(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )

    def backward(
        self, delta: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of input, weight and bias that the mask asks for."""
        found: tuple[Tensor | None, Tensor | None, Tensor | None]
        found = torch.ops.aten.convolution_backward(
            delta,
            x,
            weight,
            [weight.shape[0]],
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            self.groups,
            mask,
        )
        return found

    def joined(self, left: Tensor, right: Tensor, dim: int) -> Tensor:
        """Channels side by side within each group."""
        if self.groups == 1:
            return torch.cat([left, right], dim)
        split = [t.unflatten(dim, (self.groups, -1)) for t in (left, right)]  # type: ignore[no-untyped-call]
        return torch.cat(split, dim + 1).flatten(dim, dim + 1)


class _Convolve(torch.autograd.Function):
    """The convolution; its derivative is `_Slopes` where a graph is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape, ctx.bias, ctx.learned = shape, bias is not None, not weight.is_leaf
        return shape.forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (x, weight) = cotangents, ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        if torch.is_grad_enabled():
            found = _Slopes.apply(delta, x, weight, (wanted, True, ctx.bias), ctx.shape)  # type: ignore[no-untyped-call]
            return (*found, None)
        mask = (wanted, ctx.learned, ctx.learned and ctx.bias)
        return (*ctx.shape.backward(delta, x, weight, mask), None)


class _Slopes(torch.autograd.Function):
    """The gradients of a convolution, and the cotangents d' and x' of the equations above."""

    @staticmethod
    def forward(
        ctx: Any,
        delta: Tensor,
        x: Tensor,
        weight: Tensor,
        mask: tuple[bool, bool, bool],
        shape: Shape,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        ctx.save_for_backward(delta, x, weight)
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.learned = shape, not weight.is_leaf
        return shape.backward(delta, x, weight, mask)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        (a, big, b), (delta, x, weight) = cotangents, ctx.saved_tensors
        back = _convolved(ctx.shape, (a, weight), (x, big), b)
        if back is None and b is not None:
            back = b.view(1, -1, 1, 1).expand_as(delta)
        across = None
        if big is not None and ctx.needs_input_grad[1]:
            across = ctx.shape.backward(delta, x, big, (True, False, False))[0]
        along = None
        if ctx.learned and a is not None:
            along = ctx.shape.backward(delta, a, weight, (False, True, False))[1]
        return back, across, along, None, None


def _convolved(
    shape: Shape,
    first: tuple[Tensor | None, Tensor],
    second: tuple[Tensor, Tensor | None],
    bias: Tensor | None,
) -> Tensor | None:
    """conv(a, W) + conv(x, A) + b as one convolution; an absent cotangent drops its half."""
    (a, weight), (x, big) = first, second
    if a is not None and big is not None:
        return shape.forward(shape.joined(a, x, 1), _beside(weight, big), bias)
    if a is not None:
        return shape.forward(a, weight, bias)
    return None if big is None else shape.forward(x, big, bias)


def _beside(weight: Tensor, big: Tensor) -> Tensor:
    # The weight's channels are those of one group already.
    return torch.cat([weight, big], 1)


class Convolution(nn.Module):
    """A zero-padded `Conv2d` with the same parameters, for searching."""

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        padding = tuple(int(side) for side in plain.padding)
        self.shape = Shape(plain.stride, padding, plain.dilation, plain.groups)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = _Convolve.apply(x, self.weight, self.bias, self.shape)  # type: ignore[no-untyped-call]
        return output


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


def searchable(model: Model) -> Model:
    """The same model on a copy of its network whose layers are those of this file where they fit.

    >>> from seepage import zoo
    >>> batch, form = zoo.photos(1, 32)
    >>> fast = searchable(Model.of(zoo.convnet(4), nn.functional.cross_entropy, form))
    >>> type(fast.module.conv1).__name__
    'Convolution'
    """
    module = copy.deepcopy(model.module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            made = _made(child)
            if made is not None:
                setattr(parent, name, made)
    return dataclasses.replace(model, module=module.eval())


def _made(plain: nn.Module) -> nn.Module | None:
    # Exact types: a subclass may compute something else.
    if type(plain) is nn.Conv2d:
        simple = plain.padding_mode == "zeros" and not isinstance(plain.padding, str)
        return Convolution(plain) if simple else None
    if type(plain) is nn.BatchNorm2d and plain.affine and plain.track_running_stats:
        return Normalisation(plain) if plain.momentum is not None else None
    return None


def _wide(channels: Tensor) -> Tensor:
    return channels.view(1, -1, 1, 1)


def _total(t: Tensor) -> Tensor:
    return t.sum((0, 2, 3))


def _sums(delta: Tensor, x: Tensor, mean: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    total = _total(delta)
    return (_total(delta * x) - mean * total) * rate, total
