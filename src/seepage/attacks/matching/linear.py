"""Dense layers whose weight gradient is known by three numbers, and often never formed.

With x the rows that go in and d the slopes of what comes out, G = d^T x. Where rows are few,

    <G, G> = <x x^T, d d^T>      <G, g> = <d, x g^T>

and for the cotangent A = p G + q g the slopes x A^T = p (x x^T) d + q x g^T and
d A = p (d d^T) x + q d g need no G either: six passes over the weights in place of seven, and no
memory written of the weights' size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seepage.attacks.matching.condensed import Fixed, dot, placeholder

Known = Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]


class _Dense(torch.autograd.Function):
    """x W^T + b; its derivative is `_DenseSlopes` where a graph is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numbers: Tensor, bias: Tensor | None, fixed: Fixed) -> Tensor:
        assert len(numbers) == 3  # they take the slope that the weight would
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(x)
        ctx.fixed, ctx.bias = fixed, bias is not None
        ctx.inner = x.requires_grad and not x.is_leaf
        weight, _ = fixed.turned(len(rows))
        output = rows @ weight if bias is None else torch.addmm(bias, rows, weight)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (x,) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            found = _DenseSlopes.apply(delta, x, ctx.fixed, (ctx.inner, ctx.bias))  # type: ignore[no-untyped-call]
            return (*found, None)
        return delta @ ctx.fixed.weight, None, None, None


class _DenseSlopes(torch.autograd.Function):
    """The slopes of the input, of the three numbers and of the bias, and their cotangents."""

    @staticmethod
    def forward(
        ctx: Any, delta: Tensor, x: Tensor, fixed: Fixed, mask: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        rows, slopes = x.reshape(-1, x.shape[-1]), delta.reshape(-1, delta.shape[-1])
        ctx.shapes, ctx.fixed = (delta.shape, x.shape), fixed
        ctx.known, numbers = _compared(rows, slopes, fixed)
        inner = (slopes @ fixed.weight).view(x.shape) if mask[0] else None
        return inner, numbers, slopes.sum(0) if mask[1] else None

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        a, slopes, b = cotangents
        back, across = None, None
        if slopes is not None:
            back, across = ctx.known(slopes, ctx.needs_input_grad[1])
        if a is not None:
            flat = a.reshape(-1, a.shape[-1])
            weight, _ = ctx.fixed.turned(len(flat))
            back = flat @ weight if back is None else back.addmm_(flat, weight)
        if b is not None:
            back = b.expand(ctx.shapes[0]) if back is None else back.add_(b)
        return _shaped(back, ctx.shapes[0]), _shaped(across, ctx.shapes[1]), None, None


def _compared(x: Tensor, d: Tensor, fixed: Fixed) -> tuple[Known, Tensor]:
    """x A^T and d A for slopes in the numbers to come, and the numbers of d^T x."""
    goal = fixed.goal
    if 2 * len(x) * (x.shape[1] + d.shape[1]) < x.shape[1] * d.shape[1]:
        towards, inner, outer = x @ fixed.turned(len(x))[1], x @ x.T, d @ d.T
        own, cross = float(dot(inner, outer)), float(dot(d, towards))
        if not goal.near(own, cross):

            def of_factors(slopes: Tensor, across: bool) -> tuple[Tensor, Tensor | None]:
                p, q = 2 * float(slopes[0]), float(slopes[1])
                back = torch.addmm(towards, inner, d, beta=q, alpha=p)
                other = (
                    torch.addmm(d @ goal.observed, outer, x, beta=q, alpha=p) if across else None
                )
                return back, other

            return of_factors, x.new_tensor([own, cross, goal.apart(own, cross)])
    gradient = d.T @ x

    def of_gradient(slopes: Tensor, across: bool) -> tuple[Tensor, Tensor | None]:
        cotangent = goal.cotangent(slopes, gradient)
        return x @ cotangent.T, d @ cotangent if across else None

    return of_gradient, goal.numbers(gradient)


def _shaped(t: Tensor | None, shape: torch.Size) -> Tensor | None:
    return None if t is None else t.reshape(shape)


class Dense(nn.Module):
    """A `Linear` for searching whose `weight` stands for the three numbers of its gradient."""

    def __init__(self, plain: nn.Linear, fixed: Fixed) -> None:
        super().__init__()
        self.weight, self.bias = placeholder(plain.weight), plain.bias
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = _Dense.apply(x, self.weight, self.bias, self.fixed)  # type: ignore[no-untyped-call]
        return output
