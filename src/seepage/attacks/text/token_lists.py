"""Which tokens could stand at each place: those whose input lies in the span of block 0."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.spans import Span

_CHUNK = 4096

_SLACK = 1e-3
"""What single precision may add to the distance that the sketch sees."""


@dataclass(frozen=True, eq=False)
class Lists:
    """For each place the tokens that could stand there, and where sentences could end."""

    tokens: list[Tensor]
    ends: list[int]
    """How many tokens stand before each possible end."""
    accepted: float
    """The largest distance of an accepted token."""
    rejected: float
    """The smallest distance of a rejected one (at least that of the sketch)."""

    @property
    def sizes(self) -> list[int]:
        return [len(tokens) for tokens in self.tokens]


def listed(network: Network, span: Span, tolerance: float, bag: Tensor | None = None) -> Lists:
    """C_p for p = 0, 1, ... up to the first place where no token fits."""
    form, found = network.form, list[Tensor]()
    vocabulary = torch.arange(len(network.word), device=network.word.device)
    vocabulary = vocabulary if bag is None else bag
    vocabulary = vocabulary[vocabulary != form.pad]
    accepted, rejected = 0.0, float("inf")
    for place in range(form.length):
        tokens, inside, outside = _fitting(network, span, tolerance, vocabulary, place)
        if not len(tokens):
            break
        accepted, rejected = max(accepted, inside), min(rejected, outside)
        found.append(tokens)
    # A decoder's prefixes end where nothing extends them, whatever their last token.
    end = None if network.anatomy.causal else form.end
    return _ended(found, end, accepted, rejected)


def _ended(found: list[Tensor], end: int | None, accepted: float, rejected: float) -> Lists:
    """Take the end token out of the lists, and note where it could stand."""
    if end is None:
        return Lists(found, list(range(1, len(found) + 1)), accepted, rejected)
    ends = [place for place, tokens in enumerate(found) if bool((tokens == end).any())]
    rest = [tokens[tokens != end] for tokens in found]
    empty = [place for place, tokens in enumerate(rest) if not len(tokens)]
    first = empty[0] if empty else len(rest)
    return Lists(rest, [place for place in ends if 0 < place <= first], accepted, rejected)


def _fitting(
    network: Network, span: Span, tolerance: float, tokens: Tensor, place: int
) -> tuple[Tensor, float, float]:
    """The tokens within the tolerance at one place, the largest distance in and smallest out."""
    sketch, kept, inside, outside = span.sketch(), [tokens[:0]], 0.0, float("inf")
    for chunk in torch.split(tokens, _CHUNK):
        rows = network.first(chunk, torch.full_like(chunk, place))
        rough = (rows.float() @ sketch.T).norm(dim=1) / span.lengths(rows)
        near = rough <= 10 * tolerance + _SLACK
        exact = span.distance(rows[near])
        right = exact <= tolerance
        kept.append(chunk[near][right])
        inside = max([inside, *exact[right].tolist()])
        outside = min([outside, *exact[~right].tolist()])
        if bool((~near).any()):
            outside = min(outside, float(rough[~near].min()))
    return torch.cat(kept), inside, outside


def ranked(network: Network, span: Span, length: int, top: int = 50) -> list[list[int]]:
    """For each place the tokens nearest to the span, best first: a shortlist, never a proof."""
    every = torch.arange(len(network.word), device=network.word.device)
    basis, shortlists = span.complement.float(), []
    for place in range(length):
        parts = []
        for chunk in torch.split(every, _CHUNK):
            rows = network.first(chunk, torch.full_like(chunk, place)).float()
            rows = rows if span.through is None else rows @ span.through.float().T
            parts.append((rows @ basis.T).norm(dim=1) / rows.norm(dim=1))
        shortlists.append(torch.cat(parts).argsort(stable=True)[:top].tolist())
    return shortlists
