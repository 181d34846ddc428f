"""Crafted layers below a wide one that pass the data up to it: the two-layer attack at any depth.

Wang, Lee and Lei 2023, arXiv 2212.03714, section 5. Where both sides of zero are straight lines,
rows [I; -I] and then [I 0] keep s(x) and s(-x), and the wide layer's rows [z; -z] see their
difference, (up^k + down^k) x after k layers. Elsewhere rows [I; 0] keep f = s(... s(x)) with s
where it rises, the wide layer sees f - c, and the data are what has these features.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.span.activations import Activation
from seepage.attacks.span.layers import Layer, Stack
from seepage.attacks.span.scale import is_odd
from seepage.core import Model
from seepage.errors import InvalidInput
from seepage.forms import Images

_FAR = 10.0  # standardised columns of a table hardly lie further from zero


@dataclass(frozen=True)
class Passage:
    """What the wide layer sees of the data x (n, width): gain x, or s(... s(x + shift)) - centre.

    `low` and `high` (width) are the ends of the data.
    """

    low: Tensor
    high: Tensor
    gain: float = 1.0
    bent: tuple[Activation, ...] = ()
    shift: Tensor | float = 0.0
    centre: Tensor | float = 0.0

    @property
    def width(self) -> int:
        return len(self.low)

    @property
    def twofold(self) -> bool:
        return not self.bent

    def seen(self, x: Tensor) -> Tensor:
        """The data as the wide layer sees them."""
        if self.twofold:
            return self.gain * x
        x = x + self.shift
        for activation in self.bent:
            x = activation.function(x)
        return x - self.centre

    def back(self, seen: Tensor) -> Tensor:
        """The data that are seen so, by bisection between their ends."""
        if self.twofold:
            return seen / self.gain
        low, high = (end.expand_as(seen).clone() for end in (self.low, self.high))
        for _ in range(60):
            middle = (low + high) / 2
            below = self.seen(middle) < seen
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def passage(model: Model, stack: Stack) -> Passage | None:
    """How layers below the wide one can carry the data, None where there are none below.

    >>> from seepage import zoo
    >>> from seepage.attacks.span import stack_of
    >>> model = zoo.digits(1).model(zoo.mlp(64, 130, 130, 500, 10))
    >>> passage(model, stack_of(model)).gain
    1.0
    """
    lower = [layer.activation for layer in stack.layers[:-2] if layer.activation is not None]
    if not lower or not stack.reads_data:
        return None
    plain = Passage(*_ends(model, model.params[stack.layers[0].weight].shape[1]))
    slopes = [activation.sloped for activation in lower]
    if None not in slopes:
        ups, downs = zip(*(pair for pair in slopes if pair is not None), strict=True)
        found = replace(plain, gain=math.prod(ups) + math.prod(downs))
    else:
        found = _rising(replace(plain, bent=tuple(lower)))
        if stack.hidden.bias is not None and not is_odd(stack.activation):
            middle = (found.seen(found.low) + found.seen(found.high)) / 2
            found = replace(found, centre=middle)
    _check_widths(model, stack, found)
    return found


def lower_weights(model: Model, stack: Stack, way: Passage) -> dict[str, Tensor]:
    """The weights and biases of the layers that carry the data."""
    chosen: dict[str, Tensor] = {}
    for depth, layer in enumerate(stack.layers[:-2]):
        weight = torch.zeros_like(model.params[layer.weight])
        kept = way.width if depth == 0 or not way.twofold else 2 * way.width
        weight.diagonal()[:kept] = 1
        if depth == 0 and way.twofold:
            weight[way.width : 2 * way.width].diagonal()[:] = -1
        chosen[layer.weight] = weight
        if layer.bias is not None:
            bias = torch.zeros_like(model.params[layer.bias])
            if depth == 0:
                bias[: way.width] = torch.as_tensor(way.shift).to(bias)
            chosen[layer.bias] = bias
    return chosen


def wide_rows(drawn: Tensor, columns: int, way: Passage) -> Tensor:
    """Rows of the wide layer (m, columns) that see the data as `drawn` (m, width) would."""
    weight = drawn.new_zeros(len(drawn), columns)
    weight[:, : way.width] = drawn
    if way.twofold:
        weight[:, way.width : 2 * way.width] = -drawn
    return weight


def carried(model: Model, stack: Stack) -> Passage | None:
    """The passage of a model whose layers below the wide one were crafted so, else None."""
    try:
        way = passage(model, stack)
    except InvalidInput:
        return None
    if way is None:
        return None
    expected = lower_weights(model, stack, way)
    weight = model.params[stack.hidden.weight]
    expected[stack.hidden.weight] = wide_rows(weight[:, : way.width], weight.shape[1], way)
    same = all(torch.equal(model.params[name], wanted) for name, wanted in expected.items())
    return way if same else None


def _rising(way: Passage) -> Passage:
    """Moved to where the activations rise, if they do not between the ends."""
    for shift in (0.0, -way.low.clamp(max=0)):
        moved = replace(way, shift=shift)
        steps = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
        values = moved.seen(way.low + (way.high - way.low) * steps)
        if bool((values.diff(dim=0) > 0).all()):
            return moved
    names = ", ".join(activation.name for activation in way.bent)
    raise InvalidInput(
        f"the activations below the wide layer ({names}) do not rise with their input, so data "
        "cannot be carried through them. Use a network with other activations, or Span."
    )


def _check_widths(model: Model, stack: Stack, way: Passage) -> None:
    needed = 2 * way.width if way.twofold else way.width

    def narrow(layer: Layer) -> bool:
        return len(model.params[layer.weight]) < needed

    found = [layer for layer in stack.layers[:-2] if narrow(layer)]
    if found:
        raise InvalidInput(
            f"layer '{found[0].name}' has {len(model.params[found[0].weight])} units, and carrying "
            f"{way.width} columns past it takes {needed}. Use a wider network, or Span."
        )


def _ends(model: Model, columns: int) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of each column of the data."""
    form = model.form
    if not isinstance(form, Images):
        far = torch.full((columns,), _FAR, dtype=torch.float64)
        return -far, far
    low, high = form.box(torch.zeros((), dtype=torch.float64))
    blank = torch.zeros(form.shape, dtype=torch.float64)
    return (blank + low).reshape(-1), (blank + high).reshape(-1)
