"""How many of a layer's inputs its output and its gradient fix: counted from shapes, without data.

The equations of a convolution are W x = z and K(k) x = g. K falls into classes of pixels that the
same offsets of the kernel reach: such a class has N pixels and m offsets, and O channels of k give
at most min(N, O m) independent equations for them. Where windows do not overlap, one that sees v
pixels gives at most min(O, C v) equations of W x = z. For every pair of output channels
<W_o, g_o'> = <k_o', z_o>, so r = O min(O, hw) equations are said twice.

The counts are upper bounds of the rank for a generic k (and usually equal to it).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from seepage.chains.chain import Chain
from seepage.chains.layers import Layer, Window


@dataclass(frozen=True)
class Shape:
    """The numbers of one convolution that decide its count."""

    channels: int
    outputs: int
    places: int
    groups: int
    seen: int
    rank: int
    outside: int
    apart: int | None

    @property
    def repeated(self) -> int:
        """r: the equations that both halves of the system say."""
        own = self.outputs // self.groups
        # Kernels that depend on each other repeat W x = z itself, which `outside` has left out.
        free = own if self.apart is None else min(own, self.apart)
        return self.groups * own * min(free, self.places)

    def count(self, known: int, repeated: int) -> int:
        """Independent equations, where `known` entries of z are fixed."""
        if self.rank == self.seen:
            return self.channels * self.seen
        outside = min(known, self.outside)
        return min(self.channels * self.seen, outside + self.channels * self.rank - repeated)


Places = tuple[Sequence[int], Sequence[int]]


def shape_of(layer: Layer, n: int = 1, places: Places | None = None) -> Shape:
    """The classes of pixels of a convolution, per axis and then in pairs, of n examples.

    `places` are the rows and columns of the output that count: by default all.
    """
    assert layer.window is not None
    (channels, *size), outputs = layer.inputs, layer.outputs[0]
    rows, columns = places or (range(layer.outputs[1]), range(layer.outputs[2]))
    axes = [_axis(layer.window, axis, size[axis], at) for axis, at in ((0, rows), (1, columns))]
    own = outputs // layer.window.groups
    pairs = [(n * tall * wide, u * v) for tall, u in axes[0] for wide, v in axes[1]]
    rank = sum(min(pixels, own * offsets) for pixels, offsets in pairs)
    seen = sum(pixels for pixels, _ in pairs)
    groups = layer.window.groups
    area = n * len(rows) * len(columns)
    outside, apart = outputs * area, None
    # Only where no row of K repeats another, or the same equation would be left out twice.
    if _apart(layer.window) and all(own * offsets <= pixels for pixels, offsets in pairs):
        views = [_views(layer.window, i, size[i], at) for i, at in ((0, rows), (1, columns))]
        each = [min(own, channels // groups * v * w) for v in views[0] for w in views[1]]
        outside, apart = n * groups * sum(each), layer.weight[0].numel()
    return Shape(channels, outputs, area, groups, seen, rank, outside, apart)


def layer_rank(layer: Layer, n: int = 1) -> int:
    """The most inputs that one layer's own output and gradient can fix.

    The difference to the number of inputs is the rank analysis index RA of Zhu & Blaschko 2021.
    Of n examples each has its own output, and all share one gradient.
    """
    if layer.window is None:
        return n * layer.unknowns
    shape = shape_of(layer, n)
    return shape.count(shape.outside, shape.repeated)


def network_ranks(
    chain: Chain,
    repeated: Sequence[int] | None = None,
    confirmed: Sequence[int | None] | None = None,
) -> list[int]:
    """The most inputs of each layer that the whole gradient can fix, from the last layer back.

    A layer whose own output is only partly known has fewer equations W x = z, and fewer of them
    are said twice. A kink costs a scale for each output channel; at one example more may be
    `repeated` by every layer. What a layer by itself was `confirmed` to fix is a bound too.
    """
    ranks: list[int] = []
    known = seen = 0
    least = repeated or [0 if y.after.smooth else y.outputs[0] for y in chain.layers]
    most = [layer.unknowns for layer in chain.layers]
    if confirmed is not None:
        most = [n if cap is None else min(n, cap) for n, cap in zip(most, confirmed, strict=True)]
    told = _told(chain)
    for i in reversed(range(len(chain.layers))):
        layer, twice, cap = chain.layers[i], least[i], most[i]
        if layer.window is None:
            rank, sees = cap, layer.unknowns
        else:
            shape = shape_of(layer, places=told[i])
            rank = min(cap, _with_known(shape, twice, known, seen))
            sees = shape.channels * shape.seen
        ranks.append(rank)
        known, seen = rank, sees
    return ranks[::-1]


def _told(chain: Chain) -> list[Places | None]:
    """The rows and columns of each output that the layers after see at all."""
    made: list[Places | None] = []
    for layer, following in zip(chain.layers[::-1], (None, *chain.layers[:0:-1]), strict=True):
        if layer.window is None or following is None or following.window is None:
            made.append(None)
            continue
        rows, columns = made[-1] or (range(following.outputs[1]), range(following.outputs[2]))
        sides = layer.outputs[1:]
        made.append(
            (
                _reached(following.window, 0, sides[0], rows),
                _reached(following.window, 1, sides[1], columns),
            )
        )
    return made[::-1]


def _reached(window: Window, axis: int, size: int, places: Sequence[int]) -> list[int]:
    """The pixels along one axis that the windows at these places see."""
    starts = [t * window.stride[axis] - window.padding[axis] for t in places]
    steps = [u * window.dilation[axis] for u in range(window.kernel[axis])]
    return sorted({start + step for start in starts for step in steps} & set(range(size)))


def _with_known(shape: Shape, least: int, known: int, seen: int) -> int:
    repeated = shape.repeated
    if known < seen:
        repeated = max(least, repeated - (seen - known))
    return shape.count(known, repeated)


def _apart(window: Window) -> bool:
    """Whether no pixel lies in two windows."""
    spans = [d * (k - 1) + 1 for d, k in zip(window.dilation, window.kernel, strict=True)]
    return all(span <= stride for span, stride in zip(spans, window.stride, strict=True))


def _views(window: Window, axis: int, size: int, places: Sequence[int]) -> list[int]:
    """How many pixels each window sees along one axis."""
    step, start = window.dilation[axis], -window.padding[axis]
    firsts = [start + t * window.stride[axis] for t in places]
    offsets = [u * step for u in range(window.kernel[axis])]
    return [sum(0 <= first + offset < size for offset in offsets) for first in firsts]


def _axis(window: Window, axis: int, size: int, places: Sequence[int]) -> list[tuple[int, int]]:
    """(pixels, offsets) of each class along one axis."""
    stride, dilation = window.stride[axis], window.dilation[axis]
    pixels: dict[int, set[int]] = {}
    offsets: dict[int, set[int]] = {}
    for u in range(window.kernel[axis]):
        start = u * dilation - window.padding[axis]
        for t in places:
            if 0 <= start + t * stride < size:
                pixels.setdefault(start % stride, set()).add(start + t * stride)
                offsets.setdefault(start % stride, set()).add(u)
    return [(len(pixels[c]), len(offsets[c])) for c in sorted(pixels)]
