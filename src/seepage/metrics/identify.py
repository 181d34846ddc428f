"""Whether a reconstruction points to its original among other examples."""

from torch import Tensor

from seepage.metrics.match import check_paired, distances


def identified(x: Tensor, truth: Tensor, pool: Tensor) -> Tensor:
    """Whether each x is nearer to its own truth than to every example of the pool.

    Image identification precision, Yin et al. 2021, arXiv 2104.07586, with pixels as features.
    Its chance level is 1 / (1 + len(pool)). The pool may hold the truths themselves.

    >>> import torch
    >>> truth, pool = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.6]])
    >>> identified(torch.tensor([[0.1], [0.7]]), truth, pool)
    tensor([ True, False])
    """
    check_paired("identified", x, truth)
    own = distances(x, truth).diagonal()
    # A pool that holds the truth itself ties with it, but for rounding.
    return own <= distances(x, pool).min(1).values * (1 + 1e-9) + 1e-14
