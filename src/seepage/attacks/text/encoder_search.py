"""Whole sentences of an encoder from token lists: coordinate descent on block 1's span."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.spans import Span
from seepage.attacks.text.token_lists import Lists

Sentence = tuple[int, ...]
Weights = dict[tuple[int, int], float]

_PATIENCE = 60
"""Failures in a row after which full lists are tried in turn with lean ones."""

_LEAN = 0.05
_SMALLEST = 0.02
_SPENT = 0.1
"""How much less often an end that a found sentence uses is drawn, four times in five."""


@dataclass
class Found:
    """What the search has so far: sentences, the best partial ones, and what it cost."""

    sentences: dict[Sentence, float] = field(default_factory=dict)
    partial: dict[Sentence, float] = field(default_factory=dict)
    used: set[tuple[int, int]] = field(default_factory=set)
    ends: Counter[int] = field(default_factory=Counter)
    evaluations: int = 0
    failures: int = 0
    rejected: float = float("inf")
    """The smallest distance of a sentence that was not accepted."""

    def take(self, sentence: Sentence, score: float) -> None:
        """Record a sentence as recovered."""
        self.sentences[sentence] = score
        self.used |= set(enumerate(sentence))
        self.ends[len(sentence)] += 1
        self.failures = 0

    def miss(self, sentence: Sentence, score: float) -> None:
        """Record where a descent ended without reaching the span."""
        self.failures += 1
        if sentence not in self.sentences:
            self.partial[sentence] = score
            self.rejected = min(self.rejected, score)


@dataclass(frozen=True, eq=False)
class EncoderSearch:
    """Random restarts of a coordinate descent on the mean distance of z1 to block 1's span."""

    network: Network
    lists: Lists
    span: Span
    weights: Weights
    """w(t, p) of pairs of token and place, from the embedding rows; 1 where nothing is known."""
    accept: float
    verify: Callable[[Tensor], bool]
    """A second opinion on a sentence within the span: its pooled state."""

    def run(self, wanted: int | None, rank: int, budget: int, draws: np.random.Generator) -> Found:
        """Search until all sentences, or all directions of block 1, are found, or the budget."""
        found = Found()
        while found.evaluations < budget and not self._complete(found, wanted, rank):
            lean = found.failures < _PATIENCE or found.failures % 2 == 0
            start = self._start(found, lean, draws)
            sentence, score = self._descend(start, lean, found, draws)
            known = sentence in found.sentences
            if score < self.accept and not known and self.verify(self._whole([sentence])):
                found.take(sentence, score)
            else:
                found.miss(sentence, score)
        return found

    def scores(self, sentences: list[Sentence]) -> Tensor:
        """The mean distance of z1 to the span, over the tokens of each sentence."""
        return self.span.distance(self.network.second(self._whole(sentences))).mean(1)

    def _whole(self, sentences: list[Sentence]) -> Tensor:
        end = self.network.form.end
        tail = () if end is None else (end,)
        return torch.tensor([s + tail for s in sentences], device=self.network.word.device)

    def _complete(self, found: Found, wanted: int | None, rank: int) -> bool:
        """All sentences found, or together they fill block 1's span."""
        tail = self.network.form.end is not None
        filled = sum(len(sentence) + tail for sentence in found.sentences)
        return len(found.sentences) == wanted or filled >= rank

    def _options(self, place: int, lean: bool) -> list[int]:
        tokens: list[int] = self.lists.tokens[place].tolist()
        if not lean:
            return tokens
        return [t for t in tokens if self._weight(t, place) > _LEAN] or tokens

    def _weight(self, token: int, place: int) -> float:
        return max(_SMALLEST, self.weights.get((token, place), 0.0)) if self.weights else 1.0

    def _start(self, found: Found, lean: bool, draws: np.random.Generator) -> Sentence:
        ends, end = self.lists.ends, self.network.form.end
        weights = [self._weight(end, e) if end is not None else 1.0 for e in ends]
        spent = [_SPENT if found.ends[e] and draws.random() < 0.8 else 1.0 for e in ends]
        length = _drawn(ends, np.multiply(weights, spent), draws)
        return tuple(self._token(place, found, lean, draws) for place in range(length))

    def _token(self, place: int, found: Found, lean: bool, draws: np.random.Generator) -> int:
        options = self._options(place, lean)
        fresh = [t for t in options if (place, t) not in found.used]
        pool = fresh if fresh and draws.random() >= 0.2 else options
        return _drawn(pool, np.array([self._weight(t, place) for t in pool]), draws)

    def _descend(
        self, sentence: Sentence, lean: bool, found: Found, draws: np.random.Generator
    ) -> tuple[Sentence, float]:
        """Replace one token after another by the best alternative, until a sweep moves none."""
        best = float(self.scores([sentence])[0])
        found.evaluations += 1
        moved = True
        while moved:
            moved = False
            for place in draws.permutation(len(sentence)).tolist():
                others = [t for t in self._options(place, lean) if t != sentence[place]]
                if not others:
                    continue
                trials = [(*sentence[:place], t, *sentence[place + 1 :]) for t in others]
                scores = self.scores(trials)
                found.evaluations += len(trials)
                if float(scores.min()) < best - 1e-9:
                    best, moved = float(scores.min()), True
                    sentence = trials[int(scores.argmin())]
        return sentence, best


def _drawn(options: list[int], weights: np.ndarray, draws: np.random.Generator) -> int:
    edges = np.cumsum(weights)
    return options[int(np.searchsorted(edges, draws.random() * edges[-1]))]
