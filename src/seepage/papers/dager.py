"""DAGER: Exact Gradient Inversion for Large Language Models.

Petrov et al. 2024, arXiv 2405.15586. The token and sentence stages on MiniLM and a random GPT-2,
with the bundled sentences; the published figures are for GPT-2 and BERT-base on public sets.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seepage.attacks import TokenSpan
from seepage.clients import FedSGD
from seepage.core import Model, observe, stream
from seepage.integrations.minilm import minilm, random_gpt, sentences
from seepage.metrics.text import rouge
from seepage.papers.claims import Claim

_CLAIMED = "ROUGE-1 and -2 above 99 up to B = 128"


def reproduce(
    quick: bool,
    folder: Path | None = None,  # noqa: ARG001 - there are no pictures of text
) -> Iterator[Claim]:
    """Exact sentences by batch size, encoder first."""
    encoder, tokenizer = minilm()
    for size in (1, 4) if quick else (1, 4, 8, 16):
        yield _claim("MiniLM (encoder)", encoder, tokenizer, size, 1 if quick else 4)
    decoder = random_gpt(tokenizer)
    for size in (1, 4) if quick else (1, 4, 16, 24):
        yield _claim("random GPT-2, 4x384 (decoder)", decoder, tokenizer, size, 1)


def _claim(name: str, model: Model, tokenizer: Any, size: int, batches: int) -> Claim:
    exact, false, evaluations, scores = 0, 0, 0, []
    for seed in range(batches):
        batch = sentences(model, tokenizer, size, seed)
        seen = observe(model, batch, FedSGD(), stream(seed, "client"))
        found = TokenSpan(budget=200_000)(seen, stream(seed, "attack"))
        truth, told = ({tuple(row) for row in x.tolist()} for x in (batch.x, found.x))
        exact, false = exact + len(truth & told), false + len(told - truth)
        evaluations += int(found.trace.get("evaluations", 0))
        words = [[tokenizer.decode(row, skip_special_tokens=True) for row in x.tolist()]
                 for x in (found.x, batch.x)]  # fmt: skip
        scores.append(rouge(words[0], words[1]).mean(0))
    mean = torch.stack(scores).mean(0)
    good = exact == size * batches and false == 0
    return Claim(
        f"{name}, B = {size}",
        _CLAIMED,
        f"{exact} of {size * batches} sentences exact, {false} false; ROUGE-1 {mean[0]:.1f}, "
        f"-2 {mean[1]:.1f}; {evaluations} evaluations",
        "confirmed" if good else "not confirmed",
        f"{batches} batches of bundled sentences, 10 to 16 tokens; float32 FedSGD",
    )
