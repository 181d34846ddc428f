"""Sentences from the span of attention's inputs: exact for encoders and decoders."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from seepage.attacks.text import embedding_rows, last_token
from seepage.attacks.text.anatomy import Network, anatomy_of, refuse_dropout
from seepage.attacks.text.answers import answered, measured, nothing, told
from seepage.attacks.text.decoder_search import DecoderSearch
from seepage.attacks.text.encoder_search import EncoderSearch, Weights
from seepage.attacks.text.pooler_rows import pooled_distance, pooled_span
from seepage.attacks.text.spans import Rank, Span, span_of
from seepage.attacks.text.token_lists import listed, ranked
from seepage.checks import at_least, positive
from seepage.core import Observation, Reconstruction
from seepage.forms import Tokens
from seepage.values import value

_POOLED = 1e-3
"""A sentence whose pooled state is further than this from the pooler's gradient is refused."""


@value
class TokenSpan:
    """Every token that a client read leaves its input in the span of attention's gradient.

    The gradient of a projection is sum_i d_i x_i^T, so that with fewer tokens than directions the
    input of a token at a place either lies in its row space or does not: |N v| / |v| <= tolerance
    in block 0 gives the lists of possible tokens, and whole sentences are those whose states lie
    in block 1's span within `accept`. Decoders are searched prefix by prefix; for encoders, weights
    of all tokens in block 0's attention are solved for that put one of them into the span
    (`mixture`). `budget` counts the sentences that are tried. Needs no labels, no language model.

    Petrov et al. 2024, arXiv 2405.15586 (DAGER); the weights that replace the enumeration of
    encoders, those from the embedding rows and the certificates are ours.
    """

    tolerance: float = 1e-5
    accept: float = 1e-3
    budget: int = 100_000
    rank: Rank = None
    """How many directions block 0's gradient has. None counts them, "spectrum" counts in every
    layer those that stand out of noise: local training, rounding and pruning leave some. Loosen
    `tolerance` (0.3) and `accept` (0.03) with it; what comes out is likely then, not proven."""
    rows: bool = True
    """Whether to read the embedding rows too, where they are shared."""
    live: int = 4000

    def __post_init__(self) -> None:
        positive("TokenSpan.tolerance", self.tolerance)
        positive("TokenSpan.accept", self.accept)
        at_least("TokenSpan.budget", self.budget, 1)
        at_least("TokenSpan.live", self.live, 1)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        refuse_dropout(seen)
        network = Network.of(seen.model)
        first = span_of(seen, network, 0, self.rank)
        if first.full:
            return self._shortlists(seen, network, first)
        bag, weights = self._known(seen)
        lists = listed(network, first, self.tolerance * first.rounding, bag)
        trace = measured(first, lists)
        if not lists.tokens or not lists.ends:
            return nothing(seen, "no token lies in block 0's span", trace)
        second = span_of(seen, network, 1, "spectrum" if self._noisy else None)
        trace |= {"rank of block 1": second.rank}
        if second.full:
            return nothing(seen, "block 1's span is full; token lists in trace", trace)
        if network.anatomy.causal:
            walk = DecoderSearch(network, lists, second, self.accept, self.live)
            return self._decoded(seen, walk, trace, rng)
        verify = _verifier(seen, network, self.accept if self._noisy else None)
        search = EncoderSearch(network, lists, second, weights, self.accept, verify)
        return self._encoded(seen, search, trace, rng)

    @property
    def _noisy(self) -> bool:
        return self.rank == "spectrum"

    def _known(self, seen: Observation) -> tuple[Tensor | None, Weights]:
        """The bag of tokens, and how surely each stands where, if the word table was shared."""
        anatomy = anatomy_of(seen.model)
        if not self.rows or anatomy.tied or anatomy.word not in seen.update:
            return None, {}
        moved = embedding_rows.moved(seen)
        weights = embedding_rows.pairs(moved).get("weights")
        if weights is None:
            return moved.tokens, {}
        grid = weights.tolist()
        tokens, places = moved.tokens.tolist(), moved.places.tolist()
        return moved.tokens, {
            (t, p): grid[i][j] for i, t in enumerate(tokens) for j, p in enumerate(places)
        }

    def _encoded(
        self, seen: Observation, search: EncoderSearch, trace: dict[str, Any], rng: Generator
    ) -> Reconstruction:
        draws = np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))
        found = search.run(seen.n, search.span.rank, self.budget, draws)
        end = seen.model.form.end if isinstance(seen.model.form, Tokens) else None
        tail = () if end is None else (end,)
        sentences = {s + tail: distance for s, distance in found.sentences.items()}
        filled = sum(map(len, sentences))
        whole = len(sentences) == seen.n or filled >= search.span.rank
        partial = sorted(found.partial.items(), key=lambda pair: pair[1])[:10]
        trace |= {
            "evaluations": found.evaluations,
            "largest accepted": max(sentences.values(), default=0.0),
            "smallest rejected": found.rejected,
            "directions explained": filled,
            "partial": [[list(s + tail), distance] for s, distance in partial],
        }
        note = told(len(sentences), seen.n, whole, "search budget exhausted", self._noisy)
        return answered(seen, search.network, sentences, (note, whole), trace, rng)

    def _decoded(
        self, seen: Observation, search: DecoderSearch, trace: dict[str, Any], rng: Generator
    ) -> Reconstruction:
        found, network = search.run(self.budget), search.network
        whole = found.count == search.span.rank and not found.capped
        leaves = list(found.leaves)
        distances = [found.distance(leaf) for leaf in leaves]
        trace |= {
            "evaluations": found.evaluations,
            "prefixes": found.count,
            "largest accepted": max(distances, default=0.0),
            "smallest rejected": found.rejected,
        }
        why = "too many live prefixes" if found.capped else "prefixes do not fill block 1's span"
        note = ""
        if leaves and last_token.shares_head(seen, network):
            leaves = last_token.with_hidden(seen, network, leaves, seen.n)
            distances = [found.distance(leaf) for leaf in leaves]
            leaves, error = last_token.completed(seen, network, leaves)
            trace |= {"last tokens off by": error}
            note = "" if last_token.certain(error) else "; last tokens are the likeliest, no proof"
        elif leaves:
            inner = [tuple(row) for rows in found.depths for row in rows.tolist()]
            added = last_token.with_inner(seen, network, leaves, inner)[len(leaves) :]
            leaves, distances = leaves + added, distances + [found.distance(a) for a in added]
        sentences = dict(zip(leaves, distances, strict=True))
        note = told(len(sentences), seen.n, whole, why, self._noisy) + note
        return answered(seen, network, sentences, (note, whole), trace, rng)

    def _shortlists(self, seen: Observation, network: Network, span: Span) -> Reconstruction:
        """What a noised or crowded update still tells: the nearest tokens of each place."""
        trace: dict[str, Any] = {"rank of block 0": span.rank}
        if span.adapter:
            return nothing(seen, "adapter rank full", trace)
        guess = span.cut(self.rank if isinstance(self.rank, int) else span.gap())
        trace |= {
            "rank taken": guess.rank,
            "ranked": ranked(network, guess, network.form.length),
        }
        note = "span full: noised, or more tokens than directions; ranked tokens in trace"
        return nothing(seen, note, trace)


def _verifier(seen: Observation, network: Network, noisy: float | None) -> Callable[[Tensor], bool]:
    """Whether a sentence's pooled state is among those the pooler's gradient holds."""
    span = pooled_span(seen, network, None if noisy is None else "spectrum")
    limit = _POOLED if noisy is None else noisy

    def verified(sentences: Tensor) -> bool:
        if span is None or span.full:
            return True
        return float(pooled_distance(network, span, sentences).max()) < limit

    return verified
