"""Whole sentences of a decoder from token lists: prefixes that stay in block 1's span."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.spans import Span
from seepage.attacks.text.token_lists import Lists

_AT_ONCE = 512


@dataclass
class Prefixes:
    """Every prefix whose last row lies in the span: a tree, whose leaves are sentences."""

    depths: list[Tensor] = field(default_factory=list)
    """The surviving prefixes of 1, 2, ... tokens, one a row."""
    distances: list[Tensor] = field(default_factory=list)
    evaluations: int = 0
    rejected: float = float("inf")
    capped: bool = False

    @property
    def count(self) -> int:
        return sum(map(len, self.depths))

    @property
    def leaves(self) -> list[tuple[int, ...]]:
        """The prefixes that nothing extends."""
        found = list[tuple[int, ...]]()
        for depth, rows in enumerate(self.depths):
            after = self.depths[depth + 1][:, :-1] if depth + 1 < len(self.depths) else rows[:0]
            parents = set(map(tuple, after.tolist()))
            found += [row for row in map(tuple, rows.tolist()) if row not in parents]
        return found

    def distance(self, sentence: tuple[int, ...]) -> float:
        """How far the last row of a surviving prefix lies from the span."""
        rows = self.depths[len(sentence) - 1].tolist()
        return float(self.distances[len(sentence) - 1][rows.index(list(sentence))])


@dataclass(frozen=True, eq=False)
class DecoderSearch:
    """Attention looks back only, so that a prefix is judged before what follows is known."""

    network: Network
    lists: Lists
    span: Span
    accept: float
    live: int
    """The most prefixes kept alive: those nearest to the span."""

    def run(self, budget: int) -> Prefixes:
        """Extend every surviving prefix by every token of the next list."""
        found = Prefixes()
        rows = self.lists.tokens[0][:, None]
        while len(rows) and found.evaluations < budget:
            rows = self._surviving(rows, found)
            depth = len(found.depths)
            if not len(rows) or depth >= len(self.lists.tokens):
                break
            rows = _extended(rows, self.lists.tokens[depth])
        return found

    def _surviving(self, rows: Tensor, found: Prefixes) -> Tensor:
        distances = torch.cat([self._distances(part) for part in torch.split(rows, _AT_ONCE)])
        found.evaluations += len(rows)
        right = distances < self.accept
        if bool((~right).any()):
            found.rejected = min(found.rejected, float(distances[~right].min()))
        rows, distances = rows[right], distances[right]
        if len(rows) > self.live:
            nearest = distances.argsort(stable=True)[: self.live].sort().values
            rows, distances, found.capped = rows[nearest], distances[nearest], True
        if len(rows):
            found.depths.append(rows)
            found.distances.append(distances)
        return rows

    def _distances(self, rows: Tensor) -> Tensor:
        return self.span.distance(self.network.second(rows)[:, -1])


def _extended(rows: Tensor, tokens: Tensor) -> Tensor:
    return torch.cat([rows.repeat_interleave(len(tokens), 0), tokens.repeat(len(rows))[:, None]], 1)
