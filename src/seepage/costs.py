"""The price of defenses on one task: the accuracy reached under each, a row for each client."""

import functools
import hashlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import seepage
from seepage.analysis.utility import Plan, Splits, utility
from seepage.core import Client, Model
from seepage.errors import Failed
from seepage.executors import Executor, Serial
from seepage.prints import Prints, of_batch, of_model
from seepage.store import Row, Store, plain
from seepage.sweeping import Progress, failed, resumed
from seepage.values import describe

__all__ = ["Cost", "priced"]


@dataclass(frozen=True, eq=False)
class Cost:
    """One client on one task: everything that its accuracy depends on."""

    client: Client
    make: Callable[[int], Model]
    data: Splits
    plan: Plan

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"training under {describe(self.client)}"


def priced(
    costs: Sequence[Cost],
    store: Store | str | Path | None = None,
    executor: Executor = Serial(),  # noqa: B008 (a frozen value)
    progress: Progress | None = None,
) -> list[Row]:
    """The accuracies of each cost that the store does not hold yet, in the order of the costs."""
    store, prints = Store.of(store), Prints()
    keys = [_key(cost, prints) for cost in costs]
    named = dict(zip(keys, costs, strict=True))
    rows = resumed(named, store, functools.partial(_finished, store, executor), progress)
    return [rows[key] for key in keys]


def _finished(
    store: Store, executor: Executor, todo: Sequence[tuple[str, Cost]]
) -> Generator[Row, None, None]:
    if not todo:
        return
    with store.writing() as append:
        for index, made in executor(_measured, todo):
            key, cost = todo[index]
            row = failed(_about(cost, key), made) if isinstance(made, Failed) else made
            append(row)
            yield row


def _measured(item: tuple[str, Cost]) -> Row:
    key, cost = item
    about, start = _about(cost, key), time.process_time()
    try:
        found = utility(cost.client, cost.make, cost.data, cost.plan)
    except Exception as error:  # noqa: BLE001 (one client's own work: the rest goes on)
        return failed(about, error)
    about |= {"accuracy": plain(found.accuracy), "lr": found.lr, "edge": found.edge}
    return about | {"seconds": time.process_time() - start}


def _about(cost: Cost, key: str) -> Row:
    return {
        "key": key,
        "status": "done",
        "client": describe(cost.client),
        "plan": describe(cost.plan),
        "error": None,
        "version": seepage.__version__,
    }


def _key(cost: Cost, prints: Prints) -> str:
    data = (cost.data.train, cost.data.val, cost.data.test)
    parts = (
        seepage.__version__,
        describe(cost.client),
        describe(cost.make),
        prints.of(cost.make, lambda make: of_model(make(0))),
        [prints.of(part, of_batch) for part in data],
        describe(cost.plan),
    )
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
