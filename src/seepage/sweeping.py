"""Keyed work done once: what a store holds is not done again, and nothing that is done is lost."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from seepage.store import Row, Store

__all__ = ["Progress", "Step", "failed", "resumed"]


class Job(Protocol):
    """A piece of work that says what it is."""

    @property
    def title(self) -> str: ...


Work = TypeVar("Work", bound=Job)


@dataclass(frozen=True)
class Step:
    """How far a sweep is: what is done, the row just made, and what is being done now."""

    done: int
    total: int
    row: Row | None
    doing: Job | None


Progress = Callable[[Step], None]


def resumed(
    named: Mapping[str, Work],
    store: Store,
    finished: Callable[[Sequence[tuple[str, Work]]], Generator[Row, None, None]],
    progress: Progress | None,
) -> dict[str, Row]:
    """The rows of these keys: those that are done already, and the rest as `finished` gives them.

    `finished` puts each row on the disk before it gives it; one that failed is done again by the
    next run.
    """
    rows = store.rows()
    todo = {key: work for key, work in named.items() if not _done(rows.get(key))}

    def tell(row: Row | None) -> None:
        if progress:
            doing = next(iter(todo.values()), None)
            progress(Step(len(named) - len(todo), len(named), row, doing))

    tell(None)
    try:
        with closing(finished(list(todo.items()))) as coming:
            for row in coming:
                rows[row["key"]] = row
                del todo[row["key"]]
                tell(row)
    except KeyboardInterrupt as stop:
        stop.add_note(_kept(store))
        raise
    return {key: rows[key] for key in named}


def failed(about: Row, error: Exception) -> Row:
    """The row of work that ended in an error."""
    said = f"{type(error).__name__}: {error}"
    return about | {"status": "failed", "error": " ".join(said.split())[:1000]}


def _done(row: Row | None) -> bool:
    return row is not None and row["status"] == "done"


def _kept(store: Store) -> str:
    if store.temporary:
        return "Nothing was kept: name a store, and a stopped run can be resumed."
    return f"What is done is kept in {store.folder}: run the same again to resume."
