"""Reorderings of a sentence: what LAMP tries between its steps."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def permuted(words: int, draws: np.random.Generator) -> Tensor:
    """A random order."""
    return torch.from_numpy(draws.permutation(words))


def proposals(words: int, count: int, draws: np.random.Generator) -> Iterator[Tensor]:
    """The order as it is, then in turn: swap two, move one, move a span, a prefix to the end.

    >>> [order.tolist() for order in proposals(3, 2, np.random.default_rng(0))]
    [[0, 1, 2], [0, 2, 1]]
    """
    moves = (_swapped, _moved, _span_moved, _rotated)
    for number in range(count):
        order = list(range(words))
        if number and words > 1:
            order = moves[(number - 1) % len(moves)](order, draws)
        yield torch.tensor(order)


def _swapped(order: list[int], draws: np.random.Generator) -> list[int]:
    left, right = draws.choice(len(order), 2, replace=False)
    order[left], order[right] = order[right], order[left]
    return order


def _moved(order: list[int], draws: np.random.Generator) -> list[int]:
    word = order.pop(int(draws.integers(len(order))))
    order.insert(int(draws.integers(len(order) + 1)), word)
    return order


def _span_moved(order: list[int], draws: np.random.Generator) -> list[int]:
    start, end = sorted(draws.choice(len(order) + 1, 2, replace=False))
    span, rest = order[start:end], order[:start] + order[end:]
    place = int(draws.integers(len(rest) + 1))
    return rest[:place] + span + rest[place:]


def _rotated(order: list[int], draws: np.random.Generator) -> list[int]:
    cut = int(draws.integers(1, len(order)))
    return order[cut:] + order[:cut]
