"""Is a candidate a real example? A test that needs no truth, because data lie on a grid."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from seepage.forms import Form, Images, Table

__all__ = ["Grid", "Judge", "Levels", "Reader", "Vocabulary", "judge_of"]

_GLANCE = 256  # entries that decide whether the others are worth looking at
_TINY = 1e-30


Cell = Callable[[slice], Tensor]
"""A part of a bin's sum D, in memory that its reader may use up."""


class Judge(Protocol):
    """(m, M) candidates -> (m,) how far off the grid, 1 being the most allowed; (m, M) snapped."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Reader:
    """From what the rows saw to examples of the form."""

    judge: Judge
    shape: tuple[int, ...]
    decode: Callable[[Tensor], Tensor] | None = None
    """From the layer's input to the network's; None where the rows see the input itself."""

    def examples(self, features: Tensor) -> Tensor:
        """(m, N) of what the rows saw -> (m, M) candidates."""
        return features if self.decode is None else self.decode(features)

    def glance(self, features: Tensor) -> Tensor:
        """(m, N) -> (m, G): the entries that tell whether the others are worth looking at."""
        if self.decode is None and isinstance(self.judge, Grid):
            return self.judge.glance(features)
        return features

    def doubts(self, glances: Tensor) -> tuple[Tensor, Tensor]:
        """(m, G) -> (m,) how far off the grid at least, and the relative distance to it."""
        if self.decode is not None:  # no entry of carried images can be read alone
            return glances.new_zeros(len(glances)), glances.new_zeros(len(glances))
        off, snapped = self.judge(glances)
        return off, (glances - snapped).norm(dim=1) / glances.norm(dim=1).clamp_min(_TINY)

    def read(self, cell: Cell, count: float, out: Tensor) -> tuple[float, float]:
        """Writes the example cell / count, snapped where it has a grid; how far off it was, and
        at what distance.
        """
        if self.decode is None and isinstance(self.judge, Grid):
            return self.judge.read(cell, count, out)
        x = self.examples((cell(slice(None)) / count)[None])
        off, snapped = self.judge(x)
        out.copy_((snapped if bool(off <= 1) else x)[0])
        return float(off), float((x - snapped).norm())

    def answer(self, x: Tensor, like: Tensor) -> Tensor:
        """Candidates as the form has them: token numbers for text, the model's type otherwise."""
        if isinstance(self.judge, Vocabulary):
            return self.judge.tokens(x).to(like.device)
        return x.reshape(-1, *self.shape).to(like)


@dataclass(frozen=True)
class Grid:
    """Photographs have 8 bits: v = 255 (raw - low)/(high - low) is whole, to within .12.

    A mixture of two photographs hits whole numbers in all of its thousands of pixels only where
    the second one's share is too small to change any of them.

    >>> grid = Grid(Images((1, 1, 2), classes=2))
    >>> grid(torch.tensor([[51.01 / 255, 1.0], [51.4 / 255, 1.0]]))[0] <= 1
    tensor([ True, False])
    """

    form: Images
    tolerance: float = 0.12

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        snapped = torch.empty_like(x)
        parts = zip(self.lines, self._channels(x), self._channels(snapped), strict=True)
        away = [line.rounded(part.clone(), into) for line, part, into in parts]
        return torch.stack([a.abs_().amax(1) for a in away]).amax(0) / self.tolerance, snapped

    def read(self, cell: Cell, count: float, out: Tensor) -> tuple[float, float]:
        """Writes the image nearest to cell / count; how far off that was, and at what distance.

        Channel by channel and in place, so that what is in between stays in the processor's cache:
        a large image costs little more than reading it and writing the answer.
        """
        size, worst, total = len(out) // len(self.lines), 0.0, 0.0
        for place, line in enumerate(self.lines):
            span = slice(place * size, (place + 1) * size)
            away = line.rounded(cell(span), out[span], count)
            square = float(torch.dot(away, away))
            # The length bounds the largest entry, and mostly is small enough itself.
            near = square <= self.tolerance**2
            worst = max(worst, square**0.5 if near else float(away.abs_().amax()))
            total += square / line.slope**2
        return worst / self.tolerance, total**0.5

    @cached_property
    def lines(self) -> list["_Line"]:
        """How the levels of each channel become the network's input."""
        form, channels = self.form, self.form.shape[0]
        step = (form.high - form.low) / 255
        mean, std = form.mean or (0.0,) * channels, form.std or (1.0,) * channels
        return [_Line(step, form.low, *each) for each in zip(mean, std, strict=True)]

    def glance(self, x: Tensor) -> Tensor:
        """Evenly spread entries of every channel."""
        channels = x.reshape(len(x), self.form.shape[0], -1)
        return channels[:, :, :: max(1, x[0].numel() // _GLANCE)].flatten(1)

    def _channels(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.reshape(len(x), self.form.shape[0], -1).unbind(1)


class _Line(NamedTuple):
    """x = (level step + low - mean) / std, in one channel."""

    step: float
    low: float
    mean: float
    std: float

    @property
    def slope(self) -> float:
        """Levels per unit of the network's input."""
        return self.std / self.step

    def rounded(self, x: Tensor, out: Tensor, unit: float = 1.0) -> Tensor:
        """Writes the nearest level of x / unit to `out`; x becomes how many levels off it was.

        `out` is computed as clients compute it from 8-bit files, and equal to theirs to the bit.
        """
        x.mul_(self.slope / unit).add_((self.mean - self.low) / self.step)
        torch.round(x, out=out).clamp_(0, 255)
        x.sub_(out)
        out.div_(1 / self.step)
        if self.low:
            out.add_(self.low)
        if (self.mean, self.std) != (0.0, 1.0):
            out.sub_(self.mean).div_(self.std)
        return x


@dataclass(frozen=True)
class Levels:
    """A row of a table is real if every one-hot group is within .01 of a vertex."""

    form: Table
    tolerance: float = 0.01

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        snapped, off = x.clone(), x.new_full((len(x),), math.nan)
        for column, part in self.form.groups():
            if column.levels:
                vertex = torch.zeros_like(x[:, part])
                vertex[torch.arange(len(x)), x[:, part].argmax(1)] = 1
                away = (x[:, part] - vertex).abs().amax(1) / self.tolerance
                snapped[:, part], off = vertex, torch.fmax(off, away)
        return off, snapped


@dataclass(frozen=True)
class Vocabulary:
    """A sentence is real if every position is within .01 of a word's embedding there."""

    table: Tensor
    """(V, L, W) float64: what the rows see of word v at position l."""
    tolerance: float = 0.01

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ids = self.tokens(x)
        _, length, width = self.table.shape
        snapped = self.table[ids, torch.arange(length)].to(x).reshape(len(x), length * width)
        return (x - snapped).abs().amax(1) / self.tolerance, snapped

    def tokens(self, x: Tensor) -> Tensor:
        """(m, L * W) -> (m, L): the nearest word at each position."""
        words = self.table.transpose(0, 1)
        seen = x.to(words).reshape(len(x), len(words), -1).transpose(0, 1)
        return torch.cdist(seen, words).argmin(2).T


def judge_of(form: Form, table: Tensor | None) -> Judge:
    """The test that fits the form of the data."""
    if isinstance(form, Images):
        return Grid(form)
    if isinstance(form, Table):
        return Levels(form)
    assert table is not None
    return Vocabulary(table)
