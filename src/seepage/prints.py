"""Fingerprints of models and batches: what makes a trial's key the same in every process."""

import hashlib
import types
from collections.abc import Callable
from typing import Any

from torch import nn

from seepage import tree
from seepage.core import Batch, Model
from seepage.forms import form_to
from seepage.values import describe

__all__ = ["Prints", "of_batch", "of_model"]


class Prints:
    """Fingerprints, each taken once: many trials share one model, batch and public set."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, str]] = {}

    def of(self, thing: Any, measure: Callable[[Any], str]) -> str:
        """What this measure says of this thing, measured when first asked."""
        # The thing itself is kept too, so that its number is not given to another.
        known = self._known.get(id(thing))
        if known is None:
            known = self._known[id(thing)] = thing, measure(thing)
        return known[1]


def of_batch(batch: Batch) -> str:
    """The fingerprint of some examples and their labels."""
    named = {"x": batch.x, "y": batch.y}
    return tree.fingerprint({name: t for name, t in named.items() if t is not None})


def of_model(model: Model) -> str:
    """All that a network, its loss and its form compute with, as text."""
    loss = _network(model.loss) if isinstance(model.loss, nn.Module) else describe(model.loss)
    parts = (tree.fingerprint(model.state), _network(model.module), loss, form_to(model.form))
    return repr(parts)


def _network(module: nn.Module) -> str:
    """What a network computes beside its tensors: its parts, their settings, and their code."""
    return "\n".join(f"{name}: {_part(part)}" for name, part in module.named_modules())


def _part(module: nn.Module) -> str:
    kind = type(module)
    settings = {
        name: describe(field)
        for name, field in sorted(vars(module).items())
        if isinstance(field, str | int | float | bool | tuple | None)
    }
    forward = getattr(kind.forward, "__code__", None)
    code = _code(forward) if forward and not kind.__module__.startswith("torch.") else ""
    return f"{kind.__module__}.{kind.__qualname__} {settings} {code}"


def _code(code: types.CodeType) -> str:
    constants = [c for c in code.co_consts if isinstance(c, str | int | float | None)]
    parts = (code.co_code.hex(), code.co_names, constants)
    return hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()
