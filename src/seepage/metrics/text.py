"""How much of a sentence was read back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seepage.errors import InvalidInput
from seepage.metrics.match import check_paired

KINDS = ("rouge1", "rouge2", "rougeL")


def tokens_right(x: Tensor, truth: Tensor, pad: int | None = None) -> Tensor:
    """The share of places with the right token, padding in both sentences not counted.

    >>> tokens_right(torch.tensor([[5, 6, 7, 0]]), torch.tensor([[5, 6, 0, 0]]), pad=0)
    tensor([0.6667], dtype=torch.float64)
    """
    check_paired("tokens_right", x, truth)
    counted = (x != pad) | (truth != pad) if pad is not None else x == x  # noqa: PLR0124
    right = ((x == truth) & counted).sum(1).double()
    return right.add(counted.sum(1) == 0) / counted.sum(1).clamp_min(1)


def exact(x: Tensor, truth: Tensor) -> Tensor:
    """Whether the whole sentence is right, padding included."""
    check_paired("exact", x, truth)
    return (x == truth).all(1)


def bag_recall(found: Sequence[int], truth: Tensor, pad: int) -> float:
    """The share of the batch's distinct tokens that an unordered answer names.

    >>> bag_recall([5, 9], torch.tensor([[5, 6, 0]]), pad=0)
    0.5
    """
    real = set(truth.flatten().tolist()) - {pad}
    return len(real & set(found)) / max(len(real), 1)


def rouge(guesses: Sequence[str], truths: Sequence[str]) -> Tensor:
    """ROUGE-1, -2 and -L F-measures times 100 of each truth (n, 3), guesses assigned on ROUGE-1.

    Lin 2004, by the package rouge-score without stemming. Case and punctuation do not count. A
    truth without a guess scores 0, so that the mean over truths punishes what was not found.
    """
    table = torch.zeros(len(truths), max(len(guesses), 1), len(KINDS), dtype=torch.float64)
    scorer = _scorer()
    for row, truth in enumerate(truths):
        for column, guess in enumerate(guesses):
            scores = scorer.score(truth, guess)
            table[row, column] = torch.tensor([100 * scores[kind].fmeasure for kind in KINDS])
    return _best(table)


def cosine(states: Tensor, truth: Tensor) -> Tensor:
    """|cos| of each true state with the recovered one that stands for it; 0 where none does."""
    if not len(states):
        return torch.zeros(len(truth), dtype=torch.float64)
    table = (normalize(truth.double(), dim=1) @ normalize(states.double(), dim=1).T).abs()
    return _best(table[..., None])[:, 0]


def _best(table: Tensor) -> Tensor:
    """Each truth's scores with the guess that the assignment on the first score gives it."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-table[..., 0].numpy())
    found = torch.zeros(len(table), table.shape[2], dtype=torch.float64)
    found[rows] = table[rows, columns]
    return found


def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise InvalidInput(
            "ROUGE needs the package rouge-score. Install it with: pip install 'seepage[text]'."
        ) from None
    return RougeScorer(KINDS, use_stemmer=False)
