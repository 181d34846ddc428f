"""What an attacker who searches embeddings holds: the frame of each sentence, and the misfit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.attacks.text.anatomy import Network
from seepage.core import Batch, Observation, noiseless
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

    seen: Observation
    y: Tensor
    word: str
    distance: Distance
    alpha: float

    def __call__(self, x: Tensor, rng: Generator) -> Tensor:
        """D(x): the word table is left out, since embeddings do not read it."""
        update = noiseless(self.seen.client)(self.seen.model, Batch(x, self.y), rng)
        names = [n for n, u in self.seen.update.items() if n != self.word and n in update]
        names = [n for n in names if bool(self.seen.update[n].any()) and bool(update[n].any())]
        if self.distance == "cos":
            return self._angle(update, names)
        scaled, total = self.distance == "tag_scaled", x.new_zeros(())
        for depth, name in enumerate(names):
            rest = update[name] - self.seen.update[name]
            weight = 0.1 * (1 - depth / len(names)) if scaled else self.alpha
            weight = 0.0 if self.distance == "l2" else weight
            total = total + rest.square().sum() + weight * rest.abs().sum()
        return total / 2 if scaled else total

    def value(self, x: Tensor, rng: Generator) -> float:
        """D without its graph."""
        return float(self(x.detach(), rng).detach())

    def _angle(self, update: Tensors, names: Sequence[str]) -> Tensor:
        given = self.seen.update
        parts = [
            1 - (update[n] * given[n]).sum() / (update[n].norm() * given[n].norm()) for n in names
        ]
        return torch.stack(parts).mean()


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
