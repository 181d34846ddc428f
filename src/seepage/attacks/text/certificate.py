"""Labels of known sentences, and how well the believed client on them explains the update."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.attacks.text.anatomy import Network
from seepage.core import Batch, Observation, noiseless

_FITS = 1e-2


def labels_of(
    seen: Observation, network: Network, sentences: Sequence[Sequence[int]]
) -> Tensor | None:
    """The label of each sentence: the class whose logit gradient is negative.

    The classifier's gradient is D^T F with F the features of the sentences, known with them, and
    D their logit gradients (softmax minus one-hot, over n): D = pinv(F)^T G^T. None where the
    features do not explain it, or no classifier is shared.
    """
    solved = _solved(seen, network, sentences)
    return solved[0].argmin(1) if solved and solved[1] < _FITS else None


def unexplained(seen: Observation, network: Network, sentences: Sequence[Sequence[int]]) -> float:
    """The share of the classifier's gradient that these sentences leave; 0 where none is shared."""
    solved = _solved(seen, network, sentences)
    return solved[1] if solved else 0.0


def explained(seen: Observation, x: Tensor, y: Tensor | None, rng: Generator) -> float:
    """The relative distance of the believed client's update on these sentences to the update."""
    update = tree.detached(noiseless(seen.client)(seen.model, Batch(x, y), rng))
    shared = {name: given for name, given in seen.update.items() if name in update}
    return float(tree.norm(tree.subtract(update, shared)) / tree.norm(shared))


def _solved(
    seen: Observation, network: Network, sentences: Sequence[Sequence[int]]
) -> tuple[Tensor, float] | None:
    """The logit gradients D, and the share of the classifier's gradient that D^T F leaves."""
    name = f"{network.anatomy.classifier}.weight"
    if not network.anatomy.classifier or name not in seen.update or not sentences:
        return None
    gradient = seen.update[name].double()
    features = torch.stack([feature(network, s) for s in sentences]).double()
    slopes = torch.linalg.pinv(features.T) @ gradient.T
    return slopes, float((features.T @ slopes - gradient.T).norm() / gradient.norm())


def padded(network: Network, sentences: Sequence[Sequence[int]]) -> Tensor:
    """Sentences as rows of the form's length."""
    form = network.form
    x = torch.full((len(sentences), form.length), form.pad, device=network.word.device)
    for row, sentence in zip(x, sentences, strict=True):
        row[: len(sentence)] = torch.tensor(list(sentence))
    return x


def feature(network: Network, sentence: Sequence[int]) -> Tensor:
    """What the classifier reads: tanh of the pooler's output, or a decoder's last state."""
    state = network.last(torch.tensor([list(sentence)], device=network.word.device))
    if network.anatomy.causal:
        return state[0, -1]
    if not network.anatomy.pooler:
        return state[0, 0]
    pooler = network.module.get_submodule(network.anatomy.pooler)
    found: Tensor = torch.tanh(pooler(state[:, 0]))[0]
    return found
