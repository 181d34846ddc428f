"""Frozen values whose text is their configuration, the report's label and part of a trial's key."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

from torch import Tensor, nn

from seepage import tree

T = TypeVar("T")
_LITERALS = (str, int, float, tuple, Tensor, type(None))


def describe(thing: object) -> str:
    """The canonical text of a value: its name and the fields that differ from their defaults.

    Tensors and networks appear by shape and fingerprint, functions by their full name, so that
    equal texts mean equal configurations, in this process and in the next.

    >>> import torch
    >>> describe((1, "a", torch.zeros(2)))
    "(1, 'a', tensor(2, float32, bcd374693a0c))"
    """
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return f"{type(thing).__name__}({', '.join(_fields(thing))})"
    if isinstance(thing, Tensor):
        shape = "x".join(map(str, thing.shape)) or "scalar"
        kind = str(thing.dtype).removeprefix("torch.")
        return f"tensor({shape}, {kind}, {tree.fingerprint({'': thing})})"
    if isinstance(thing, nn.Module):
        return f"{type(thing).__name__}({tree.fingerprint(thing.state_dict())})"
    if isinstance(thing, Mapping):
        return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in thing.items()) + "}"
    if isinstance(thing, tuple):
        return "(" + ", ".join(map(describe, thing)) + ("," if len(thing) == 1 else "") + ")"
    if isinstance(thing, list):
        return "[" + ", ".join(map(describe, thing)) + "]"
    if callable(thing) and hasattr(thing, "__qualname__"):
        body = f"#{_body(thing)}" if "<" in thing.__qualname__ else ""
        # A spawned worker knows the main module of its parent by another name.
        home = thing.__module__.replace("__mp_main__", "__main__")
        return f"{home}:{thing.__qualname__}{body}"
    if isinstance(thing, set | frozenset):
        return "{" + ", ".join(sorted(map(describe, thing))) + "}"
    if type(thing).__repr__ is object.__repr__ and hasattr(thing, "__dict__"):
        settings = ", ".join(f"{name}={describe(part)}" for name, part in vars(thing).items())
        return f"{type(thing).__name__}({settings})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing))


def _body(function: Any) -> str:
    """A digest of what a nameless function computes: its code, its constants, what it encloses."""
    code = getattr(function, "__code__", None)
    if code is None:
        return "builtin"
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    used = [c for c in (*code.co_consts, *cells) if isinstance(c, _LITERALS)]
    parts = (code.co_code.hex(), code.co_names, describe(used), describe(function.__defaults__))
    return hashlib.blake2b(repr(parts).encode(), digest_size=4).hexdigest()


def _fields(thing: Any) -> list[str]:
    return [
        f"{field.name}={described}"
        for field in dataclasses.fields(thing)
        if (described := describe(getattr(thing, field.name))) != _default(field)
    ]


def _default(field: "dataclasses.Field[Any]") -> str | None:
    if field.default is not dataclasses.MISSING:
        return describe(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return describe(field.default_factory())
    return None


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """Make a class a frozen value: it prints, compares and hashes as `describe` says.

    >>> @value
    ... class Half:
    ...     of: float = 1.0
    >>> Half(2.0), Half(), Half(1.0) == Half()
    (Half(of=2.0), Half(), True)
    """
    made = dataclass(frozen=True, eq=False, repr=False)(cls)
    for name, method in (("__repr__", describe), ("__eq__", _same), ("__hash__", _hash)):
        setattr(made, name, method)
    return made


def _same(left: object, right: object) -> bool:
    return left is right or (type(left) is type(right) and describe(left) == describe(right))


def _hash(thing: object) -> int:
    return hash(describe(thing))
