"""What the attention of a decoder cannot show: last tokens, and sentences inside sentences."""

import torch
from torch import Tensor

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.certificate import padded, unexplained
from seepage.core import Batch, Observation, noiseless

Sentence = tuple[int, ...]

_SURE = 1e-3
_ENOUGH = 1e-4
_ROWS = 200
_ROUNDS = 5


def completed(
    seen: Observation, network: Network, prefixes: list[Sentence]
) -> tuple[list[Sentence], float]:
    """Each prefix with the last token of its sentence, and the certificate max |C - 1|.

    In next-token training the last token is only ever a target. With H the final states of all K
    known places, P their softmax and Y the targets, the head's gradient is (P - Y)^T H / K, so
    that R = P^T H - K G = Y^T H. What known targets put there is taken away, and R^T = H_last^T C
    by least squares leaves C = 1 at the last tokens.
    """
    table = _table(network)
    states = [network.last(torch.tensor([p], device=table.device))[0].double() for p in prefixes]
    every = torch.cat(states)
    observed = _head(seen, network)
    rest = (every @ table.double().T).softmax(1).T @ every - len(every) * observed
    targets = torch.tensor([t for p in prefixes for t in p[1:]], device=table.device)
    known = torch.cat([state[:-1] for state in states])
    rest.index_add_(0, targets, -known)
    last = torch.stack([state[-1] for state in states])
    weights = torch.linalg.pinv(last.T) @ rest.T
    for _ in range(_ROUNDS if network.anatomy.tied else 0):
        # A tied table's rows hold the input's gradient too: simulate it, and solve what is left.
        guess = weights.argmax(1)
        rest = len(every) * (_simulated(seen, network, _joined(prefixes, guess)) - observed)
        after = torch.nn.functional.one_hot(guess, len(table)) + torch.linalg.pinv(last.T) @ rest.T
        weights, settled = after, bool((after.argmax(1) == guess).all())
        if settled:
            break
    best = weights.max(1)
    return _joined(prefixes, best.indices), float((best.values - 1).abs().max())


def _joined(prefixes: list[Sentence], last: Tensor) -> list[Sentence]:
    return [(*p, int(token)) for p, token in zip(prefixes, last, strict=True)]


def _simulated(seen: Observation, network: Network, sentences: list[Sentence]) -> Tensor:
    """The gradient of the word table that these sentences give."""
    x = padded(network, sentences)
    client = noiseless(seen.client)
    update = client(seen.model, Batch(x), torch.Generator().manual_seed(0))
    return update[network.anatomy.word].detach().double()


def with_hidden(
    seen: Observation, network: Network, leaves: list[Sentence], n: int | None
) -> list[Sentence]:
    """Leaves, and the inner prefixes that the head's gradient says are sentences too.

    With every place known, P^T H - K G is zero in the row of each token that is no target. As long
    as sentences are missing, the prefix joins that leaves least in some rows spread over the table.
    """
    table, gradient = _table(network), _head(seen, network)
    rows = torch.linspace(0, len(table) - 1, min(_ROWS, len(table))).long()
    paths = [_predicted(network, leaf, table, rows) for leaf in leaves]
    found, total = list(leaves), torch.stack([path[-1] for path in paths]).sum(0)
    places = sum(map(len, leaves))
    inner = {
        leaf[:cut]: path[cut - 1]
        for leaf, path in zip(leaves, paths, strict=True)
        for cut in range(1, len(leaf) + 1)
    }

    def rest(more: Sentence | None) -> float:
        extra = 0 if more is None else inner[more]
        count = places + (len(more) if more else 0)
        return float((total + extra - count * gradient[rows]).norm(dim=1).median())

    while len(found) < (n or 0):
        best = min(inner, key=rest)
        if rest(best) >= rest(None):
            break
        found.append(best)
        total, places = total + inner[best], places + len(best)
    return found


def _predicted(network: Network, leaf: Sentence, table: Tensor, rows: Tensor) -> Tensor:
    """P^T H over the first 1, 2, ... places of a sentence, in some rows of the vocabulary."""
    states = network.last(torch.tensor([leaf], device=table.device))[0].double()
    chances = (states @ table.double().T).softmax(1)[:, rows]
    return (chances[:, :, None] * states[:, None]).cumsum(0)


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


def _table(network: Network) -> Tensor:
    anatomy = network.anatomy
    return network.state[anatomy.word if anatomy.tied else anatomy.head]


def _head(seen: Observation, network: Network) -> Tensor:
    anatomy = network.anatomy
    return seen.update[anatomy.word if anatomy.tied else anatomy.head].double()
