"""Several directions: an example found in one is subtracted from its bin in all the others."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seepage.attacks.imprint.block import Notes
from seepage.attacks.imprint.invert import Found, empty

__all__ = ["Rule", "on_grid", "peel"]

_LIVE = 1e-6
_EDGE = 1e-5  # of the spread: nearer to an edge, rounding decides the side


@dataclass(frozen=True)
class Rule:
    """When a bin is taken for a single example, and what is subtracted then."""

    judge: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Bins as (m, N) quotients and (m,) weights -> (m,) doubt, 1 at most; (m, N) examples."""
    slack: float = 1e-4
    """How far outside its bin an example may lie, in spreads of the measure."""
    same: float = 1e-6
    """Relative distance at which two examples are one."""


def on_grid(notes: Notes) -> Rule:
    """A bin is one example where its quotient lies on the grid of its kind of data."""
    return Rule(lambda features, _: notes.reader.judge(notes.reader.examples(features)))


@dataclass
class _Bins:
    """All bins of all directions; sums of g x and of g over the examples still in them."""

    sums: Tensor
    weights: Tensor
    direction: Tensor
    lower: Tensor
    upper: Tensor
    dirty: Tensor
    floor: float
    found: list["_Example"] = field(default_factory=list)


@dataclass(frozen=True)
class _Example:
    x: Tensor
    size: float
    residual: float
    bin: int


def peel(
    rows: tuple[Tensor, Tensor], notes: Notes, keep: int | None, nested: bool, rule: Rule
) -> Found:
    """Certify, subtract, repeat: like solving a puzzle where each answer uncovers others.

    With g = d and x the snapped example of a certified bin, (g x, g) leaves the bin that x falls
    into in each other direction; a bin with two examples is then a bin with one. The rule is that
    of erasure codes (a bin is a check, an example a variable), and so is its sudden success once
    there are rows enough. Only certified examples are ever subtracted, so no guess can spread.
    """
    bins = _bins(rows, notes, nested)
    if not bool((bins.weights.abs() > bins.floor).any()):
        return empty(rows[0])
    live = int((bins.weights.abs() > bins.floor).sum())
    while fresh := _certified(bins, notes, rule):
        for example, _ in sorted(fresh, key=lambda pair: pair[1]):
            if not _known(example, bins.found, rule.same):
                bins.found.append(example)
                _subtract(example, bins, notes)
    return _answer(bins, notes, keep, live)


def _bins(rows: tuple[Tensor, Tensor], notes: Notes, nested: bool) -> _Bins:
    """Every direction's bins in double precision: of nested rows, differences of neighbours."""
    weight, bias = (tensor.detach().cpu() for tensor in rows)
    cells, index = [], []
    for p in range(len(notes.measures)):
        own = torch.nonzero(notes.direction == p).flatten()
        own = own[torch.argsort(notes.lower[own])]
        exact = torch.cat([weight[own].double(), bias[own, None].double()], 1)
        above = torch.cat([exact[1:], exact.new_zeros(1, exact.shape[1])])
        cells.append(exact - above if nested else exact)
        index.append(own)
    together, order = torch.cat(cells), torch.cat(index)
    return _Bins(
        together[:, :-1],
        together[:, -1],
        notes.direction[order],
        notes.lower[order],
        notes.upper[order],
        torch.ones(len(order), dtype=torch.bool, device=weight.device),
        _LIVE * float(bias.double().abs().max()),
    )


def _certified(bins: _Bins, notes: Notes, rule: Rule) -> list[tuple[_Example, float]]:
    """The bins changed since the last round that hold one real example each."""
    tested = torch.nonzero(bins.dirty & (bins.weights.abs() > bins.floor)).flatten()
    bins.dirty[:] = False
    if not len(tested):
        return []
    features = bins.sums[tested] / bins.weights[tested, None]
    off, snapped = rule.judge(features, bins.weights[tested])
    h = (features * notes.measures.to(features)[bins.direction[tested]]).sum(1).cpu()
    slack = rule.slack * notes.spread[bins.direction[tested]]
    where = tested.cpu()
    inside = (h >= bins.lower[where] - slack) & (h < bins.upper[where] + slack)
    return [
        (_example(bins, int(tested[i]), features[i], snapped[i]), float(off[i]))
        for i in torch.nonzero((off.cpu() <= 1) & inside).flatten().tolist()
    ]


def _example(bins: _Bins, index: int, features: Tensor, snapped: Tensor) -> _Example:
    residual = float((features - snapped).norm() / features.norm())
    return _Example(snapped, float(bins.sums[index].norm()), residual, index)


def _known(example: _Example, found: list[_Example], same: float) -> bool:
    near = same * float(example.x.norm())
    return any(float((example.x - other.x).norm()) <= near for other in found)


def _subtract(example: _Example, bins: _Bins, notes: Notes) -> None:
    """Take the example out of its bin in every direction; its own bin is then empty."""
    g = bins.weights[example.bin].clone()
    own = int(bins.direction[example.bin])
    h = notes.measures.to(example.x) @ example.x
    for p in range(len(notes.measures)):
        if p != own:
            target = _target(float(h[p]), p, example.x, g, bins, notes)
            if target is None:
                continue
            bins.sums[target] -= g * example.x
            bins.weights[target] -= g
            bins.dirty[target] = True
    bins.sums[example.bin] = 0
    bins.weights[example.bin] = 0


def _target(h: float, p: int, x: Tensor, g: Tensor, bins: _Bins, notes: Notes) -> int | None:
    """The bin of direction p that holds h; at an edge, the one that the example leaves emptier."""
    slack = _EDGE * float(notes.spread[p])
    fits = (bins.direction == p) & (bins.lower - slack <= h) & (h < bins.upper + slack)
    choices = torch.nonzero(fits).flatten().tolist()
    if not choices:  # outside all bins of this direction: none of its rows fired
        return None
    sizes = [float((bins.sums[i] - g * x).norm()) for i in choices]
    return int(choices[sizes.index(min(sizes))])


def _answer(bins: _Bins, notes: Notes, keep: int | None, live: int) -> Found:
    """The certified examples; then, up to the number known, what is left in the fullest bins."""
    rest = _leftovers(bins, notes)
    kept = (bins.found + rest)[: keep or len(bins.found) + len(rest)]
    if not kept:
        return empty(bins.sums)
    return Found(
        torch.stack([e.x for e in kept]),
        torch.arange(len(kept)) < len(bins.found),
        torch.tensor([e.size for e in kept], dtype=torch.float64),
        torch.tensor([e.residual for e in kept], dtype=torch.float64),
        torch.tensor([e.bin for e in kept]),
        live,
    )


def _leftovers(bins: _Bins, notes: Notes) -> list[_Example]:
    """Mixtures of the first direction: not certified, but an answer for every bin still full."""
    full = (bins.direction == 0).to(bins.weights.device) & (bins.weights.abs() > bins.floor)
    order = torch.nonzero(full).flatten()
    sizes = bins.sums[order].norm(dim=1)
    order = order[sizes.argsort(descending=True)]
    features = bins.sums[order] / bins.weights[order, None]
    x = notes.reader.examples(features)
    if not len(order):
        return []
    _, snapped = notes.reader.judge(x)
    return [
        _Example(
            x[i], float(bins.sums[j].norm()), float((x[i] - snapped[i]).norm() / x[i].norm()), j
        )
        for i, j in enumerate(order.tolist())
    ]
