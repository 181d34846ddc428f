"""What the attention of a decoder cannot show: last tokens, and sentences inside sentences."""

import torch
from torch import Tensor

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.certificate import unexplained
from seepage.core import Observation

Sentence = tuple[int, ...]

_SURE = 1e-3
_ENOUGH = 1e-4


def completed(
    seen: Observation, network: Network, prefixes: list[Sentence]
) -> tuple[list[Sentence], float]:
    """Each prefix with the last token of its sentence, and the certificate max |C - 1|.

    In next-token training the last token is only ever a target. With H the final states of all K
    known places, P their softmax and Y the targets, the head's gradient is (P - Y)^T H / K, so
    that R = P^T H - K G = Y^T H. What known targets put there is taken away, and R^T = H_last^T C
    by least squares leaves C = 1 at the last tokens.
    """
    table = network.state[network.anatomy.word if network.anatomy.tied else network.anatomy.head]
    states = [network.last(torch.tensor([p], device=table.device))[0].double() for p in prefixes]
    every = torch.cat(states)
    rest = (every @ table.double().T).softmax(1).T @ every - len(every) * _head(seen, network)
    targets = torch.tensor([t for p in prefixes for t in p[1:]], device=table.device)
    known = torch.cat([state[:-1] for state in states])
    rest.index_add_(0, targets, -known)
    last = torch.stack([state[-1] for state in states])
    weights = torch.linalg.pinv(last.T) @ rest.T
    best = weights.max(1)
    error = float((best.values - 1).abs().max())
    return [(*p, int(t)) for p, t in zip(prefixes, best.indices, strict=True)], error


def shares_head(seen: Observation, network: Network) -> bool:
    """Whether the update holds the gradient of a next-token head."""
    anatomy = network.anatomy
    return bool(anatomy.head) and (anatomy.word if anatomy.tied else anatomy.head) in seen.update


def with_inner(
    seen: Observation, network: Network, leaves: list[Sentence], inner: list[Sentence]
) -> list[Sentence]:
    """Leaves, and the inner prefixes that the classifier's gradient says are sentences too.

    A sentence that begins another one is no leaf: as long as examples are missing, the prefix
    joins that leaves least of the classifier's gradient unexplained.
    """
    found = list(leaves)
    while len(found) < (seen.n or 0) and unexplained(seen, network, found) > _ENOUGH:
        rest = [p for p in inner if p not in found]
        if not rest:
            break
        found.append(min(rest, key=lambda p: unexplained(seen, network, [*found, p])))
    return found


def certain(error: float) -> bool:
    """Whether the last tokens come out as ones."""
    return error < _SURE


def _head(seen: Observation, network: Network) -> Tensor:
    anatomy = network.anatomy
    return seen.update[anatomy.word if anatomy.tied else anatomy.head].double()
