"""Labels that an attack inferred, beside what guessing achieves."""

from collections import Counter

from torch import Tensor

from seepage.errors import InvalidInput


def right(guess: Tensor, truth: Tensor) -> float:
    """The share of the true labels, as a multiset, that are among the guessed ones.

    >>> import torch
    >>> right(torch.tensor([2, 2, 7]), torch.tensor([2, 7, 7]))
    0.6666666666666666
    """
    both = Counter(guess.tolist()) & Counter(truth.tolist())
    return both.total() / len(truth)


def chance(truth: Tensor, classes: int, guesses: int | None = None) -> float:
    """The expected `right` of uniformly guessed labels, as many as the truth has unless given.

    With t_c true labels of class c and X ~ Binomial(guesses, 1 / classes), it is
    sum_c E min(X, t_c) / n, where E min(X, t) = P(X >= 1) + ... + P(X >= t).

    >>> import torch
    >>> chance(torch.tensor([3]), classes=10)
    0.1
    """
    if classes < 1:
        raise InvalidInput(f"classes={classes}: the labels need at least one class to guess from.")
    from scipy.special import bdtrc

    m = len(truth) if guesses is None else guesses
    counts = Counter(truth.tolist()).values()
    expected = sum(float(bdtrc(k, m, 1 / classes)) for t in counts for k in range(min(t, m)))
    return round(expected / len(truth), 12)
