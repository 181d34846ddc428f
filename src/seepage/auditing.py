"""The audit: every client under every attack, on your model and your data, as one report."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seepage import progress
from seepage.checks import at_least
from seepage.clients import FedSGD, Given
from seepage.core import Attack, Batch, Client, Loss, Model, Told, noiseless, stream
from seepage.errors import InvalidInput
from seepage.executors import Executor, Serial
from seepage.forms import Column, Form, Images, Table, Tokens
from seepage.report import Report
from seepage.store import Store
from seepage.trials import Progress, Trial, sweep
from seepage.values import value

__all__ = ["Plan", "audit"]

Data = Batch | Tensor | tuple[Tensor, Tensor] | Iterable[Any]
_REMEDY = "Pass seepage.Model.of(module, loss, form) with the form of your data."


@value
class Plan:
    """How an audit goes: what the attacker is told, how often, where, and what is kept.

    Each of the first `batches` batches is shared and attacked once for each of the `seeds`.
    `public` are examples that anyone could have: scores stand beside what they already give away.
    With a `store`, a stopped audit goes on where it was when the same audit is run again.
    Without `progress`, a bar shows on a terminal.
    """

    seeds: tuple[int, ...] = (0,)
    tell: tuple[Told, ...] = ("n",)
    batches: int = 1
    public: Tensor | None = None
    store: str | Path | None = None
    executor: Executor = Serial()
    progress: Progress | None = None

    def __post_init__(self) -> None:
        at_least("Plan.batches", self.batches, 1)
        if not self.seeds:
            raise InvalidInput("Plan.seeds is empty. Pass at least one, as in seeds=(0,).")


def audit(
    model: nn.Module | Model,
    data: Data,
    loss: Loss | None = None,
    clients: Sequence[Client] = (FedSGD(),),
    attacks: Sequence[Attack] = (),
    plan: Plan = Plan(),  # noqa: B008 (a frozen value)
) -> Report:
    """Measure what these attacks recover from what these clients share of your data.

    For a bare module the form of the data is inferred, and the loss is cross-entropy unless given;
    without attacks, the default ones of the form are tried. Each attack is tried by a server that
    knows the client (adaptive), and by one that takes it for plain FedSGD (naive).
    """
    batches = batches_of(data, plan)
    known = model_of(model, batches[0], loss)
    for batch in batches:
        check(known.form, batch)
    trials = planned(known, batches, clients, attacks or defaults(known), plan)
    store = Store.of(plan.store)
    with progress.trials() if plan.progress is None else nullcontext(plan.progress) as tell:
        rows = sweep(trials, store, plan.executor, tell)
    return Report([*rows], store.folder)


def planned(
    model: Model,
    batches: Sequence[Batch],
    clients: Sequence[Client],
    attacks: Sequence[Attack],
    plan: Plan,
) -> list[Trial]:
    """The trials of an audit, in the order in which they are done."""
    return [
        Trial(model, batch, client, attack, believed, plan.tell, seed, plan.public)
        for seed, batch in itertools.product(plan.seeds, batches)
        for client, attack in itertools.product(clients, attacks)
        for believed in beliefs(client)
    ]


def beliefs(client: Client) -> list[Client]:
    """What servers may take a client for: itself, and plain FedSGD where that is something else.

    >>> beliefs(FedSGD()), len(beliefs(FedSGD("train")))
    ([FedSGD()], 1)
    """
    if isinstance(client, Given):
        return [FedSGD()]
    plain = isinstance(noiseless(client), FedSGD)
    return [client] if plain else [client, FedSGD()]


def batches_of(data: Data, plan: Plan) -> list[Batch]:
    """The first batches of the data, whatever they come as; a loader shuffles by our own seed."""
    found = [data] if _single(data) else _drawn(data, plan)
    if len(found) < plan.batches:
        raise InvalidInput(
            f"the plan asks for {plan.batches} batches, and the data hold {len(found)}. "
            "Ask for fewer, or pass a DataLoader with smaller batches."
        )
    batches = [_single(one) for one in found]
    for one, batch in zip(found, batches, strict=True):
        if batch is None:
            raise InvalidInput(
                f"the data give a {type(one).__name__} for a batch. Give tensors (x, y), with a "
                "collate_fn where needed."
            )
    return [batch for batch in batches if batch is not None]


def _drawn(data: Any, plan: Plan) -> list[Any]:
    if not isinstance(data, Iterable):
        raise InvalidInput(
            f"data is a {type(data).__name__}. Pass a Batch, (x, y), or a DataLoader of batches."
        )
    with _seeded(plan.seeds[0]):
        return list(itertools.islice(data, plan.batches))


def model_of(model: nn.Module | Model, batch: Batch, loss: Loss | None = None) -> Model:
    """The model itself, or a snapshot of a bare module with the form that the batch shows."""
    if isinstance(model, Model):
        return dataclasses.replace(model, loss=loss) if loss else model
    if not isinstance(model, nn.Module):
        raise InvalidInput(
            f"the model is a {type(model).__name__}. Pass a torch.nn.Module or a seepage.Model."
        )
    # The form is not known before the module has answered once.
    snapshot = Model.of(model, loss or nn.functional.cross_entropy, Table((Column("x"),), 1))
    output = _answer(snapshot, batch.x[:1])
    return dataclasses.replace(snapshot, form=_form(snapshot.module, batch.x, output))


def _form(module: nn.Module, x: Tensor, output: Tensor) -> Form:
    shape, classes = tuple(x.shape[1:]), int(output.shape[-1]) if output.ndim > 1 else 1
    if x.ndim == 4 and x.is_floating_point():
        low, high = float(x.min()), float(x.max())
        if low >= 0 and high <= 1:
            return Images(shape, classes)  # type: ignore[arg-type]
        raise InvalidInput(
            f"the images lie in [{low:.3g}, {high:.3g}], not in [0, 1], and what range or "
            f"normalisation is theirs cannot be known. {_REMEDY} Such as Images({shape}, "
            f"{classes}, mean=(...), std=(...))."
        )
    if x.ndim == 2 and x.is_floating_point():
        return Table(tuple(Column(f"column {i + 1}") for i in range(shape[0])), classes)
    if x.ndim == 2 and x.dtype in (torch.int64, torch.int32):
        return _tokens(module, shape[0], output)
    raise InvalidInput(
        f"x has shape {tuple(x.shape)} and type {x.dtype}, which is none of images (n, channels, "
        f"height, width) of floats, rows (n, columns) of floats, or tokens (n, length) of integers."
        f" {_REMEDY}"
    )


def _tokens(module: nn.Module, length: int, output: Tensor) -> Tokens:
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    if not tables:
        raise InvalidInput(f"the network embeds no tokens, so no vocabulary shows. {_REMEDY}")
    classes = int(output.shape[-1]) if output.ndim == 2 else 0
    vocab = max(table.num_embeddings for table in tables)
    return Tokens(length, vocab, pad=tables[0].padding_idx or 0, classes=classes)


def _answer(model: Model, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            output = model.predict(x)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InvalidInput(
            f"{type(model.module).__name__} cannot take x of shape {tuple(x.shape)} and type "
            f"{x.dtype} ({str(error).splitlines()[0][:200]}). Pass data as the network takes them."
        ) from None
    if not isinstance(output, Tensor):
        raise InvalidInput(
            f"{type(model.module).__name__} returns a {type(output).__name__}, not one tensor. "
            "Wrap it in a module whose forward returns what the loss takes."
        )
    return output


def check(form: Form, batch: Batch) -> None:
    """Demand examples and labels as the form of the model says."""
    if tuple(batch.x.shape[1:]) != form.shape:
        raise InvalidInput(
            f"x has shape {tuple(batch.x.shape)}, and the form {type(form).__name__} of the model "
            f"says (n, {', '.join(map(str, form.shape))}). Pass data of that shape, or the "
            "model with the form of your data."
        )
    y = batch.y
    if y is None or y.is_floating_point() or y.ndim != 1 or form.classes < 2:
        return
    if int(y.min()) < 0 or int(y.max()) >= form.classes:
        raise InvalidInput(
            f"the labels lie in {int(y.min())} to {int(y.max())}, and the model tells "
            f"{form.classes} classes apart. Number the classes from 0."
        )


def _single(data: object) -> Batch | None:
    """The one batch that this is, if it is one."""
    if isinstance(data, Batch):
        return data
    if isinstance(data, Tensor):
        return Batch(data)
    if isinstance(data, tuple | list) and data and isinstance(data[0], Batch | Tensor):
        # A sample of the zoo is a batch with its form.
        if isinstance(data[0], Batch):
            return data[0] if len(data) == 2 and not isinstance(data[1], Batch) else None
        if len(data) == 2 and isinstance(data[1], Tensor) and len(data[0]) == len(data[1]):
            return Batch(*data)
        return Batch(data[0]) if len(data) == 1 else None
    return None


def defaults(model: Model) -> Sequence[Attack]:
    """What is tried where nothing is asked for: what can work on this network at all."""
    if isinstance(model.form, Tokens):
        raise InvalidInput("no attack is tried on Tokens by default. Pass attacks=[...].")
    from seepage.attacks import BiasRatio, Invert

    entries = math.prod(model.form.shape)
    linear = [part for part in model.module.modules() if isinstance(part, nn.Linear)]
    dense = any(part.in_features == entries and part.bias is not None for part in linear)
    return [BiasRatio(), Invert()] if dense else [Invert()]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let loaders shuffle alike each time, and leave the global generator as it was."""
    before = torch.random.get_rng_state()
    torch.random.set_rng_state(stream(seed, "batches").get_state())
    try:
        yield
    finally:
        torch.random.set_rng_state(before)
