"""DAGER under defenses: do the words still stand in the span of a coarser, noisier gradient?

Petrov et al. 2024, arXiv 2405.15586, on MiniLM: of all words, the N nearest to the span of the
first query projection's gradient, N the number of words in the sentence; how many are right. The
projection's rows are read in single precision, with N taken for its rank.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from seepage import tree
from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.spans import Span
from seepage.clients import FedSGD
from seepage.core import Batch, Client, Model, Tensors, observe, stream
from seepage.defenses import DPSGD, Prune, Quantize, Sign
from seepage.integrations.minilm import minilm, sentences
from seepage.papers.claims import Claim
from seepage.values import value


@value
class Halved:
    """The update rounded to bfloat16."""

    inner: Client

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        return tree.mapped(lambda u: u.to(torch.bfloat16).to(u.dtype), update)


_CASES: tuple[tuple[Client, float | None], ...] = (
    (FedSGD(), 1.0),
    (Halved(FedSGD()), 1.0),
    (Quantize(FedSGD(), 8), 1.0),
    (Sign(FedSGD()), 0.42),
    (DPSGD(1.0, 1e-3), 0.0),
    (Prune(FedSGD(), 0.9), None),
)


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """Each defense, one sentence a round."""
    model, tokenizer = minilm()
    seeds = range(2 if quick else 8)
    for client, wanted in _CASES[:5] if quick else _CASES:
        yield _claim((model, tokenizer), client, wanted, seeds)


def _claim(made: tuple[Model, Any], client: Client, wanted: float | None, seeds: range) -> Claim:
    shares = [_right(made, client, seed) for seed in seeds]
    got = sum(shares) / len(shares)
    how = f"MiniLM, B=1, {len(shares)} bundled sentences, float32"
    told = f"{got:.0%} of the words among the nearest N"
    if wanted is None:
        return Claim(f"{client!r}", "not available", told, "measured", how)
    near = abs(got - wanted) <= 0.15
    claimed = f"{wanted:.0%}"
    return Claim(f"{client!r}", claimed, told, "confirmed" if near else "not confirmed", how)


def _right(made: tuple[Model, Any], client: Client, seed: int) -> float:
    model, tokenizer = made
    batch = sentences(model, tokenizer, 1, seed)
    seen = observe(model, batch, client, stream(seed, "client"))
    network = Network.of(model)
    name = network.anatomy.spans[0]
    real = batch.x[0][batch.x[0] != network.form.pad]
    basis = Span.of(seen.update[name].detach(), rank=len(real)).basis[: len(real)]
    found, every = 0, torch.arange(network.form.vocab)
    for place, token in enumerate(real.tolist()):
        rows = network.first(every, torch.full_like(every, place)).double()
        # The cosine with the span orders words as the distance does, and costs N products each.
        near = (rows @ basis.T).norm(dim=1) / rows.norm(dim=1)
        found += int((near > near[token]).sum()) < len(real)
    return found / len(real)
