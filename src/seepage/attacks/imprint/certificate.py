"""Is a candidate a real example? A test that needs no truth, because data lie on a grid."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from seepage.forms import Form, Images, Table

__all__ = ["Grid", "Judge", "Levels", "Reader", "Vocabulary", "judge_of"]

_GLANCE = 1024  # entries that decide whether the others are worth looking at


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

    def promising(self, features: Tensor) -> bool:
        """Whether one candidate survives a glance at some of its entries (cheap)."""
        if self.decode is not None or not isinstance(self.judge, Grid):
            return True
        return self.judge.glance(features)

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
        channels = x.reshape(len(x), self.form.shape[0], -1)
        slope, start = self._levels(x)
        levels = torch.addcmul(start, channels, slope)
        whole = levels.round()
        outside = (whole.amin((1, 2)) < 0) | (whole.amax((1, 2)) > 255)
        off = levels.sub_(whole).abs_().amax((1, 2)) / self.tolerance
        snapped = whole.sub_(start).div_(slope).reshape(x.shape)
        return off.masked_fill(outside, math.inf), snapped

    def glance(self, x: Tensor) -> bool:
        """The same test on evenly spread entries."""
        channels = x.reshape(self.form.shape[0], -1)
        stride = max(1, channels.shape[1] * len(channels) // _GLANCE)
        slope, start = self._levels(x)
        levels = channels[:, ::stride] * slope[0] + start[0]
        return bool((levels - levels.round()).abs().amax() <= self.tolerance)

    def _levels(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and start (1, C, 1) of the line from network input to level."""
        low, high = (edge.reshape(1, -1, 1) for edge in self.form.box(like))
        slope = 255 / (high - low)
        return slope, -low * slope


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
