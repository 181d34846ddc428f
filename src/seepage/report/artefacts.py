"""Single examples out of an artefact, without reading the rest of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from seepage.errors import InvalidInput
from seepage.forms import Form


@dataclass(frozen=True)
class Pair:
    """One original, and the candidate that stands for it (None where there is none)."""

    number: int
    truth: Tensor
    answer: Tensor | None


def place(folder: Path, named: object) -> Path:
    """The path of an artefact; a row is data, and must not make the report read other files."""
    if not isinstance(named, str) or not named or "\0" in named:
        raise InvalidInput("the row names no artefact.")
    path = (folder / named).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InvalidInput("the row names an artefact outside its store.")
    if not path.is_file():
        raise InvalidInput(f"there is no {named} in the store any more.")
    return path


def pairs(path: Path, form: Form, wanted: Sequence[tuple[int, int | None]]) -> list[Pair]:
    """Originals and their candidates, by their numbers; those that the file lacks are left out."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if "truth/x" not in names:
                raise InvalidInput("the artefact holds no originals.")
            truths = _Rows.of(file.get_slice("truth/x"), form)
            answers = _Rows.of(file.get_slice("answer/x"), form) if "answer/x" in names else None
            return [
                Pair(i, truth, answers[at] if answers and at is not None else None)
                for i, at in wanted
                if (truth := truths[i]) is not None
            ]
    except (SafetensorError, OSError, RuntimeError, TypeError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise InvalidInput(f"the artefact is damaged ({first}).") from None


def tensor(path: Path, name: str, most: int) -> Tensor | None:
    """The first rows of a tensor that an attack noted, if the file has it."""
    try:
        with safe_open(path, framework="pt") as file:
            if name not in set(file.keys()):
                return None
            found: Tensor = file.get_slice(name)[:most]
            return found
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, IndexError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise InvalidInput(f"the artefact is damaged ({first}).") from None


class _Slice(Protocol):
    """What safetensors gives for a tensor that is not read yet."""

    def get_shape(self) -> list[int]: ...
    def __getitem__(self, part: slice) -> Tensor: ...


@dataclass(frozen=True)
class _Rows:
    """A tensor on disk, one row at a time."""

    tensor: _Slice
    length: int

    @staticmethod
    def of(tensor: _Slice, form: Form) -> "_Rows":
        length, *shape = tensor.get_shape() or [0]
        if tuple(shape) != form.shape:
            raise InvalidInput("the artefact does not have the shape that the row says.")
        return _Rows(tensor, length)

    def __getitem__(self, i: int) -> Tensor | None:
        return self.tensor[i : i + 1][0] if 0 <= i < self.length else None
