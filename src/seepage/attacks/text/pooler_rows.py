"""The pooler's gradient holds the pooled state of every sentence: a test of whole sentences."""

import torch
from torch import Tensor

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.spans import Rank, Span
from seepage.core import Observation

_RANK = 1e-6
"""Singular values of the pooler's gradient below this share of the largest are rounding."""


def pooled_span(seen: Observation, network: Network, rank: Rank = None) -> Span | None:
    """The span of the states that the pooler read, one for each distinct sentence.

    dL/dW = sum_i d_i h_i^T has the rank of the batch; None where the update does not hold it.
    """
    name = f"{network.anatomy.pooler}.weight"
    if not network.anatomy.pooler or name not in seen.update:
        return None
    gradient = seen.update[name]
    if rank is not None:
        return Span.of(gradient, rank)
    values = torch.linalg.svdvals(gradient.double())
    return Span.of(gradient, int((values > _RANK * values[0]).sum()))


def pooled_distance(network: Network, span: Span, sentences: Tensor) -> Tensor:
    """How far each sentence's first state (all of one length) lies from that span."""
    return span.distance(network.last(sentences)[:, 0])
