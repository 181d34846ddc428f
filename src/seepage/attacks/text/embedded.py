"""What an attacker who searches embeddings holds: the frame of each sentence, and the misfit."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.attacks.text.anatomy import Network, anatomy_of
from seepage.clients import FedSGD
from seepage.core import Batch, Client, Model, Observation, noiseless
from seepage.errors import InvalidInput
from seepage.tree import Tensors

Distance = Literal["cos", "l2", "tag", "tag_scaled"]


@dataclass(frozen=True, eq=False)
class Frame:
    """Which places are fixed: start, end and padding; the rest (`free`) are words to find."""

    ids: Tensor
    free: Tensor
    pinned: Tensor
    """The embeddings of the fixed places."""

    @classmethod
    def of(cls, network: Network, lengths: Sequence[int]) -> "Frame":
        """Sentences of these lengths, their special tokens counted."""
        form, device = network.form, network.word.device
        ids = torch.full((len(lengths), form.length), form.pad, device=device)
        free = torch.zeros_like(ids, dtype=torch.bool)
        for row, length in enumerate(lengths):
            free[row, :length] = True
            for token, place in ((form.start, 0), (form.end, length - 1)):
                if token is not None:
                    ids[row, place], free[row, place] = token, False
        return cls(ids, free, network.word[ids])

    def fixed(self, x: Tensor) -> Tensor:
        """The same embeddings with the fixed places as they must be."""
        return torch.where(self.free[..., None], x, self.pinned)


@dataclass(frozen=True, eq=False)
class Misfit:
    """How far the believed client's update on embeddings is from the observed one."""

    client: Client
    model: Model
    given: Tensors
    """What was observed and is not zero; not the word table, which embeddings do not read."""
    y: Tensor
    distance: Distance
    alpha: float

    @classmethod
    def of(cls, seen: Observation, y: Tensor, distance: Distance, alpha: float) -> "Misfit":
        """The distance to this observation."""
        word, client = anatomy_of(seen.model).word, noiseless(seen.client)
        given = {n: u for n, u in seen.update.items() if n != word and bool(u.any())}
        # Plain gradients do not mix tensors, so that the large one that stays zero can be left out.
        model = _frozen(seen.model, word) if isinstance(client, FedSGD) else seen.model
        return cls(client, model, given, y, distance, alpha)

    def __call__(self, x: Tensor, rng: Generator) -> Tensor:
        """D(x), over the tensors that are zero in neither update."""
        update = self.client(self.model, Batch(x, self.y), rng)
        pairs = [(update[n], u) for n, u in self.given.items() if n in update]
        lengths = [made.norm() for made, _ in pairs]
        both = [(*pair, length) for pair, length in zip(pairs, lengths, strict=True) if length > 0]
        if self.distance == "cos":
            angles = [
                1 - made.flatten() @ u.flatten() / (length * u.norm()) for made, u, length in both
            ]
            return torch.stack(angles).mean()
        scaled, total = self.distance == "tag_scaled", x.new_zeros(())
        for depth, (made, u, _) in enumerate(both):
            weight = 0.1 * (1 - depth / len(both)) if scaled else self.alpha
            weight = 0.0 if self.distance == "l2" else weight
            total = total + (made - u).square().sum() + weight * (made - u).abs().sum()
        return total / 2 if scaled else total

    def value(self, x: Tensor, rng: Generator) -> float:
        """D without its graph."""
        return float(self(x.detach(), rng).detach())


def _frozen(model: Model, name: str) -> Model:
    """The same model, where one tensor is not trained."""
    params = {n: p for n, p in model.params.items() if n != name}
    moved = {name: model.params[name]} if name in model.params else {}
    return dataclasses.replace(model, params=params, buffers={**model.buffers, **moved})


def nearest(network: Network, x: Tensor, frame: Frame) -> Tensor:
    """The token with the largest cosine at each free place, specials and unused ones left out."""
    table = torch.nn.functional.normalize(network.word, dim=1)
    allowed = torch.ones(len(table), dtype=torch.bool, device=table.device)
    banned = {*network.form.forbidden, network.form.pad, network.form.start, network.form.end}
    allowed[[token for token in banned if token is not None]] = False
    scores = (x @ table.T).masked_fill(~allowed, -torch.inf)
    return torch.where(frame.free, scores.argmax(-1), frame.ids)


def told_labels(seen: Observation) -> Tensor:
    """The labels, which this attack is told."""
    if seen.y is None:
        raise InvalidInput(
            "this attack knows the labels, and the observation tells none. "
            "Observe with tell=('n', 'y')."
        )
    return seen.y


def relative(seen: Observation, x: Tensor, y: Tensor, rng: Generator) -> float:
    """The relative gradient error of whole sentences."""
    update = tree.detached(noiseless(seen.client)(seen.model, Batch(x, y), rng))
    shared = {name: given for name, given in seen.update.items() if name in update}
    return float(tree.norm(tree.subtract(update, shared)) / tree.norm(shared))
