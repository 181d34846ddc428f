"""From the update of the rows back to examples: differences of neighbouring rows, divided."""

import math
from dataclasses import dataclass
from typing import Any

import numpy
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
class _Bin:
    """Where a bin's sum stands: the rows that differ by it, and what it is divided by."""

    row: int
    above: int | None
    """The row of the next edge; none above the last."""
    count: float
    place: int
    """How many edges lie below: the bin's number."""

    def cell(self, weight: Tensor, out: Tensor) -> Tensor:
        """D_l = gW_l - gW_{l+1}."""
        row = weight[self.row]
        return out.copy_(row) if self.above is None else torch.sub(row, weight[self.above], out=out)


@dataclass(frozen=True)
class _Glance:
    """What a look at some entries of a bin tells."""

    bin: _Bin
    size: float
    off: float
    residual: float


def invert(weight: Tensor, bias: Tensor, notes: Notes, keep: int | None) -> Found:
    """D_l = gW_l - gW_{l+1}, d_l likewise, x_l = D_l / d_l for nested rows: one pass, O(k N).

    Fowl et al. 2021, arXiv 2110.13057. Row l fires for every example above its edge, all rows get
    the same gradient from an example, so the difference of neighbours holds the examples of one
    bin: a single one is read exactly. The last row is the top bin as it stands.

    Rows are subtracted in the update's own type: the difference of two floats is rounded once, to
    a part in 10^7 of itself, far below what summing over the batch has already lost. A glance at
    some hundred entries of each bin tells which to read; only those are read whole, and once.
    """
    bins = _bins(bias, notes)
    glances = _glanced(bins, weight, notes) if bins else []
    return _found(glances[:keep], weight, notes, len(bins)) if glances else empty(weight)


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


def _bins(bias: Tensor, notes: Notes) -> list[_Bin]:
    """The bins that hold more than rounding errors."""
    nested = torch.nonzero(notes.direction >= 0).flatten()
    rows = nested[torch.argsort(notes.lower[nested])].tolist()
    exact = bias.double().cpu()[rows]
    counts = (exact - torch.cat([exact[1:], exact.new_zeros(1)])).tolist()
    floor = _LIVE * float(exact.abs().max())
    above = [*rows[1:], None]
    return [
        _Bin(row, above[i], counts[i], i) for i, row in enumerate(rows) if abs(counts[i]) > floor
    ]


def _glanced(bins: list[_Bin], weight: Tensor, notes: Notes) -> list[_Glance]:
    """A glance at all bins: those that look like real examples first, then the largest."""
    sample = notes.reader.glance(weight)
    cells = sample.new_empty(len(bins), sample.shape[1])
    for b, cell in zip(bins, cells, strict=True):
        b.cell(sample, cell)
    size = cells.double().norm(dim=1) * (weight.shape[1] / sample.shape[1]) ** 0.5
    counts = torch.tensor([b.count for b in bins], dtype=cells.dtype, device=cells.device)
    off, residual = notes.reader.doubts(cells / counts[:, None])
    columns = (each.tolist() for each in (size, off, residual))
    seen = [_Glance(*each) for each in zip(bins, *columns, strict=True)]
    return sorted((g for g in seen if g.size > 0), key=lambda g: (g.off > 1, -g.size))


def _found(glances: list[_Glance], weight: Tensor, notes: Notes, live: int) -> Found:
    reader, tools = notes.reader, (notes.measures[0].to(weight), torch.empty_like(weight[0]))
    width = weight.shape[1] if reader.decode is None else math.prod(reader.shape)
    x = _room(len(glances), width, weight)
    read = [_read(g, weight, tools, into, notes) for g, into in zip(glances, x, strict=True)]
    certified, residual = zip(*read, strict=True)
    return Found(
        x,
        torch.tensor(certified),
        torch.tensor([g.size for g in glances], dtype=torch.float64),
        torch.tensor(residual, dtype=torch.float64),
        torch.tensor([g.bin.place for g in glances]),
        live,
    )


def _read(
    glance: _Glance, weight: Tensor, tools: tuple[Tensor, Tensor], out: Tensor, notes: Notes
) -> tuple[bool, float]:
    """Writes the candidate (snapped if it has a grid): whether it is certified, and its residual.

    `tools` are the measure, and memory for one bin that all of them use in turn.
    """
    b, (measure, scratch) = glance.bin, tools
    if glance.off > 1:
        b.cell(weight, out).mul_(1 / b.count)
        return False, glance.residual
    h = []

    def cell(span: slice) -> Tensor:
        some = weight[:, span]
        part = b.cell(some, scratch[: some.shape[1]])
        h.append(float(torch.dot(part, measure[span])) / b.count)
        return part

    off, error = notes.reader.read(cell, b.count, out)
    outside = _outside(sum(h), b.row, notes)
    sure = off <= 1 and outside <= _SLACK * float(notes.spread[0])
    if not math.isnan(off):
        return sure, error * abs(b.count) / glance.size
    width = float(notes.upper[b.row] - notes.lower[b.row])
    return False, outside / (width if width < math.inf else float(notes.spread[0]))


def _outside(h: float, row: int, notes: Notes) -> float:
    """How far the measure of a candidate lies outside the bin that it was read from."""
    return max(0.0, float(notes.lower[row]) - h, h - float(notes.upper[row]))


def _room(rows: int, width: int, like: Tensor) -> Tensor:
    """New memory for the answer, in large pages where there are any.

    First touching 40 MB in pages of 4 kB costs more than all the arithmetic; NumPy asks the kernel
    for large ones, PyTorch does not.
    """
    if like.device.type != "cpu":
        return like.new_empty(rows, width)
    size = rows * width * like.element_size()
    return torch.from_numpy(numpy.empty(size, numpy.uint8)).view(like.dtype).view(rows, width)
