"""Convolutions whose second derivative does no wasted work, for the one product of a step.

Let d be the slope of the risk in a layer's output, and (a, A, b) the cotangents of the layer's
input, weight and bias gradients. A matching step needs the cotangents of d and of the input:

    d' = conv(a, W) + conv(x, A) + b = conv([a, x], [W, A]) + b      x' = conv^T(d, A)

one convolution and one transposed one; PyTorch's own rule also builds the weight's cotangent, which
nobody asked for. The weight's is only built where the weight depends on the candidate (a later
local step). This layer is for searching, not for training: without a graph it returns no weight
gradient.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

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
        ctx.inner = x.requires_grad and not x.is_leaf
        return shape.forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (x, weight) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            # The update is a gradient in parameters: none of it lies before the network's input.
            found = _Slopes.apply(delta, x, weight, (ctx.inner, True, ctx.bias), ctx.shape)  # type: ignore[no-untyped-call]
            return (*found, None)
        mask = (ctx.needs_input_grad[0], ctx.learned, ctx.learned and ctx.bias)
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
