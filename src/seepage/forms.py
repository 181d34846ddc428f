"""The form of one example: all that an attacker knows of the data beforehand."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seepage.errors import InvalidInput
from seepage.values import value

__all__ = ["Column", "Form", "Images", "Table", "Tokens"]


@value
class Images:
    """Images of one shape whose raw values lie in [low, high].

    With `mean` and `std` the network's input is already normalised, channel by channel, so its
    range is (low - mean)/std to (high - mean)/std.

    >>> Images((3, 32, 32), classes=10).show(torch.full((3, 32, 32), 2.0)).max()
    tensor(1.)
    """

    shape: tuple[int, int, int]
    classes: int
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_shape("Images", self.shape, 3)
        if not self.low < self.high:
            raise InvalidInput(f"Images: low={self.low} is not below high={self.high}.")
        if (self.mean is None) != (self.std is None):
            raise InvalidInput("Images: give both mean and std, or neither.")
        for name, given in (("mean", self.mean), ("std", self.std)):
            if given is not None and len(given) != self.shape[0]:
                raise InvalidInput(
                    f"Images.{name} has {len(given)} values for {self.shape[0]} channels. "
                    "Pass one for each channel."
                )
        if self.std is not None and min(self.std) <= 0:
            raise InvalidInput(f"Images.std={self.std} must be positive.")

    def raw(self, x: Tensor) -> Tensor:
        """The network's inputs back in raw units, unclamped."""
        if self.mean is None or self.std is None:
            return x
        return x * self._channels(self.std, x) + self._channels(self.mean, x)

    def normalised(self, raw: Tensor) -> Tensor:
        """Raw values as the network takes them."""
        if self.mean is None or self.std is None:
            return raw
        return (raw - self._channels(self.mean, raw)) / self._channels(self.std, raw)

    def show(self, x: Tensor) -> Tensor:
        """What a person sees: values in [0, 1], whatever the network's own range."""
        raw = self.raw(x.detach())
        return ((raw - self.low) / (self.high - self.low)).clamp(0, 1)

    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and highest input that a real image can have, channel by channel."""
        ones = torch.ones(self.shape[0], 1, 1, dtype=like.dtype, device=like.device)
        return self.normalised(self.low * ones), self.normalised(self.high * ones)

    def _channels(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


@value
class Column:
    """One column of a table: a number (standardised by mean and std), or one of the levels."""

    name: str
    levels: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def width(self) -> int:
        return len(self.levels) or 1


@value
class Table:
    """Rows of a table: standardised numbers, and categories as one-hot groups.

    >>> table = Table((Column("age", mean=40, std=10), Column("smokes", ("no", "yes"))), classes=2)
    >>> table.show(torch.tensor([0.5, 0.1, 0.9]))
    {'age': 45.0, 'smokes': 'yes'}
    """

    columns: tuple[Column, ...]
    classes: int

    def __post_init__(self) -> None:
        if not self.columns:
            raise InvalidInput("Table.columns is empty. Pass a Column for each column.")

    @property
    def shape(self) -> tuple[int]:
        return (sum(column.width for column in self.columns),)

    def groups(self) -> list[tuple[Column, slice]]:
        """Each column with the entries of x that hold it."""
        ends = torch.tensor([column.width for column in self.columns]).cumsum(0).tolist()
        return [(c, slice(end - c.width, end)) for c, end in zip(self.columns, ends, strict=True)]

    def show(self, x: Tensor) -> dict[str, float | str]:
        """One row in its own units: numbers de-standardised, the likeliest level named."""
        return {
            column.name: column.levels[int(x[part].argmax())]
            if column.levels
            else round(float(x[part]) * column.std + column.mean, 6)
            for column, part in self.groups()
        }


@value
class Tokens:
    """Right-padded sentences of token numbers; `words` gives them a spelling.

    >>> Tokens(4, 3, pad=0, words=("[PAD]", "hello", "world")).show(torch.tensor([1, 2, 0, 0]))
    'hello world'
    """

    length: int
    vocab: int
    pad: int
    start: int | None = None
    end: int | None = None
    forbidden: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    classes: int = 0

    def __post_init__(self) -> None:
        _check_shape("Tokens", (self.length, self.vocab), 2)
        if not 0 <= self.pad < self.vocab:
            raise InvalidInput(f"Tokens.pad={self.pad} is outside the vocabulary of {self.vocab}.")
        if self.words and len(self.words) != self.vocab:
            raise InvalidInput(f"Tokens.words has {len(self.words)} words for {self.vocab} tokens.")

    @property
    def shape(self) -> tuple[int]:
        return (self.length,)

    def show(self, x: Tensor) -> str:
        """The words of one sentence, without its padding."""
        ids = [int(token) for token in x if int(token) != self.pad]
        return " ".join(self.words[i] if self.words else str(i) for i in ids)


Form = Images | Table | Tokens


def form_to(form: Form) -> dict[str, object]:
    """A form as JSON."""
    return {"kind": type(form).__name__, **dataclasses.asdict(form)}


def form_from(about: object, path: str | Path) -> Form:
    """A form from JSON, each field checked for its type: the file may be damaged or hostile."""
    try:
        fields: dict[str, Any] = dict(about)  # type: ignore[call-overload]
        kind = {"Images": Images, "Table": Table, "Tokens": Tokens}[fields.pop("kind")]
        if kind is Table:
            fields["columns"] = tuple(Column(**_frozen(column)) for column in fields["columns"])
        form: Form = kind(**_frozen(fields))
        return form
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InvalidInput(
            f"{path}: its form cannot be read ({type(error).__name__}: {error}). "
            "Write the file again with Observation.save."
        ) from None


def _frozen(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}


def _check_shape(what: str, shape: tuple[int, ...], length: int) -> None:
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in shape)
    if not whole or len(shape) != length or min(shape) < 1 or math.prod(shape) > 2**40:
        raise InvalidInput(f"{what}: {shape} should be {length} positive whole numbers.")
