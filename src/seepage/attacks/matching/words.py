"""Sentences are searched as the embeddings of their words, and answered as the nearest words."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.embedded import Frame, nearest, relative
from seepage.attacks.text.lamp import lengths_of
from seepage.attacks.units import Units
from seepage.core import Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.forms import Tokens


@dataclass(frozen=True, eq=False)
class Words:
    """u = the embeddings in units of their table's deviation; special tokens stay in place.

    The network must take embeddings for x and carry its `anatomy`, as for the attacks on text.
    """

    network: Network
    frame: Frame

    @classmethod
    def of(cls, seen: Observation, n: int) -> "Words | None":
        """For sentences whose labels are no words themselves; nothing for other data."""
        if not isinstance(seen.model.form, Tokens):
            return None
        if not seen.model.form.classes:
            raise InvalidInput(
                "Invert searches the embeddings of sentences with labels, and these are their own "
                "target. Use an attack on text such as TokenSpan."
            )
        network = Network.of(seen.model)
        return cls(network, Frame.of(network, lengths_of(seen, network, (), n)))

    @property
    def units(self) -> Units:
        """The embeddings themselves, without a box."""
        zero = self.network.word.new_zeros(())
        return Units(zero, zero + 1, zero - torch.inf, zero + torch.inf)

    def draw(self, rng: Generator) -> list[Tensor]:
        """Standard normal embeddings."""
        shape = (*self.frame.ids.shape, self.network.word.shape[1])
        return [torch.randn(shape, generator=rng, dtype=torch.float64).to(self.network.word)]

    def render(self, leaves: Sequence[Tensor]) -> Tensor:
        """The embeddings that are searched, among those that are known."""
        return self.frame.fixed(self.network.word.std() * leaves[0])

    def spelt(self, answer: Reconstruction, seen: Observation, rng: Generator) -> Reconstruction:
        """The nearest words, with what they themselves leave of the update unexplained."""
        ids = nearest(self.network, answer.x, self.frame)
        assert answer.y is not None  # sentences without labels are refused
        error = relative(seen, ids, answer.y, rng)
        residual = answer.belief.new_full((len(ids),), error)
        trace = {key: value for key, value in answer.trace.items() if key != "frames"}
        return Reconstruction(ids, answer.y, -residual, residual, answer.note, trace)
