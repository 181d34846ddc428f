"""Networks with a kink at zero, taken apart unit by unit and without a search.

Where every example is on a unit's upper side, G_b,j = A_j.G_c: a test that needs nothing else.
Those units give D^T X, and with it what each unit would say without its kink. A unit with a single
example above zero, or a single one below, then says of that example alone

    x_i = G_W,j / G_b,j,   d_i = G_A,j / (w_j.x_i + b_j).

It is believed where the loss has the slope d_i at its own output, or where two units say the same.
Subtracted from every unit, it leaves others with a single example: the batch peels off as erasure
codes are decoded (Luby et al. 2001), whatever its size. What is subtracted brings its rounding
along; before that grows, all units that are explained by now settle what was found, together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from seepage.attacks.span.activations import leaky
from seepage.attacks.span.equations import Equations, Unknown
from seepage.attacks.span.levenberg import Damping, solved

Misfit = Callable[[Tensor, Tensor], Tensor]
_SETTLED = Damping(steps=2, start=1e-9)


@dataclass(frozen=True)
class Said:
    """What each unit says of some examples: its rows of G_W (m, r), of G_b (m), of G_A (m, C)."""

    weight: Tensor
    bias: Tensor
    head: Tensor

    def plus(self, other: "Said", factor: float) -> "Said":
        return Said(
            self.weight + factor * other.weight,
            self.bias + factor * other.bias,
            self.head + factor * other.head,
        )


def peeled(
    given: Equations, sides: tuple[float, float], most: int, floor: float, misfit: Misfit
) -> Unknown:
    """The examples that come off one by one, at most `most`; perhaps none.

    `sides` are the slopes above and below zero, `floor` is the relative rounding of the update,
    and `misfit(o, d)` tells how far each d is from the loss's slope at outputs o (without biases).
    """
    found = Unknown(given.weight[:0], given.head.T[:0])
    whole, line = _unkinked(given, sides, floor)
    if whole is None:
        return found
    faint = 100 * floor * float(whole.bias.abs().max())
    above, linear = whole, line
    while len(found.x) < most:
        views = [(above, 1)] if linear is None else [(above, 1), (linear.plus(above, -1), -1)]
        alone = reduce(Unknown.joined, [_alone(given, *view, faint) for view in views])
        outputs = _outputs(given, alone.x, sides)
        apart = torch.minimum(_agreement(alone.x), misfit(outputs, alone.delta))
        new = _chosen(alone, apart, found, floor**0.5, most)
        if len(new.x) == 0:
            break
        found = _settled(given, whole, found.joined(new), floor)
        above = whole.plus(_told(given, found, _signal(given, found) > 0), -1)
        every = torch.ones(len(given.weight), len(found.x), dtype=torch.bool)
        linear = line and line.plus(_told(given, found, every), -1)
    return found


def _settled(given: Equations, whole: Said, found: Unknown, floor: float) -> Unknown:
    """The same once more, from all units that speak of these alone, where rounding has grown."""
    on = _signal(given, found) > 0
    rest, loud = whole.plus(_told(given, found, on), -1), whole.weight.norm(dim=1).max()
    # The weights' rows too: two unknown examples may cancel in a bias.
    left = torch.maximum(rest.bias.abs() / whole.bias.abs().max(), rest.weight.norm(dim=1) / loud)
    rows = ((left <= 10 * floor) & on.any(1)).nonzero()[:, 0]
    equations = len(rows) * (1 + found.x.shape[1] + found.delta.shape[1])
    if equations < 2 * found.flat.numel() or float(left[rows].max()) < floor / 10:
        return found
    unkinked = replace(
        given,
        weight_gradient=whole.weight,
        bias_gradient=whole.bias,
        head_gradient=whole.head.T,
        head_bias_gradient=None,
    )
    return solved(unkinked.rows(rows), leaky(0.0).frozen(on[rows]), found, _SETTLED).at


def _unkinked(
    given: Equations, sides: tuple[float, float], floor: float
) -> tuple[Said | None, Said | None]:
    """What units say of examples above zero, and of all; None for what cannot be known."""
    up, down = sides
    blocks = given.weight_gradient, given.bias_gradient, given.head_gradient
    weight, bias, head = blocks
    if weight is None or bias is None or head is None:
        return None, None
    said = Said(weight, bias, head.T)
    linear = _linear(given, said, up, floor)
    if linear is None:
        return (said if down == 0 else None), None
    kink = said.plus(linear, -down)
    return kink.plus(kink, 1 / (up - down) - 1), linear


def _linear(given: Equations, said: Said, up: float, floor: float) -> Said | None:
    """What units would say without a kink, by those whose examples are all above it."""
    total, head = given.head_bias_gradient, given.head
    if total is None:
        return None
    bias = head.T @ total
    whole = (said.bias - up * bias).abs() <= 10 * floor * said.bias.abs().max()
    if int(whole.sum()) < len(head):
        return None
    product = torch.linalg.pinv(head[:, whole].T) @ said.weight[whole] / up
    return Said(head.T @ product, bias, given.weight @ product.T + given.bias[:, None] * total)


def _alone(given: Equations, said: Said, side: int, faint: float) -> Unknown:
    """Each unit read as if it spoke of one example, on this side of zero."""
    loud = (said.bias.abs() > faint).nonzero()[:, 0]
    x = said.weight[loud] / said.bias[loud, None]
    z = (given.weight[loud] * x).sum(1) + given.bias[loud]
    right = side * z > 0
    return Unknown(x[right], said.head[loud][right] / z[right, None])


def _outputs(given: Equations, x: Tensor, sides: tuple[float, float]) -> Tensor:
    z = x @ given.weight.T + given.bias
    outputs: Tensor = torch.where(z > 0, sides[0] * z, sides[1] * z) @ given.head.T
    return outputs


def _agreement(x: Tensor) -> Tensor:
    """The relative distance of each to the nearest of the others."""
    if len(x) < 2:
        return torch.full((len(x),), torch.inf, dtype=x.dtype)
    # Not by products, which cancel near 1e-8.
    apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    nearest: Tensor = apart.fill_diagonal_(torch.inf).amin(1) / x.norm(dim=1)
    return nearest


def _chosen(alone: Unknown, apart: Tensor, found: Unknown, near: float, most: int) -> Unknown:
    """The best believed ones, a few at a time, since the next round knows the others better."""
    picked: list[int] = []
    few = min((most - len(found.x) + 1) // 2, most // 4 + 1)
    for i in apart.argsort().tolist():
        if apart[i] > near or len(picked) == few:
            break
        known = torch.cat([found.x, alone.x[picked]])
        if bool(((known - alone.x[i]).norm(dim=1) > near * alone.x[i].norm()).all()):
            picked.append(i)
    return Unknown(alone.x[picked], alone.delta[picked])


def _told(given: Equations, some: Unknown, on: Tensor) -> Said:
    """What units say of these examples where `on` (m, n) counts them."""
    through, z = (given.head.T @ some.delta.T) * on, _signal(given, some)
    return Said(through @ some.x, through.sum(1), (z * on) @ some.delta)


def _signal(given: Equations, some: Unknown) -> Tensor:
    return given.weight @ some.x.T + given.bias[:, None]
