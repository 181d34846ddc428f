"""How much of its input a network's gradient fixes: counted without data, or measured with it.

`layers(model)` counts equations layer by layer and over the whole network, names the tier of risk
and which change of the architecture moves it. `jacobian(model, batch)` measures any network at an
input. Zhu & Blaschko 2021, arXiv 2010.07733, introduced the count per layer.
"""

from dataclasses import dataclass
from typing import Literal

from seepage.analysis.advice import advised
from seepage.analysis.confirm import layer_rank_found
from seepage.analysis.overlap import repeated
from seepage.analysis.spectrum import Cost, Spectrum, cost, jacobian
from seepage.chains import Chain, layer_rank, network_ranks, walk
from seepage.core import Batch, Model

__all__ = ["Cost", "Exposure", "Row", "Spectrum", "Tier", "cost", "jacobian", "layers", "table"]

Tier = Literal["recursive", "identifiable", "deficient"]

MEANING = {
    "recursive": "every layer's input follows from the layer after it: RGap reads one example in "
    "closed form, in seconds.",
    "identifiable": "the recursion stops at a layer that is short of equations, but the whole "
    "gradient still fixes the input: solving layers jointly can recover it.",
    "deficient": "one gradient of one example leaves directions of the input undetermined nearby; "
    "the rest leaks, and priors or further rounds add information.",
}


@dataclass(frozen=True)
class Row:
    """One layer: its unknowns, what its own equations fix, and what the whole gradient fixes.

    `count` is an upper bound from shapes, `confirmed` the rank of the layer's own equations by
    numbers (None above the size that is checked), `network` an upper bound that allows for what
    the layers behind leave open.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    unknowns: int
    count: int
    confirmed: int | None
    network: int

    @property
    def rank(self) -> int:
        return self.count if self.confirmed is None else min(self.count, self.confirmed)

    @property
    def deficit(self) -> int:
        """RA, never above zero: how many equations the layer is short of by itself."""
        return self.rank - self.unknowns

    @property
    def network_deficit(self) -> int:
        """How many directions of this input the whole gradient leaves open, at the least."""
        return self.network - self.unknowns


@dataclass(frozen=True)
class Exposure:
    """A network's rows, its tier of risk in one word and one sentence, and what would move it."""

    rows: tuple[Row, ...]
    tier: Tier
    meaning: str
    advice: tuple[str, ...]

    def __str__(self) -> str:
        lines = [_HEAD, *map(_line, self.rows), "", f"{self.tier}: {self.meaning}"]
        return "\n".join([*lines, *(f"- {text}" for text in self.advice)])


def table(model: Model, most: int = 4000, batch: Batch | None = None) -> tuple[Row, ...]:
    """A row for every layer of a chain; layers of up to `most` unknowns are confirmed by numbers.

    At one example, `batch`, the count of the whole network also sees which channels have the same
    signs: their equations repeat each other.

    >>> from seepage import zoo
    >>> [(row.name, row.unknowns, row.deficit) for row in table(_model(zoo.three_conv(12, 8)), 0)]
    [('conv1', 768, 0), ('conv2', 972, -164), ('conv3', 200, 0), ('linear', 900, 0)]
    """
    return _rows(model, walk(model, "rank.layers"), most, batch)


def layers(model: Model, most: int = 4000, batch: Batch | None = None) -> Exposure:
    """The rows, the tier, and which change of the architecture moves it. No data are needed.

    >>> from seepage import zoo
    >>> layers(_model(zoo.three_conv(12, 8)), most=0).tier
    'identifiable'
    """
    chain = walk(model, "rank.layers")
    rows = _rows(model, chain, most, batch)
    tier = _tier(rows)
    return Exposure(rows, tier, MEANING[tier], tuple(advised(chain, rows[0].network_deficit)))


def _rows(model: Model, chain: Chain, most: int, batch: Batch | None) -> tuple[Row, ...]:
    confirmed = [
        layer_rank_found(layer, following=following) if layer.unknowns <= most else None
        for layer, following in zip(chain.layers, (*chain.layers[1:], None), strict=True)
    ]
    twice = None if batch is None else repeated(model, chain, batch)
    return tuple(
        Row(layer.name, layer.kind, layer.inputs, layer.unknowns, layer_rank(layer), found, whole)
        for layer, found, whole in zip(
            chain.layers, confirmed, network_ranks(chain, twice, confirmed), strict=True
        )
    )


def _tier(rows: tuple[Row, ...]) -> Tier:
    if rows[0].network_deficit < 0:
        return "deficient"
    return "recursive" if all(row.deficit == 0 for row in rows) else "identifiable"


_HEAD = f"{'layer':<16}{'unknowns':>10}{'count':>10}{'confirmed':>11}{'RA':>9}{'network':>10}"


def _line(row: Row) -> str:
    confirmed = "-" if row.confirmed is None else str(row.confirmed)
    return (
        f"{row.name[:15]:<16}{row.unknowns:>10}{row.count:>10}{confirmed:>11}"
        f"{row.deficit:>9}{row.network_deficit:>10}"
    )


def _model(module: "object") -> Model:
    """The examples' model: 16x16 images in ten classes."""
    from torch import nn

    from seepage.forms import Images

    assert isinstance(module, nn.Module)
    return Model.of(module, nn.functional.cross_entropy, Images((3, 16, 16), classes=10))
