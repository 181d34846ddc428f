"""Convolutions whose second derivative does no wasted work, for the one product of a step.

Let d be the slope of the risk in a layer's output, and (a, A, b) the cotangents of the layer's
input, weight and bias gradients. A matching step needs the cotangents of d and of the input:

    d' = conv(a, W) + conv(x, A) + b      x' = conv^T(d, A)

and PyTorch's own rule also builds the weight's cotangent, which nobody asked for. (The two
convolutions as one of joined channels cost more here: up to twice as much for 512 channels of 4x4.)
The weight's is only built where the weight depends on the candidate (a later local step). This
layer is for searching, not for training: without a graph it returns no weight gradient.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from seepage.attacks.matching.attention import unseen
from seepage.attacks.matching.condensed import Fixed, Goal, placeholder

Pair = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Shape:
    """The settings of a convolution, and what its weight's gradient is compared with, if known."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    goal: Goal | None = None

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


class _Convolve(torch.autograd.Function):
    """The convolution; its derivative is `_Slopes` where a graph is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        shape: Shape,
        numbers: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape, ctx.bias, ctx.learned = shape, bias is not None, not weight.is_leaf
        ctx.inner, ctx.condensed = x.requires_grad and not x.is_leaf, numbers is not None
        return shape.forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (x, weight) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            # The update is a gradient in parameters: none of it lies before the network's input.
            found = _Slopes.apply(delta, x, weight, (ctx.inner, True, ctx.bias), ctx.shape)  # type: ignore[no-untyped-call]
            if ctx.condensed:
                return found[0], None, found[2], None, found[1]
            return (*found, None, None)
        mask = (ctx.needs_input_grad[0], ctx.learned, ctx.learned and ctx.bias)
        return (*ctx.shape.backward(delta, x, weight, mask), None, None)


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
        found = shape.backward(delta, x, weight, mask)
        if shape.goal is None or found[1] is None:
            return found
        ctx.gradient = found[1]
        return found[0], shape.goal.numbers(found[1]), found[2]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        (a, big, b), (delta, x, weight) = cotangents, ctx.saved_tensors
        if big is not None and ctx.shape.goal is not None:
            # Let go of here: the graph outlives its use by the rest of the pass.
            gradient, ctx.gradient = ctx.gradient, None
            big = ctx.shape.goal.cotangent(big, gradient)
            del gradient
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
    """conv(a, W) + conv(x, A) + b; an absent cotangent drops its half."""
    (a, weight), (x, big) = first, second
    if a is None:
        return None if big is None else shape.forward(x, big, bias)
    back = shape.forward(a, weight, bias)
    return back if big is None else back.add_(shape.forward(x, big, None))


class Convolution(nn.Module):
    """A zero-padded `Conv2d` for searching; where fixed, `weight` stands for three numbers."""

    def __init__(self, plain: nn.Conv2d, fixed: Fixed | None = None) -> None:
        super().__init__()
        self.weight = plain.weight if fixed is None else placeholder(plain.weight)
        self.fixed, self.bias = fixed, plain.bias
        padding = tuple(int(side) for side in plain.padding)
        goal = None if fixed is None else fixed.goal
        self.shape = Shape(plain.stride, padding, plain.dilation, plain.groups, goal)

    def forward(self, x: Tensor) -> Tensor:
        known = self.fixed
        weights = (self.weight, None) if known is None else (known.weight, self.weight)
        return unseen(_Convolve, x, weights[0], self.bias, self.shape, weights[1])
