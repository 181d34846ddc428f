"""Several directions: an example found in one is subtracted from its bin in all the others."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.imprint.block import Notes
from seepage.attacks.imprint.invert import Found, empty
from seepage.attacks.imprint.sharpen import Bins, Example, merged, reweigh

__all__ = ["Rule", "on_grid", "peel"]

_LIVE = 1e-6
_FITS = 2
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
    exact: bool = False
    """Whether examples are known to the bit, so that their weights can be fitted to all bins."""


def on_grid(notes: Notes, dtype: torch.dtype = torch.float32) -> Rule:
    """A bin is one example where its quotient lies on the grid of its kind of data.

    Examples are snapped in the client's own precision: in double precision they would differ from
    those that were summed by a rounding that all bins share and no fit removes.
    """

    def judge(features: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        off, snapped = notes.reader.judge(notes.reader.examples(features.to(dtype)))
        return off, snapped.double()

    return Rule(judge, exact=True)


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
    if not bool(bins.live().any()):
        return empty(rows[0])
    live = int(bins.live().sum())
    while _round(bins, notes, rule) or (rule.exact and _sharper(bins, notes, rule)):
        pass
    return _answer(bins, notes, keep, live)


def _round(bins: Bins, notes: Notes, rule: Rule) -> bool:
    """Look at the bins that changed since the last round; whether anything new was found."""
    tested = torch.nonzero(bins.dirty & bins.live()).flatten()
    bins.dirty[:] = False
    return _take(tested, (bins.sums[tested], bins.weights[tested]), bins, notes, rule)


def _sharper(bins: Bins, notes: Notes, rule: Rule) -> bool:
    """Look at all bins again, with as little noise in them as what was found allows."""
    tested = torch.nonzero(bins.live()).flatten()
    if not (bins.found and len(tested)):
        return False
    reweigh(bins)
    sums, weights = merged(bins, tested)
    for _ in range(_FITS):  # a bin's weight, too, is better told by its thousands of entries
        _, x = rule.judge(sums / weights[:, None], weights)
        weights = (sums * x).sum(1) / x.square().sum(1)
    return _take(tested, (sums, weights), bins, notes, rule)


def _take(
    tested: Tensor, held: tuple[Tensor, Tensor], bins: Bins, notes: Notes, rule: Rule
) -> bool:
    """Subtract every certified example that is new, surest first; whether there was any."""
    before = len(bins.found)
    for example, _ in sorted(_certified(tested, held, bins, notes, rule), key=lambda pair: pair[1]):
        if not _known(example, bins.found, rule.same):
            bins.found.append(_subtracted(example, bins, notes))
    return len(bins.found) > before


def _bins(rows: tuple[Tensor, Tensor], notes: Notes, nested: bool) -> Bins:
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
    return Bins(
        together[:, :-1],
        together[:, -1],
        notes.direction[order],
        notes.lower[order],
        notes.upper[order],
        torch.ones(len(order), dtype=torch.bool, device=weight.device),
        _LIVE * float(bias.double().abs().max()),
    )


def _certified(
    tested: Tensor, held: tuple[Tensor, Tensor], bins: Bins, notes: Notes, rule: Rule
) -> list[tuple[Example, float]]:
    """Which of these bins, by the sum and weight that they hold, are one real example each."""
    if not len(tested):
        return []
    sums, weights = held
    features = sums / weights[:, None]
    off, snapped = rule.judge(features, weights)
    h = (features * notes.measures.to(features)[bins.direction[tested]]).sum(1).cpu()
    slack = rule.slack * notes.spread[bins.direction[tested]]
    where = tested.cpu()
    inside = (h >= bins.lower[where] - slack) & (h < bins.upper[where] + slack)
    residual = (features - snapped).norm(dim=1) / features.norm(dim=1)
    size = sums.norm(dim=1)
    return [
        (
            Example(
                snapped[i], float(weights[i]), float(size[i]), float(residual[i]), (int(tested[i]),)
            ),
            float(off[i]),
        )
        for i in torch.nonzero((off.cpu() <= 1) & inside).flatten().tolist()
    ]


def _known(example: Example, found: list[Example], same: float) -> bool:
    near = same * float(example.x.norm())
    return any(float((example.x - other.x).norm()) <= near for other in found)


def _subtracted(example: Example, bins: Bins, notes: Notes) -> Example:
    """Take the example out of its bin in every direction; its own bin is then empty."""
    g = example.weight
    own = int(bins.direction[example.bins[0]])
    h = notes.measures.to(example.x) @ example.x
    others = [p for p in range(len(notes.measures)) if p != own]
    targets = [_target(float(h[p]), p, example.x, g, bins, notes) for p in others]
    held = (*example.bins, *(target for target in targets if target is not None))
    for target in held:
        bins.sums[target] -= g * example.x
        bins.weights[target] -= g
        bins.dirty[target] = target != example.bins[0]
    return replace(example, bins=held)


def _target(h: float, p: int, x: Tensor, g: float, bins: Bins, notes: Notes) -> int | None:
    """The bin of direction p that holds h; at an edge, the one that the example leaves emptier."""
    slack = _EDGE * float(notes.spread[p])
    fits = (bins.direction == p) & (bins.lower - slack <= h) & (h < bins.upper + slack)
    choices = torch.nonzero(fits).flatten().tolist()
    if not choices:  # outside all bins of this direction: none of its rows fired
        return None
    sizes = [float((bins.sums[i] - g * x).norm()) for i in choices]
    return int(choices[sizes.index(min(sizes))])


def _answer(bins: Bins, notes: Notes, keep: int | None, live: int) -> Found:
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
        torch.tensor([e.bins[0] for e in kept]),
        live,
    )


def _leftovers(bins: Bins, notes: Notes) -> list[Example]:
    """Mixtures of the first direction: not certified, but an answer for every bin still full."""
    full = (bins.direction == 0).to(bins.weights.device) & bins.live()
    order = torch.nonzero(full).flatten()
    sizes = bins.sums[order].norm(dim=1)
    order = order[sizes.argsort(descending=True)]
    features = bins.sums[order] / bins.weights[order, None]
    x = notes.reader.examples(features)
    if not len(order):
        return []
    _, snapped = notes.reader.judge(x)
    off = (x - snapped).norm(dim=1) / x.norm(dim=1)
    return [
        Example(x[i], float(bins.weights[j]), float(bins.sums[j].norm()), float(off[i]), (j,))
        for i, j in enumerate(order.tolist())
    ]
