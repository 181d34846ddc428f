"""Every strength of every defense: what it costs a task, and what the strongest attack finds."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seepage.analysis.tradeoff import Point
from seepage.analysis.utility import Plan
from seepage.clients import FedSGD
from seepage.core import Client, Told
from seepage.costs import Cost, priced
from seepage.errors import Failed
from seepage.executors import Executor, Serial
from seepage.store import Row
from seepage.sweeping import Progress
from seepage.tradeoffs.families import Families
from seepage.tradeoffs.tasks import Task
from seepage.trials import Trial, sweep
from seepage.values import describe

__all__ = ["Attacker", "Outcome", "Strength", "Trade", "measured"]

Attacker = Literal["adaptive", "naive"]
ATTACKERS: tuple[Attacker, ...] = ("adaptive", "naive")
_NONE = FedSGD()


@dataclass(frozen=True, eq=False)
class Trade:
    """What is compared, and how thoroughly.

    Each client is priced by `plan`; `batches` batches of `n` private examples are shared, each
    with a network of its own, and attacked by who knows the client and who takes it for FedSGD.
    """

    task: Task
    families: Families
    plan: Plan = Plan()  # noqa: RUF009 (a frozen value)
    batches: int = 3
    n: int = 1
    tell: tuple[Told, ...] = ("n", "y")

    @property
    def clients(self) -> list[Client]:
        """Every client once, the undefended one first."""
        listed = itertools.chain([_NONE], *self.families.values())
        return list({describe(client): client for client in listed}.values())


@dataclass(frozen=True)
class Strength:
    """One client as it came out: its accuracies, and the leak to each attacker by which attack."""

    client: str
    accuracy: tuple[float, ...]
    edge: bool
    leaks: dict[str, tuple[float, ...]]
    attacks: dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """All strengths, the undefended client, and the rows that failed."""

    task: str
    metric: str
    none: Strength
    families: dict[str, list[Strength]]
    failed: list[str]

    def points(self, attacker: Attacker) -> dict[str, list[Point]]:
        """Each family as a curve that begins at the undefended client."""
        return {
            name: [self.point(one, attacker) for one in (self.none, *strengths)]
            for name, strengths in self.families.items()
        }

    def point(self, one: Strength, attacker: Attacker) -> Point:
        """One strength: its cost in points of accuracy, paired with the undefended runs."""
        pairs = zip(self.none.accuracy, one.accuracy, strict=True)
        losses = tuple(100 * (before - after) for before, after in pairs)
        return Point(one.client, losses, one.leaks[attacker])


def measured(
    trade: Trade,
    folder: str | Path,
    executor: Executor = Serial(),  # noqa: B008 (a frozen value)
    progress: Progress | None = None,
) -> Outcome:
    """Do what the folder does not hold yet: in `leakage` an audit's store, in `cost` the prices."""
    clients, task = trade.clients, trade.task
    rows = sweep(_trials(trade), Path(folder) / "leakage", executor, progress)
    _attackable(rows)
    costs = [Cost(client, task.make, task.data, trade.plan) for client in clients]
    prices = priced(costs, Path(folder) / "cost", executor, progress)
    return _outcome(trade, rows, {row["client"]: row for row in prices})


def _trials(trade: Trade) -> list[Trial]:
    task, made = trade.task, []
    for seed in range(trade.batches):
        model, batch = task.make(seed), task.private(trade.n, seed)
        for client, attack in itertools.product(trade.clients, task.attacks):
            about = (trade.tell, seed, task.public)
            believed = [client] if client == _NONE else [client, _NONE]
            made += [Trial(model, batch, client, attack, other, *about) for other in believed]
    return made


def _attackable(rows: Sequence[Row]) -> None:
    """Training takes minutes: not before it is known that the attacks run at all."""
    bare = [row for row in rows if row["client"] == describe(_NONE)]
    if bare and all(row["status"] != "done" for row in bare):
        raise Failed(f"no attack ran on the undefended client. {bare[0]['error']}")


def _outcome(trade: Trade, rows: Sequence[Row], prices: dict[str, Row]) -> Outcome:
    failed = [f"{row['client']}: {row['error']}" for row in rows if row["status"] != "done"]
    failed += [f"{c}: {row['error']}" for c, row in prices.items() if row["status"] != "done"]
    done = [row for row in rows if row["status"] == "done"]
    found = {
        name: made
        for name in map(describe, trade.clients)
        if (made := _strength(name, [row for row in done if row["client"] == name], prices[name]))
    }
    none = found.get(describe(_NONE))
    if none is None:
        raise Failed(f"the undefended client was not measured. {'; '.join(failed[:2])}")
    families = {
        family: [found[describe(client)] for client in clients if describe(client) in found]
        for family, clients in trade.families.items()
    }
    metric = next(iter(done[0]["scores"]))
    return Outcome(trade.task.name, metric, none, families, failed)


def _strength(client: str, rows: Sequence[Row], price: Row) -> Strength | None:
    if price["status"] != "done":
        return None
    leaks, attacks = dict[str, tuple[float, ...]](), dict[str, str]()
    for attacker in ATTACKERS:
        own = [row for row in rows if _is(row, attacker)]
        if not own:
            return None
        attacks[attacker], leaks[attacker] = _strongest(own)
    return Strength(client, tuple(price["accuracy"]), price["edge"], leaks, attacks)


def _is(row: Row, attacker: Attacker) -> bool:
    """Who knows the defense may also attack as if there was none."""
    return attacker == "adaptive" or bool(row["believed"] == describe(_NONE))


def _strongest(rows: Sequence[Row]) -> tuple[str, tuple[float, ...]]:
    """The attack of the highest mean score, and its score on each batch, or the best guess's."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        tried = found.setdefault((row["attack"], row["believed"]), {})
        tried[row["seed"]] = max(_mean(row), _guess(row))
    best = max(found, key=lambda way: sum(found[way].values()) / len(found[way]))
    return best[0], tuple(value for _, value in sorted(found[best].items()))


def _mean(row: Row) -> float:
    values = next(iter(row["scores"].values()))
    return math.nan if None in values else sum(values) / len(values)


def _guess(row: Row) -> float:
    guesses: list[Any] = [next(iter(about.values())) for about in row["baselines"].values()]
    return max((sum(values) / len(values) for values in guesses), default=-math.inf)
