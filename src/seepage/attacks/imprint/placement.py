"""Where the rows go: before the whole model, or before any layer that still sees the example."""

import copy
import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seepage import tree
from seepage.attacks.imprint.block import Placed, Rows
from seepage.attacks.imprint.carry import carrier
from seepage.attacks.imprint.certificate import Reader, judge_of
from seepage.core import Model
from seepage.errors import InvalidInput
from seepage.forms import Tokens

__all__ = ["Site", "disarmed", "site"]

_AT_ONCE = 64
_LARGEST_TABLE = 2**28  # entries of the table of every word at every position


@dataclass(frozen=True)
class Site:
    """A copy of the network with a place for the rows in it."""

    module: nn.Module
    at: str
    shape: tuple[int, ...]
    reader: Reader
    model: Model
    probe: Tensor
    """Two made-up inputs of the form."""

    @property
    def size(self) -> int:
        """The number of values that each row weighs."""
        return math.prod(self.shape)

    def project(self, x: Tensor, weights: Tensor) -> Tensor:
        """(m, rows) float64: each weight vector applied to what rows placed here see of x."""
        parts = (self._seen(part.to(self.model.device)) for part in _parts(x))
        return torch.cat([part.flatten(1).double().cpu() @ weights.T for part in parts])

    def _seen(self, x: Tensor) -> Tensor:
        return _input_of(self.module, self.at, x) if self.at else x

    def with_rows(self, rows: Rows) -> Model:
        """The crafted model: the user's own, with the rows in front of that layer."""
        like = next(iter(self.model.params.values()))
        rows = rows.to(like)
        if not self.at:
            return _model(Placed(rows, self.module), self.model)
        parent, _, name = self.at.rpartition(".")
        holder = self.module.get_submodule(parent)
        setattr(holder, name, Placed(rows, self.module.get_submodule(self.at)))
        return _model(self.module, self.model)


def site(model: Model, at: str) -> Site:
    """Find the layer, and how an example can be read from what reaches it."""
    module = copy.deepcopy(model.module).eval()
    _load(module, model)
    names = [name for name, _ in module.named_modules() if name]
    if at and at not in names:
        close = difflib.get_close_matches(at, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InvalidInput(
            f"at={at!r} is no layer of {type(module).__name__}: {hint}it has "
            f"{', '.join(names[:12])}{' and more' if len(names) > 12 else ''}. "
            "Leave at='' to place the rows before the whole model."
        )
    probe = _probe(model)
    reached = _reached(module, at, probe)
    reader = _reader(module, at, probe, reached, model)
    return Site(module, at, tuple(reached.shape[1:]), reader, model, probe)


def disarmed(model: Model, rng: torch.Generator) -> Model:
    """The crafted model with rows as PyTorch would draw them: it looks, and trains, like any other.

    A patient server broadcasts this one first, and the crafted parameters in the round it wants.
    """
    state = dict(model.state)
    for name, part in model.module.named_modules():
        if isinstance(part, Rows):
            bound = part.linear.in_features**-0.5
            for leaf in ("weight", "bias"):
                old = state[f"{name}.linear.{leaf}"]
                drawn = torch.rand(old.shape, generator=rng, dtype=torch.float64)
                state[f"{name}.linear.{leaf}"] = ((2 * drawn - 1) * bound).to(old)
    return model.replaced(state)


def _reader(module: nn.Module, at: str, probe: Tensor, reached: Tensor, model: Model) -> Reader:
    shape = model.form.shape
    if isinstance(model.form, Tokens):
        return Reader(judge_of(model.form, _table(module, at, model, reached)), shape)
    judge = judge_of(model.form, None)
    if reached[0].numel() == probe[0].numel() and torch.equal(reached.flatten(1), probe.flatten(1)):
        return Reader(judge, shape)
    return Reader(judge, shape, carrier(module, at, probe))


def _table(module: nn.Module, at: str, model: Model, reached: Tensor) -> Tensor:
    """Every word's embedding at every position, by feeding sentences of one word."""
    form = model.form
    assert isinstance(form, Tokens)
    if not reached.is_floating_point() or reached.shape[:2] != (2, form.length):
        raise InvalidInput(
            f"at={at!r}: rows for text need the embedded words, (n, {form.length}, width) numbers; "
            f"this layer gets {tuple(reached.shape)} {reached.dtype}. "
            "Name the layer behind the embedding."
        )
    if form.vocab * reached[0].numel() > _LARGEST_TABLE:
        raise InvalidInput(
            f"{form.vocab} words at {form.length} positions of width {reached.shape[2]} are too "
            "many to tabulate. Use a shorter sentence or a smaller vocabulary."
        )
    ids = torch.arange(form.vocab, device=model.device)[:, None].expand(-1, form.length)
    parts = [_input_of(module, at, part).double().cpu() for part in _parts(ids)]
    return torch.cat(parts)


def _parts(x: Tensor) -> Iterator[Tensor]:
    return (x[start : start + _AT_ONCE] for start in range(0, len(x), _AT_ONCE))


def _probe(model: Model) -> Tensor:
    """Two made-up inputs of the form: enough to follow them through the network."""
    form, like = model.form, next(iter(model.params.values()))
    rng = torch.Generator().manual_seed(0)
    if isinstance(form, Tokens):
        return torch.randint(form.vocab, (2, form.length), generator=rng).to(model.device)
    return torch.rand((2, *form.shape), generator=rng, dtype=torch.float64).to(like)


def _reached(module: nn.Module, at: str, probe: Tensor) -> Tensor:
    try:
        return _input_of(module, at, probe)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InvalidInput(
            f"{type(module).__name__} cannot take an input of its form, {tuple(probe.shape[1:])} "
            f"({str(error).splitlines()[0]}). Pass Model.of the form that the network was made for."
        ) from None


def _input_of(module: nn.Module, at: str, x: Tensor) -> Tensor:
    """What reaches a layer when the network sees x."""
    if not at:
        with torch.no_grad():
            module(x[:1])
        return x
    caught: list[Tensor] = []
    target = module.get_submodule(at)
    handle = target.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
    try:
        with torch.no_grad():
            module(x)
    finally:
        handle.remove()
    if len(caught) != 1 or not isinstance(caught[0], Tensor):
        raise InvalidInput(
            f"at={at!r} is called {len(caught)} times in one pass, and rows need a layer that is "
            "called once. Name another layer, or leave at=''."
        )
    return caught[0]


def _load(module: nn.Module, model: Model) -> None:
    """The parameters that the model has now, which need not be those it was made with."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, tensor in model.state.items():
            own[name].copy_(tensor)


def _model(module: nn.Module, like: Model) -> Model:
    crafted = Model.of(module, like.loss, like.form)
    tree.check_finite(crafted.params, "the crafted model")
    return crafted
