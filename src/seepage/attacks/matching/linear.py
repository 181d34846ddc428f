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
from torch import Tensor, mm, nn

from seepage.attacks.matching.attention import unseen
from seepage.attacks.matching.condensed import Fixed, dot, placeholder

Known = Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]


class _Dense(torch.autograd.Function):
    """x W^T + b; its derivative is `_DenseSlopes` where a graph is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numbers: Tensor, bias: Tensor | None, fixed: Fixed) -> Tensor:
        assert numbers.ndim == 1  # they take the slope that the weight would
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(x)
        ctx.fixed, ctx.bias = fixed, bias is not None
        ctx.inner = x.requires_grad and not x.is_leaf
        weight, _ = fixed.turned(rows.shape[0])
        output = mm(rows, weight) if bias is None else torch.addmm(bias, rows, weight)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (delta,), (x,) = cotangents, ctx.saved_tensors
        if torch.is_grad_enabled():
            found = _DenseSlopes.apply(delta, x, ctx.fixed, (ctx.inner, ctx.bias))  # type: ignore[no-untyped-call]
            return (*found, None)
        slopes = mm(delta.reshape(-1, delta.shape[-1]), ctx.fixed.weight)
        return _shaped(slopes, x.shape), None, None, None


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
        inner = mm(slopes, fixed.weight).view(x.shape) if mask[0] else None
        return inner, numbers, slopes.sum(0) if mask[1] else None

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        a, slopes, b = cotangents
        back, across = None, None
        if slopes is not None:
            # Let go of here: the graph outlives its use by the rest of the pass.
            known, ctx.known = ctx.known, None
            back, across = known(slopes, ctx.needs_input_grad[1])
            del known
        if a is not None:
            flat = a.reshape(-1, a.shape[-1])
            weight, _ = ctx.fixed.turned(flat.shape[0])
            back = mm(flat, weight) if back is None else back.addmm_(flat, weight)
        if b is not None:
            back = b.expand(ctx.shapes[0]) if back is None else back.add_(b)
        return _shaped(back, ctx.shapes[0]), _shaped(across, ctx.shapes[1]), None, None


def _compared(x: Tensor, d: Tensor, fixed: Fixed) -> tuple[Known, Tensor]:
    """x A^T and d A for slopes in the numbers to come, and the numbers of d^T x."""
    goal, (rows, width) = fixed.goal, x.shape
    if 2 * rows * (width + d.shape[1]) < width * d.shape[1]:
        towards, inner, outer = mm(x, fixed.turned(rows)[1]), mm(x, x.T), mm(d, d.T)
        own, cross = float(dot(inner, outer)), float(dot(d, towards))
        if not goal.near(own, cross):

            def of_factors(slopes: Tensor, across: bool) -> tuple[Tensor, Tensor | None]:
                p, q, _ = slopes.tolist()
                back = towards.addmm_(inner, d, beta=q, alpha=2 * p)
                if not across:
                    return back, None
                return back, mm(d, goal.observed).addmm_(outer, x, beta=q, alpha=2 * p)

            return of_factors, x.new_tensor([own, cross, goal.apart(own, cross)])
    gradient = mm(d.T, x)

    def of_gradient(slopes: Tensor, across: bool) -> tuple[Tensor, Tensor | None]:
        cotangent = goal.cotangent(slopes, gradient)
        return mm(x, cotangent.T), mm(d, cotangent) if across else None

    return of_gradient, goal.numbers(gradient)


def _shaped(t: Tensor | None, shape: torch.Size) -> Tensor | None:
    # Not as a view: autograd adds what comes later in place only to a tensor that owns its memory.
    return None if t is None else torch.ops.aten._unsafe_view(t, shape)


def dense(x: Tensor, numbers: Tensor, bias: Tensor | None, fixed: Fixed) -> Tensor:
    """x W^T + b, where the slope in the weight is three numbers."""
    return unseen(_Dense, x, numbers, bias, fixed)


class Dense(nn.Module):
    """A `Linear` for searching whose `weight` stands for the three numbers of its gradient."""

    def __init__(self, plain: nn.Linear, fixed: Fixed) -> None:
        super().__init__()
        self.weight, self.bias = placeholder(plain.weight), plain.bias
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        return dense(x, self.weight, self.bias, self.fixed)
