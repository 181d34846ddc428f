"""How much of a sentence was read back."""

from torch import Tensor

from seepage.metrics.match import check_paired


def tokens_right(x: Tensor, truth: Tensor, pad: int | None = None) -> Tensor:
    """The share of places with the right token, padding in both sentences not counted.

    >>> import torch
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
