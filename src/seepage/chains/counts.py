"""How many of a layer's inputs its output and its gradient fix: counted from shapes, without data.

The equations of a convolution are W x = z and K(k) x = g. K falls into classes of pixels that the
same offsets of the kernel reach: such a class has N pixels and m offsets, and O channels of k give
at most min(N, O m) independent equations for them. For every pair of output channels
<W_o, g_o'> = <k_o', z_o>, so r = O min(O, hw) equations are said twice.

The counts are upper bounds of the rank for a generic k (and usually equal to it).
"""

from dataclasses import dataclass

from seepage.chains.layers import Layer, Window
from seepage.chains.walk import Chain


@dataclass(frozen=True)
class Shape:
    """The numbers of one convolution that decide its count."""

    channels: int
    outputs: int
    places: int
    groups: int
    seen: int
    rank: int

    @property
    def repeated(self) -> int:
        """r: the equations that both halves of the system say."""
        own = self.outputs // self.groups
        return self.groups * own * min(own, self.places)

    def count(self, outside: int, repeated: int) -> int:
        """Independent equations, where `outside` many of W x = z are known."""
        if self.rank == self.seen:
            return self.channels * self.seen
        return min(self.channels * self.seen, outside + self.channels * self.rank - repeated)


def shape_of(layer: Layer) -> Shape:
    """The classes of pixels of a convolution, per axis and then in pairs."""
    assert layer.window is not None
    (channels, *size), (outputs, *places) = layer.inputs, layer.outputs
    axes = [_axis(layer.window, axis, size[axis], places[axis]) for axis in (0, 1)]
    own = outputs // layer.window.groups
    pairs = [(n * p, m * q) for n, m in axes[0] for p, q in axes[1]]
    rank = sum(min(pixels, own * offsets) for pixels, offsets in pairs)
    seen = sum(pixels for pixels, _ in pairs)
    return Shape(channels, outputs, places[0] * places[1], layer.window.groups, seen, rank)


def layer_rank(layer: Layer) -> int:
    """The most inputs that one layer's own output and gradient can fix.

    The difference to the number of inputs is the rank analysis index RA of Zhu & Blaschko 2021.
    """
    if layer.window is None:
        return layer.unknowns
    shape = shape_of(layer)
    return shape.count(shape.outputs * shape.places, shape.repeated)


def network_ranks(chain: Chain) -> list[int]:
    """The most inputs of each layer that the whole gradient can fix, from the last layer back.

    A layer whose own output is only partly known has fewer equations W x = z, and fewer of them
    are said twice. A kink costs a scale for each output channel.
    """
    ranks: list[int] = []
    known = seen = 0
    for layer in reversed(chain.layers):
        if layer.window is None:
            rank, sees = layer.unknowns, layer.unknowns
        else:
            shape = shape_of(layer)
            rank = min(layer.unknowns, _with_known(layer, shape, known, seen))
            sees = shape.channels * shape.seen
        ranks.append(rank)
        known, seen = rank, sees
    return ranks[::-1]


def _with_known(layer: Layer, shape: Shape, known: int, seen: int) -> int:
    least = 0 if layer.after.smooth else shape.outputs
    repeated = shape.repeated
    if known < seen:
        repeated = max(least, repeated - (seen - known))
    return shape.count(known, repeated)


def _axis(window: Window, axis: int, size: int, places: int) -> list[tuple[int, int]]:
    """(pixels, offsets) of each class along one axis."""
    stride, dilation = window.stride[axis], window.dilation[axis]
    pixels: dict[int, set[int]] = {}
    offsets: dict[int, set[int]] = {}
    for u in range(window.kernel[axis]):
        start = u * dilation - window.padding[axis]
        for t in range(places):
            if 0 <= start + t * stride < size:
                pixels.setdefault(start % stride, set()).add(start + t * stride)
                offsets.setdefault(start % stride, set()).add(u)
    return [(len(pixels[c]), len(offsets[c])) for c in sorted(pixels)]
