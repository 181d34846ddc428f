"""Whole sentences of an encoder from token lists: one candidate after another asks for its own."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.mixture import Mixture, solved
from seepage.attacks.text.spans import Span
from seepage.attacks.text.token_lists import Lists

Sentence = tuple[int, ...]
Weights = dict[tuple[int, int], float]

_SMALLEST = 0.02
_AMONG_ALL = 0.2
"""How often a candidate is drawn among all, not only those that no found sentence uses."""

_MANY = 20
"""With so many candidates an equation the first token of all sentences is asked too."""

_SPREAD = 1.0
"""How unevenly (as a power of e) candidates start that are asked a second time."""


@dataclass
class Found:
    """What the search has so far: sentences, the best partial ones, and what it cost."""

    sentences: dict[Sentence, float] = field(default_factory=dict)
    partial: dict[Sentence, float] = field(default_factory=dict)
    used: set[tuple[int, int]] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)
    """Candidates that have been asked for their sentence."""
    evaluations: int = 0
    rejected: float = float("inf")
    """The smallest distance of a sentence that was not accepted."""

    def take(self, sentence: Sentence, score: float) -> None:
        """Record a sentence as recovered."""
        self.sentences[sentence] = score
        self.used |= {(token, place) for place, token in enumerate(sentence)}

    def miss(self, sentence: Sentence, score: float) -> None:
        """Record a sentence outside the span."""
        if sentence not in self.sentences:
            self.partial[sentence] = score
            self.rejected = min(self.rejected, score)


@dataclass(frozen=True, eq=False)
class EncoderSearch:
    """Which weights of all candidates put z1 of one of them into block 1's span: its sentence."""

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
        found, candidates = Found(), self._candidates()
        mixture = Mixture.of(self.network, self.span, candidates.tokens, candidates.places)
        cost = -(-mixture.width // len(candidates.rules))
        many = len(candidates.pairs) > _MANY * mixture.width
        while found.evaluations < budget and not self._complete(found, wanted, rank):
            at, again = self._drawn(candidates, found, draws)
            start = candidates.start(at, _SPREAD if again else 0.0, draws)
            asked = {at, *candidates.everywhere} if many else {at}
            weights, rounds = solved(mixture, candidates.before(at), sorted(asked), start)
            sentence = candidates.rounded(weights)
            score = self.score(sentence)
            found.evaluations += 1 + rounds * cost * len(asked)
            known = sentence in found.sentences
            if score < self.accept and not known and self.verify(self._whole(sentence)):
                found.take(sentence, score)
            else:
                found.miss(sentence, score)
        return found

    def score(self, sentence: Sentence) -> float:
        """The mean distance of z1 to the span, over the tokens of a sentence."""
        if not sentence:
            return float("inf")
        return float(self.span.distance(self.network.second(self._whole(sentence))).mean())

    def _whole(self, sentence: Sentence) -> Tensor:
        end = self.network.form.end
        tail = () if end is None else (end,)
        return torch.tensor([sentence + tail], device=self.network.word.device)

    def _complete(self, found: Found, wanted: int | None, rank: int) -> bool:
        """All sentences found, or together they fill block 1's span."""
        tail = self.network.form.end is not None
        filled = sum(len(sentence) + tail for sentence in found.sentences)
        return len(found.sentences) == wanted or filled >= rank

    def _candidates(self) -> "Candidates":
        end = self.network.form.end
        pairs = [(t, p) for p, tokens in enumerate(self.lists.tokens) for t in tokens.tolist()]
        pairs += [(end, p) for p in self.lists.ends if end is not None]
        known = {pair: max(_SMALLEST, self.weights.get(pair, 0.0)) for pair in pairs}
        likely = [known[pair] if self.weights else 1.0 for pair in pairs]
        return Candidates.of(pairs, likely, end, self.network.word)

    def _drawn(
        self, candidates: "Candidates", found: Found, draws: np.random.Generator
    ) -> tuple[int, bool]:
        """A candidate, and whether it was asked before: first of tokens not seen in a sentence."""
        pairs, every = candidates.pairs, candidates.telling
        words = {token for token, _ in found.used}
        fresh = {i for i in every if pairs[i] not in found.used}
        unseen = {i for i in fresh if pairs[i][0] not in words}
        choices = [every] if draws.random() < _AMONG_ALL else [unseen, fresh, every]
        left = [pool - found.asked for pool in choices]
        pool = next(filter(None, left), set())
        options = sorted(pool or every)
        edges = np.cumsum(candidates.known[options].cpu().numpy())
        at = options[int(np.searchsorted(edges, draws.random() * edges[-1]))]
        found.asked.add(at)
        return at, not pool


@dataclass(frozen=True, eq=False)
class Candidates:
    """Every token that could stand at a place, the end included, and how likely it is there."""

    pairs: list[tuple[int, int]]
    tokens: Tensor
    places: Tensor
    known: Tensor
    """How likely each is, and in `likely` so that those of a place add up to one."""
    likely: Tensor
    rules: Tensor
    """Row p: one at each candidate of place p and at each end before it, which add up to one."""
    end: int | None

    @classmethod
    def of(
        cls, pairs: list[tuple[int, int]], likely: list[float], end: int | None, like: Tensor
    ) -> "Candidates":
        """Candidates with what is known of them."""
        table = torch.tensor(pairs, device=like.device)
        tokens, places = table[:, 0], table[:, 1]
        rows = torch.arange(int(places.max()) + 1, device=like.device)[:, None]
        over = (tokens == end) & (places < rows) if end is not None else places < 0
        rules = ((places == rows) | over).double()
        shares = like.new_tensor(likely)
        total = like.new_zeros(len(rows)).index_add_(0, places, shares)
        return cls(pairs, tokens, places, shares, shares / total[places], rules, end)

    @property
    def telling(self) -> set[int]:
        """Candidates with an alternative, which tell sentences from each other; all, if none."""
        several = (self.rules.sum(1) > 1)[self.places].nonzero().flatten().tolist()
        return set(several or range(len(self.pairs)))

    @property
    def everywhere(self) -> list[int]:
        """The candidate that begins every sentence, if there is one."""
        first = (self.places == 0).nonzero().flatten().tolist()
        return first if len(first) == 1 else []

    def start(self, at: int, spread: float, draws: np.random.Generator) -> Tensor:
        """Each as likely as it is, `at` for certain, and what cannot stand beside it not at all."""
        noise = torch.from_numpy(draws.normal(size=len(self.pairs))).to(self.likely)
        weights = self.likely * (spread * noise).exp()
        weights = torch.where(self.places == self.places[at], 0.0, weights)
        weights[at] = 1.0
        return weights

    def before(self, at: int) -> Tensor:
        """The rules that hold for sure: all of them where ends are known, else up to `at`."""
        return self.rules if self.end is not None else self.rules[: int(self.places[at]) + 1]

    def rounded(self, weights: Tensor) -> Sentence:
        """The heaviest token of each place, up to the heaviest end (or the first empty place)."""
        table = weights.new_zeros(len(self.rules), len(self.pairs))
        table[self.places, torch.arange(len(self.pairs))] = weights
        if self.end is None:
            empty = (table.sum(1) < 0.5).nonzero().flatten().tolist()
            length = empty[0] if empty else len(table)
        else:
            ending = weights * (self.tokens == self.end)
            length = int(self.places[int(ending.argmax())])
        words = table * (self.tokens != self.end) if self.end is not None else table
        return tuple(self.tokens[words[:length].argmax(1)].tolist())
