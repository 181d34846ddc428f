"""Small tasks on which the price of a defense is measured in minutes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seepage import zoo
from seepage.analysis.utility import Splits
from seepage.attacks import Adaptive, Anatomy, BiasRatio, EmbeddingRows
from seepage.core import Attack, Batch, Model
from seepage.errors import InvalidInput
from seepage.forms import Tokens
from seepage.zoo import Sample
from seepage.zoo.build import seeded

__all__ = ["NAMES", "Task", "named"]


@dataclass(frozen=True, eq=False)
class Task:
    """What is learned, by which network, and what of it an attacker wants.

    `make(seed)` gives the network at a start of its own; `private(n, seed)` a batch to attack.
    """

    name: str
    make: Callable[[int], Model]
    data: Splits
    private: Callable[[int, int], Batch]
    public: Tensor | None
    attacks: Sequence[Attack]


@dataclass(frozen=True)
class Start:
    """The network of a built-in task at a seeded start; by name, so that it travels to workers."""

    task: str

    def __call__(self, seed: int) -> Model:
        module = _NETWORKS[self.task](seed)
        return _SAMPLES[self.task](1, "private", 0).model(module, nn.functional.cross_entropy)


@dataclass(frozen=True)
class Private:
    """Private examples of a built-in task."""

    task: str

    def __call__(self, n: int, seed: int) -> Batch:
        return _SAMPLES[self.task](n, "private", seed).batch


def named(name: str) -> Task:
    """A built-in task.

    >>> task = named("table")
    >>> len(task.data.train), task.make(0).form.classes
    (265, 2)
    """
    if name not in _SAMPLES:
        raise InvalidInput(
            f"there is no task {name!r}: use {', '.join(NAMES)}, or give --model and --data."
        )
    private, public = (_SAMPLES[name](_SIZES[name], split, 0) for split in ("private", "public"))
    labelled = Batch(torch.cat([private.x, public.x]), torch.cat([private.y, public.y]))
    words = name == "reviews"
    attacks: Sequence[Attack] = [EmbeddingRows()] if words else [Adaptive(), BiasRatio()]
    return Task(name, Start(name), Splits.of(labelled), Private(name), public.x[:400], attacks)


class Reader(nn.Module):
    """Words and places through a tanh layer, its mean over places, and a linear head."""

    anatomy = Anatomy(word="word.weight", position="position.weight", blocks=(), spans=())

    def __init__(self, vocab: int, length: int, width: int = 32) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.dense, self.head = nn.Linear(width, 2 * width), nn.Linear(2 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        real = (x != 0)[..., None]
        state = self.word(x) + self.position.weight[: x.shape[1]]
        felt = (self.dense(state).tanh() * real).sum(1) / real.sum(1).clamp(min=1)
        logits: Tensor = self.head(felt)
        return logits


def _digits(n: int, split: str, seed: int) -> Sample:
    return zoo.digits(n, split=split, seed=seed)  # type: ignore[arg-type]


def _photos(n: int, split: str, seed: int) -> Sample:
    # Every photograph is a class, so both halves are drawn from all of them: new squares each.
    return zoo.photos(n, 16, "both", seed + 1000 * (split == "public"))


def _faces(n: int, split: str, seed: int) -> Sample:
    return zoo.faces(n, split, seed)  # type: ignore[arg-type]


def _table(n: int, split: str, seed: int) -> Sample:
    return zoo.table(n, split, seed)  # type: ignore[arg-type]


def _reviews(n: int, split: str, seed: int) -> Sample:
    return zoo.reviews(n, split, seed)  # type: ignore[arg-type]


def _reader(seed: int) -> nn.Module:
    form = zoo.reviews(1).form
    assert isinstance(form, Tokens)
    with seeded(seed):
        return Reader(form.vocab, form.length)


_SAMPLES: dict[str, Callable[[int, str, int], Sample]] = {
    "digits": _digits,
    "photos": _photos,
    "faces": _faces,
    "table": _table,
    "reviews": _reviews,
}
_SIZES = {"digits": 898, "photos": 1000, "faces": 100, "table": 221, "reviews": 1000}
_NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "digits": lambda seed: zoo.mlp(64, 128, 10, activation="tanh", seed=seed),
    "photos": lambda seed: zoo.mlp(768, 128, 8, activation="tanh", seed=seed),
    "faces": lambda seed: zoo.mlp(625, 64, 2, activation="tanh", seed=seed),
    "table": lambda seed: zoo.mlp(17, 32, 2, activation="tanh", seed=seed),
    "reviews": _reader,
}
NAMES = tuple(_SAMPLES)
