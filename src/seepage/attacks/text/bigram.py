"""A language model small enough to ship: how likely one token follows another."""

import torch
from torch import Tensor

from seepage.errors import InvalidInput
from seepage.values import value


@value
class Bigram:
    """p(b|a) = (c(a,b) + 2 q(b)) / (c(a) + 2), q(b) in proportion to c(b) + 0.1.

    c counts public text in the vocabulary of the model under attack; the value of a sentence is
    its mean negative log-likelihood. It stands for the GPT-2 of LAMP, which cannot be shipped.

    >>> Bigram.of(torch.tensor([[1, 2, 1, 2, 0]]), vocab=3, pad=0)(torch.tensor([[1, 2], [2, 2]]))
    tensor([0.2955, 1.1221])
    """

    pairs: Tensor
    """Distinct neighbours a * vocabulary + b, ascending."""
    counts: Tensor
    singles: Tensor
    """How often each token comes, and how often something follows it: (2, vocabulary)."""
    pad: int

    @classmethod
    def of(cls, ids: Tensor, vocab: int, pad: int) -> "Bigram":
        """Count padded rows of public text."""
        left, right = ids[:, :-1].flatten(), ids[:, 1:].flatten()
        real = (left != pad) & (right != pad)
        pairs, counts = torch.unique(left[real] * vocab + right[real], return_counts=True)
        every = torch.bincount(ids[ids != pad], minlength=vocab)
        followed = torch.bincount(left[real], minlength=vocab)
        return cls(pairs, counts, torch.stack([every, followed]), pad)

    def check(self, vocab: int) -> None:
        """Demand the vocabulary of the model under attack."""
        if self.singles.shape[1] != vocab:
            raise InvalidInput(
                f"the language model has {self.singles.shape[1]} tokens, and the attacked model "
                f"{vocab}. Count public text with that model's tokenizer."
            )

    def __call__(self, ids: Tensor) -> Tensor:
        """The mean negative log-likelihood of each row (n,)."""
        ids = ids.cpu()
        vocab, (every, followed) = self.singles.shape[1], self.singles
        share = (every + 0.1) / (every + 0.1).sum()
        left, right = ids[:, :-1], ids[:, 1:]
        wanted = left * vocab + right
        place = torch.searchsorted(self.pairs, wanted).clamp_max(len(self.pairs) - 1)
        seen = torch.where(self.pairs[place] == wanted, self.counts[place], 0)
        likely = (seen + 2 * share[right]) / (followed[left] + 2)
        real = (left != self.pad) & (right != self.pad)
        total: Tensor = -(likely.log() * real).sum(1)
        return total / real.sum(1).clamp_min(1)
