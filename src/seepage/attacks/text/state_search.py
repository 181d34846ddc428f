"""Sentences from the embedding rows and the pooler alone: no gradient of attention is read."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from seepage.attacks.text import embedding_rows
from seepage.attacks.text.anatomy import Network, refuse_dropout
from seepage.attacks.text.answers import answered, nothing, told
from seepage.attacks.text.encoder_search import Found, Weights
from seepage.attacks.text.pooler_rows import pooled_distance, pooled_span
from seepage.attacks.text.spans import Span
from seepage.checks import at_least, positive
from seepage.core import Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value

_POSSIBLE = 0.05
"""A token with less weight than this at a place is not tried there, unless it has none above."""

_NEAR = 0.25
"""The share of failed descents, the closest ones, that go on with all tokens at every place."""

_SMALLEST = 0.02
_USED = 0.1
"""How much less often a token is drawn where a found sentence has it."""

_HELPS = 1e-9


@value
class StateSearch:
    """Search sentences whose pooled state lies among those that the pooler's gradient holds.

    dL/dW of the pooler is sum_i d_i h_i^T, so that its rows span the pooled states h of the batch,
    one for each sentence and exactly. The embedding rows tell the tokens, and roughly where each
    stands. A sentence drawn from them descends on |N h| / |h|, its distance to that span: at one
    place after another the best token is kept. Where a descent ends within `accept`, it is
    a sentence of the batch. It is what still works where attention is frozen, kept back, or read
    more tokens than it has directions. `budget` counts the sentences that are tried.

    Sentences by the span of a layer: Petrov et al. 2024, arXiv 2405.15586; the pooler's inputs:
    Li et al. 2024, arXiv 2312.05720. The search that joins them is ours.
    """

    budget: int = 20_000
    accept: float = 1e-3

    def __post_init__(self) -> None:
        at_least("StateSearch.budget", self.budget, 1)
        positive("StateSearch.accept", self.accept)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        refuse_dropout(seen)
        network, rows = Network.of(seen.model), embedding_rows.moved(seen)
        span = pooled_span(seen, network)
        if span is None or network.form.end is None:
            raise InvalidInput(
                "StateSearch() reads the gradient of a pooler above sentences with an end token, "
                "and the update or the model lacks one. Share the pooler, or use TokenSpan()."
            )
        weights = embedding_rows.pairs(rows).get("weights")
        if weights is None or span.full or min(weights.shape) < 2:
            return nothing(seen, "the places of the tokens, or the pooler, tell too little", {})
        grid, tokens, places = weights.tolist(), rows.tokens.tolist(), rows.places.tolist()
        known = {(t, p): grid[i][j] for i, t in enumerate(tokens) for j, p in enumerate(places)}
        search = Descents.of(network, span, known, self.accept)
        draws = np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))
        found = search.run(span.rank, self.budget, draws)
        return _answered(seen, network, found, span.rank, rng)


def _answered(
    seen: Observation, network: Network, found: Found, rank: int, rng: Generator
) -> Reconstruction:
    whole = len(found.sentences) == rank
    partial = sorted(found.partial.items(), key=lambda pair: pair[1])[:10]
    trace = {
        "evaluations": found.evaluations,
        "rank of the pooler": rank,
        "largest accepted": max(found.sentences.values(), default=0.0),
        "smallest rejected": found.rejected,
        "partial": [[list(sentence), distance] for sentence, distance in partial],
    }
    note = told(len(found.sentences), seen.n, whole, "search budget exhausted")
    return answered(seen, network, found.sentences, (note, whole), trace, rng)


@dataclass(frozen=True, eq=False)
class Descents:
    """What may stand at each place, and the span that sentences descend to."""

    network: Network
    span: Span
    words: Tensor
    """All tokens of the batch, ends apart."""
    places: list[Tensor]
    """Those that are likely at each place."""
    likely: list[np.ndarray]
    ending: np.ndarray
    """How likely a sentence ends after one token, after two, and so on."""
    accept: float

    @classmethod
    def of(cls, network: Network, span: Span, known: Weights, accept: float) -> "Descents":
        """Candidates from the weight w(t, p) of each token at each place."""
        end, device = network.form.end, network.word.device
        assert end is not None  # forms without an end are refused
        words = sorted({token for token, _ in known if token != end})
        places = range(max(place for _, place in known) + 1)
        lists = [[t for t in words if known.get((t, p), 0) > _POSSIBLE] or words for p in places]
        likely = [np.array([known.get((t, p), 0.0) for t in lists[p]]) for p in places]
        return cls(
            network,
            span,
            torch.tensor(words, device=device),
            [torch.tensor(tokens, device=device) for tokens in lists],
            [weights.clip(_SMALLEST, 1) for weights in likely],
            np.array([known.get((end, p), 0.0) for p in places[1:]]).clip(_SMALLEST, 1),
            accept,
        )

    def run(self, wanted: int, budget: int, draws: np.random.Generator) -> Found:
        """Descend from one drawn sentence after another."""
        found = Found()
        while len(found.sentences) < wanted and found.evaluations < budget:
            row, distance = self._descended(self._drawn(found, draws), self.places, found, draws)
            if self.accept <= distance <= _least(found):
                every = [self.words] * len(self.places)
                row, distance = self._descended(row, every, found, draws)
            sentence = tuple(row.tolist())
            if distance < self.accept and sentence not in found.sentences:
                found.take(sentence, distance)
            else:
                found.miss(sentence, distance)
        return found

    def _drawn(self, found: Found, draws: np.random.Generator) -> Tensor:
        """A sentence of likely tokens, rather of such that no found sentence has there."""
        length = 1 + _chosen(self.ending, draws)
        row = []
        for place, tokens in enumerate(self.places[:length]):
            used = [(t, place) in found.used for t in tokens.tolist()]
            row.append(tokens[_chosen(self.likely[place] * np.where(used, _USED, 1.0), draws)])
        return torch.stack([*row, row[0].new_tensor(self.network.form.end)])

    def _descended(
        self, row: Tensor, places: list[Tensor], found: Found, draws: np.random.Generator
    ) -> tuple[Tensor, float]:
        """The best token of each place in turn, until a whole round changes nothing."""
        lowest, before = self._distances(row[None], found)[0], np.inf
        while lowest < before - _HELPS and lowest >= self.accept:
            before = lowest
            for place in draws.permutation(len(row) - 1):
                trials = row.repeat(len(places[place]), 1)
                trials[:, place] = places[place]
                distances = self._distances(trials, found)
                best = int(distances.argmin())
                if distances[best] < lowest - _HELPS:
                    row, lowest = trials[best], distances[best]
        return row, float(lowest)

    def _distances(self, rows: Tensor, found: Found) -> np.ndarray:
        found.evaluations += len(rows)
        distances = pooled_distance(self.network, self.span, rows)
        return np.asarray(distances.cpu().numpy())


def _least(found: Found) -> float:
    """Closer than this a descent is worth to go on: a word or two are wrong, or not listed."""
    failed = list(found.partial.values())
    return float(np.quantile(failed, _NEAR)) if failed else np.inf


def _chosen(weights: np.ndarray, draws: np.random.Generator) -> int:
    return int(draws.choice(len(weights), p=weights / weights.sum()))
