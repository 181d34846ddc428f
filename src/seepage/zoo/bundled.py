"""Which examples of a bundled data set are private, and where scikit-learn keeps its own."""

from typing import Any, Literal

import torch
from torch import Tensor

from seepage.checks import one_of
from seepage.core import stream
from seepage.errors import InvalidInput

Split = Literal["private", "public"]


def scikit_learn() -> Any:
    """scikit-learn's data sets, or the remedy."""
    try:
        from sklearn import datasets
    except ImportError:
        raise InvalidInput(
            "these data come with scikit-learn, which is not installed: "
            "pip install 'seepage[demo]'. zoo.photos and zoo.faces do without."
        ) from None
    return datasets


def halves(what: str, total: int) -> tuple[Tensor, ...]:
    """The numbers of the private and of the public examples: the same whatever the seed."""
    return torch.randperm(total, generator=stream(0, f"zoo {what}")).tensor_split(2)


def chosen(what: str, total: int, n: int, split: Split, seed: int) -> Tensor:
    """The examples of a split, in the seed's order: the first n. The split itself never moves."""
    one_of(f"{what}.split", split, ("private", "public"))
    half = halves(what, total)[split == "public"]
    if not 1 <= n <= len(half):
        raise InvalidInput(f"{what}: n={n}, and its {split} split has 1 to {len(half)} examples.")
    return half[torch.randperm(len(half), generator=stream(seed, f"zoo {what} {split}"))[:n]]
