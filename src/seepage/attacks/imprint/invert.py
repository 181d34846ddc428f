"""From the update of the rows back to examples: differences of neighbouring rows, divided."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seepage.attacks.imprint.block import Notes
from seepage.core import Observation, Reconstruction

__all__ = ["Found", "empty", "invert", "reconstruction"]

_LIVE = 1e-6  # of the largest bias gradient: below, a bin holds rounding errors only
_SLACK = 1e-4  # of the measure's spread: how far a value may lie outside its bin by rounding


@dataclass(frozen=True)
class Found:
    """What was read, one entry for each candidate, surest first."""

    x: Tensor
    certified: Tensor
    size: Tensor
    """Length of the bin's gradient: singletons are longer than what rounding leaves behind."""
    residual: Tensor
    bin: Tensor
    live: int


@dataclass(frozen=True)
class _Glimpse:
    """What a first pass over one bin keeps of it: numbers, not the bin itself."""

    row: int
    count: float
    size: float
    h: float
    promising: bool


def invert(weight: Tensor, bias: Tensor, notes: Notes, keep: int | None) -> Found:
    """D_l = gW_l - gW_{l+1}, d_l likewise, x_l = D_l / d_l for nested rows: one pass, O(k N).

    Fowl et al. 2021, arXiv 2110.13057. Row l fires for every example above its edge, all rows get
    the same gradient from an example, so the difference of neighbours holds the examples of one
    bin: a single one is read exactly. The last row is the top bin as it stands.

    Rows are subtracted in the update's own type: the difference of two floats is rounded once, to
    a part in 10^7 of itself, far below what summing over the batch has already lost.
    """
    order = torch.argsort(notes.lower[notes.direction >= 0].to(weight.device))
    rows = torch.nonzero(notes.direction >= 0).flatten().to(weight.device)[order].tolist()
    exact = bias.double()[rows]
    differences = (exact - torch.cat([exact[1:], exact.new_zeros(1)])).tolist()
    live = [i for i, d in enumerate(differences) if abs(d) > _LIVE * float(exact.abs().max())]
    if not live:
        return empty(weight)
    measure = notes.measures[0].to(weight)
    seen = [_glimpse(i, differences[i], _difference(weight, rows, i), measure, notes) for i in live]
    seen = [g for g in seen if g.size > 0]
    if not seen:
        return empty(weight)
    seen.sort(key=lambda g: (not _inside(g, notes, rows), -g.size))
    return _found(seen[:keep], weight, rows, notes, len(live))


def empty(like: Tensor) -> Found:
    """No live bin: the loss was saturated, or no example reached the rows."""
    none = like.new_empty(0)
    return Found(like.new_empty(0, like.shape[1]), none.bool(), none, none, none.long(), 0)


def reconstruction(seen: Observation, found: Found, notes: Notes) -> Reconstruction:
    """The candidates as the form has them, ordered and certified, with a note on the rest."""
    if not found.live:
        return Reconstruction.nothing(
            seen,
            "no bin received a gradient: no example fell into one, or the loss is saturated "
            "(lower `out` then)",
        )
    order = torch.argsort(found.certified.double() * 2 + found.size / found.size.max(), stable=True)
    order = order.flip(0)
    ordered = bool((order == torch.arange(len(order))).all())
    belief = (found.certified + found.size / found.size.max())[order]
    sure = int(found.certified.sum())
    said = f"{sure} of {len(order)} certified"
    said = said if sure else "not recovered: no candidate is certified, " + _why(found, notes)
    note = said + "".join(f"; {remark}" for remark in notes.remarks)
    like = next(iter(seen.model.params.values()))
    x = notes.reader.answer(found.x if ordered else found.x[order], like)
    trace: dict[str, Any] = {
        "bins": found.bin[order].tolist(),
        "certified": found.certified[order].tolist(),
        "live": found.live,
        "rows": int((notes.direction >= 0).sum()),
    }
    return Reconstruction(x, None, belief.to(like), found.residual[order].to(like), note, trace)


def _why(found: Found, notes: Notes) -> str:
    off, _ = notes.reader.judge(found.x[:1])
    if not bool(off.isnan()):
        return "every bin is off the data's grid: noise, several examples, or no 8-bit data"
    return "the form has no grid to test against"


def _difference(weight: Tensor, rows: list[int], i: int) -> Tensor:
    row = weight[rows[i]]
    return row - weight[rows[i + 1]] if i + 1 < len(rows) else row.clone()


def _glimpse(i: int, count: float, cell: Tensor, measure: Tensor, notes: Notes) -> _Glimpse:
    size, h = float(cell.norm()), float(cell @ measure) / count
    return _Glimpse(i, count, size, h, notes.reader.promising(cell / count))


def _inside(glimpse: _Glimpse, notes: Notes, rows: list[int]) -> bool:
    """Does the candidate fall into the bin that it was read from?"""
    slack, row = _SLACK * float(notes.spread[0]), rows[glimpse.row]
    above = glimpse.h >= float(notes.lower[row]) - slack
    return glimpse.promising and above and glimpse.h < float(notes.upper[row]) + slack


def _found(seen: list[_Glimpse], weight: Tensor, rows: list[int], notes: Notes, live: int) -> Found:
    x: Tensor | None = None
    verdicts = []
    for place, glimpse in enumerate(seen):
        features = _difference(weight, rows, glimpse.row).div_(glimpse.count)[None]
        candidate = notes.reader.examples(features)
        # Written in place: copying images at full size would cost more than reading them.
        x = candidate.new_empty(len(seen), candidate.shape[1]) if x is None else x
        verdicts.append(_judged(glimpse, candidate, x[place], notes, rows))
    assert x is not None
    return Found(
        x,
        torch.tensor([sure for sure, _ in verdicts]),
        torch.tensor([g.size for g in seen], dtype=torch.float64),
        torch.tensor([residual for _, residual in verdicts], dtype=torch.float64),
        torch.tensor([g.row for g in seen]),
        live,
    )


def _judged(
    glimpse: _Glimpse, x: Tensor, out: Tensor, notes: Notes, rows: list[int]
) -> tuple[bool, float]:
    """Writes the candidate (snapped if certified); whether it is, and its residual."""
    off, snapped = notes.reader.judge(x)
    if math.isnan(float(off[0])):
        out.copy_(x[0])
        return False, _outside(glimpse, notes, rows)
    sure = _inside(glimpse, notes, rows) and float(off[0]) <= 1
    out.copy_(snapped[0] if sure else x[0])
    return sure, float(x.sub_(snapped).norm() / out.norm())


def _outside(glimpse: _Glimpse, notes: Notes, rows: list[int]) -> float:
    """Distance of w.x outside its bin, in bin widths."""
    low, high = float(notes.lower[rows[glimpse.row]]), float(notes.upper[rows[glimpse.row]])
    width = high - low if math.isfinite(high - low) else float(notes.spread[0])
    return max(0.0, low - glimpse.h, glimpse.h - high) / width
