"""Seepage in Flower (1.41 or newer): mods for its ClientApp, and a strategy that keeps updates.

    app = ClientApp(mods=[guard_mod(model), audit_mod(model, data, [BiasRatio()], limit=0.0)])

A mod is `(message, context, call_next) -> message`. Flower applies the first of the list
outermost: put `audit_mod` before `defend_mod`, so that it attacks what really leaves.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp.strategy import Strategy
from torch import nn

from seepage import files, tree
from seepage.clients import FedSGD, Given
from seepage.core import Attack, Batch, Client, Model, Observation, check_update
from seepage.errors import Failed, InvalidInput
from seepage.forms import Column, Table
from seepage.guard import Report, Screened
from seepage.guard.guarded import Check
from seepage.integrations.flower_records import (
    arrays_of,
    recorded,
    refusal,
    replaced,
    state_of,
    told,
    trains,
    withheld,
)
from seepage.tree import Tensors
from seepage.trials import Trial, run
from seepage.values import describe

__all__ = ["CapturingStrategy", "audit_mod", "defend_mod", "guard_mod"]

Next = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Next], Message]
Data = Callable[[Context], Batch]


def guard_mod(
    model: Model, checks: Sequence[Check] = (Screened(),), data: Data | None = None
) -> Mod:
    """Look at every incoming model first; where a check finds a reason, share nothing.

    The server gets an error with the findings. A state with other names, shapes, types or sizes
    than the model's, or with NaN, is refused before it is decoded or loaded. `data` gives checks
    such as `SelfAudit` the batch that they need.
    """

    def mod(message: Message, context: Context, call_next: Next) -> Message:
        if not trains(message):
            return call_next(message, context)
        try:
            _, record = arrays_of(message.content, "the broadcast")
            broadcast = model.with_params(state_of(record, model.state, "the broadcast"))
        except InvalidInput as error:
            return refusal(message, f"refused by the guard: {error}")
        batch = _nothing(broadcast) if data is None else data(context)
        report = sum((check(broadcast, batch) for check in checks), Report((), {}, ()))
        if report.findings:
            said = "\n".join(f"- {finding}" for finding in report.findings)
            return refusal(message, f"refused by the guard:\n{said}")
        return call_next(message, context)

    return mod


def audit_mod(
    model: Model,
    data: Data,
    attacks: Sequence[Attack],
    client: Client = FedSGD(),  # noqa: B008 (a frozen value)
    limit: float | None = None,
    tell: tuple[Any, ...] = ("n",),
) -> Mod:
    """Attack the own update before it leaves, as a server could that believes in `client`.

    `data` gives the examples that this round trained on. The reply's metrics gain
    `seepage.recovered`, the largest share of them that an attack recovered (NaN where none could
    finish), and `seepage.failed`, how many attacks could not. Above `limit`, or where a limit is
    set and nothing was measured, an error goes out in place of the update.
    """
    crafting = [describe(attack) for attack in attacks if hasattr(attack, "craft")]
    if not attacks or crafting:
        raise InvalidInput(
            f"audit_mod(attacks=...): {crafting or 'none given'}. Pass attacks on a broadcast as "
            "it came, such as BiasRatio(); those that craft the broadcast are for guard_mod."
        )

    def mod(message: Message, context: Context, call_next: Next) -> Message:
        reply = call_next(message, context)
        if not trains(message) or reply.has_error():
            return reply
        try:
            broadcast, update = _exchanged(model, message, reply)
        except InvalidInput as error:
            return refusal(message, f"withheld by the audit: {error}")
        batch = data(context)
        rows = [
            run(Trial(broadcast, batch, _Leaving(update), attack, client, tell), "own round")
            for attack in attacks
        ]
        shares = [sum(r["recovered"]) / len(r["recovered"]) for r in rows if r["status"] == "done"]
        worst = max(shares, default=float("nan"))
        if limit is not None and not worst <= limit:
            errors = "; ".join(str(row["error"]) for row in rows if row["error"])
            return refusal(message, withheld(worst, limit, errors))
        recorded(reply, worst, len(rows) - len(shares))
        return reply

    return mod


def defend_mod(wrapper: Callable[[Client], Client], seed: Callable[[], int] | None = None) -> Mod:
    """Put a defense on the outgoing update: `defend_mod(lambda inner: Prune(inner, ratio=0.9))`.

    Any defense that works on the update alone will do. What it does not share stays as broadcast.
    Noise comes from the system's own entropy unless `seed` gives a number for each round.
    """
    draw = seed or (lambda: secrets.randbits(62))

    def mod(message: Message, context: Context, call_next: Next) -> Message:
        reply = call_next(message, context)
        if not trains(message) or reply.has_error():
            return reply
        try:
            name, sent = arrays_of(reply.content, "the reply")
            before, update = _shared(message, sent)
            defended = wrapper(Given(update))
            rng = torch.Generator().manual_seed(draw())
            made = defended(_opaque(before), Batch(torch.zeros(1, 1)), rng)
            check_update(made, _opaque(before), "the defended update")
        except InvalidInput as error:
            return refusal(message, f"withheld by the defense: {error}")
        after = {n: (before[n] - made[n].to(before[n])) if n in made else before[n] for n in update}
        reply.content[name] = replaced(sent, after)
        return reply

    return mod


class CapturingStrategy(Strategy):
    """Any strategy, with each client's update kept as a file for `seepage attack`.

    `folder/round-1/node-17.safetensors` is the `Observation` of what this server holds. A reply
    that is an error, or no state of this model (other names or shapes, NaN), is written to
    `folder/findings.jsonl` with its reason, its arrays beside it, and is left out of the average:
    the federation goes on, or with `stop` ends in `Failed` after everything was written.
    """

    def __init__(
        self,
        inner: Strategy,
        folder: str | Path,
        model: Model,
        client: Client = FedSGD(),  # noqa: B008 (a frozen value)
        stop: bool = False,
        examples: str | None = "num-examples",
    ) -> None:
        self.inner, self.folder, self.model = inner, Path(folder), model
        self.client, self.stop, self.examples = client, stop, examples
        self._sent: dict[int, ArrayRecord] = {}

    def summary(self) -> None:
        self.inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        messages = list(self.inner.configure_train(server_round, arrays, config, grid))
        self._sent = {
            m.metadata.dst_node_id: arrays_of(m.content, "the broadcast")[1] for m in messages
        }
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        kept = [reply for reply in replies if self._kept(server_round, reply)]
        if self.stop and len(kept) < len(replies):
            raise Failed(
                f"round {server_round}: {len(replies) - len(kept)} of {len(replies)} replies "
                f"cannot be used. The reasons are in {self._findings}; what came is kept."
            )
        averaged: tuple[ArrayRecord | None, MetricRecord | None]
        averaged = self.inner.aggregate_train(server_round, kept)
        return averaged

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        return list(self.inner.configure_evaluate(server_round, arrays, config, grid))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        return self.inner.aggregate_evaluate(server_round, replies)

    @property
    def _findings(self) -> Path:
        return self.folder / "findings.jsonl"

    def _kept(self, server_round: int, reply: Message) -> bool:
        """Whether the reply is an update of this model; in either case, it is on the disk."""
        node = reply.metadata.src_node_id
        place = self.folder / f"round-{server_round}" / f"node-{node}.safetensors"
        try:
            if reply.has_error():
                raise InvalidInput(f"the client answered with an error: {reply.error.reason}")
            self._observed(reply, self._sent[node]).save(place)
        except InvalidInput as error:
            about = {"round": server_round, "node": node, "why": str(error)}
            self._reported(about, reply, place.with_suffix(".raw"))
            return False
        return True

    def _observed(self, reply: Message, sent: ArrayRecord) -> Observation:
        known = self.model.state
        before = state_of(sent, known, "the broadcast")
        after = state_of(arrays_of(reply.content, "the reply")[1], known, "the reply")
        broadcast = self.model.with_params(before)
        update = _moved(broadcast, tree.subtract(_floats(before), _floats(after)))
        check_update(update, broadcast, "the reply")
        return Observation(broadcast, self.client, update, told(reply, self.examples))

    def _reported(self, about: dict[str, object], reply: Message, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        if reply.has_content():
            for name, record in reply.content.array_records.items():
                for index, (key, array) in enumerate(record.items()):
                    raw = torch.frombuffer(bytearray(array.data or b"\0"), dtype=torch.uint8)
                    entry = place / f"{index}.safetensors"
                    named = {"record": name, "key": key, "shape": list(array.shape)}
                    files.write(entry, {"bytes": raw}, {"array": named})
        with self._findings.open("a", encoding="utf-8") as file:
            file.write(json.dumps(about) + "\n")


class _Leaving:
    """A client that shares this update; unlike `Given` it takes no fingerprint of it."""

    def __init__(self, update: Tensors) -> None:
        self.update = update

    def __call__(self, model: Model, batch: Batch, rng: torch.Generator) -> Tensors:
        return self.update

    def __repr__(self) -> str:
        return "the outgoing update"


def _exchanged(model: Model, message: Message, reply: Message) -> tuple[Model, Tensors]:
    """The model that came in and the update that is about to leave."""
    _, came = arrays_of(message.content, "the broadcast")
    _, goes = arrays_of(reply.content, "the reply")
    before = state_of(came, model.state, "the broadcast")
    after = state_of(goes, model.state, "the reply")
    broadcast = model.with_params(before)
    return broadcast, _moved(broadcast, tree.subtract(_floats(before), _floats(after)))


def _shared(message: Message, sent: ArrayRecord) -> tuple[Tensors, Tensors]:
    """The broadcast floats and what the client changed of them, whatever the network."""
    _, came = arrays_of(message.content, "the broadcast")
    like = {name: torch.empty(tuple(a.shape), device="meta") for name, a in came.items()}
    kinds = {name: "float" in array.dtype for name, array in came.items()}
    floats = {name: t for name, t in like.items() if kinds[name]}
    before = state_of(ArrayRecord({n: came[n] for n in floats}), floats, "the broadcast")
    after = state_of(ArrayRecord({n: a for n, a in sent.items() if kinds.get(n, True)}),
                     floats, "the reply")  # fmt: skip
    return before, tree.subtract(before, after)


def _floats(state: Tensors) -> dict[str, Any]:
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def _moved(model: Model, update: Tensors) -> dict[str, Any]:
    """Without frozen parameters and statistics that did not change."""
    return {n: u for n, u in update.items() if n in model.params or bool(u.any())}


def _opaque(state: Tensors) -> Model:
    """A model of which only the tensors are known, for defenses that look at nothing else."""
    return Model(nn.Identity(), state, {}, nn.functional.mse_loss, Table((Column("?"),), 1))


def _nothing(model: Model) -> Batch:
    like = next(iter(model.params.values()))
    return Batch(like.new_zeros((1, *model.form.shape)), torch.zeros(1, dtype=torch.long))
