"""`seepage audit`, `seepage sweep` and `seepage report`."""

from dataclasses import dataclass
from pathlib import Path

import typer

from seepage import auditing, trials
from seepage.checks import at_least
from seepage.cli import loading, screen
from seepage.clients import FedSGD
from seepage.errors import Failed, InvalidInput
from seepage.executors import Executor, Processes, Serial
from seepage.report import Report
from seepage.store import Store

_LEAKS = 1


@dataclass(frozen=True)
class Asked:
    """What to audit, as the command line writes it."""

    model: str
    data: str
    public: str | None
    clients: list[str]
    attacks: list[str]
    tell: list[str]
    seeds: list[int]
    batches: int


@dataclass(frozen=True)
class Ending:
    """What becomes of the report."""

    out: Path | None
    json: bool
    fail_above: str | None

    def show(self, report: Report, store: Path) -> None:
        """Write it, print it, and leave with the exit code that was asked for."""
        limit = _limit(self.fail_above)
        page = report.save(self.out or store / "report.html")
        typer.echo(report.to_json() if self.json else str(report))
        screen.note(f"Report: {page}")
        _complain(report)
        if limit is not None and report.recovered > limit:
            screen.note(f"recovered={report.recovered:.3g} is above {limit:g}.")
            raise typer.Exit(_LEAKS)


def run(asked: Asked, store: Path, power: tuple[int, int, str | None], ending: Ending) -> None:
    """Audit, with a bar; what the store holds already is not done again."""
    _limit(ending.fail_above)  # a slip is told before the work, not after
    model, data = loading.model(asked.model), loading.called(asked.data)
    clients = [loading.client(text) for text in asked.clients] or [FedSGD()]
    attacks = [loading.attack(text) for text in asked.attacks]
    with screen.trials() as progress:
        plan = auditing.Plan(
            seeds=tuple(asked.seeds),
            tell=loading.told(asked.tell),
            batches=asked.batches,
            public=loading.examples(asked.public) if asked.public else None,
            store=store,
            executor=executor(*power),
            progress=progress,
        )
        report = auditing.audit(model, data, None, clients, attacks, plan)
    ending.show(report, store)


def sweep(text: str, store: Path, power: tuple[int, int, str | None], ending: Ending) -> None:
    """Do the trials of a file, under a table that grows; what is done is not done again."""
    _limit(ending.fail_above)
    planned = loading.trials(text)
    kept = Store(store)
    with screen.trials() as progress:
        rows = trials.sweep(planned, kept, executor(*power), progress)
    ending.show(Report([*rows], store), store)


def again(store: Path, ending: Ending) -> None:
    """The report of a store as it is now."""
    rows = Store(store).rows()
    if not rows:
        raise InvalidInput(
            f"{store} holds no rows. Give the folder that an audit wrote (--store), or run one."
        )
    ending.show(Report([*rows.values()], store), store)


def executor(workers: int, threads: int, where: str | None = None) -> Executor:
    """One process does its work here, several do it side by side, a cluster on its machines."""
    if where is None:
        return Serial(threads) if workers == 1 else Processes(workers, threads)
    if where == "ray" or where.startswith("ray://"):
        from seepage.integrations.ray import Ray

        return Ray(None if where == "ray" else where, workers, threads=threads)
    raise InvalidInput(
        f"--executor {where!r} is not known: use ray (a cluster of this machine alone), or the "
        "address of a cluster as ray://HOST:10001."
    )


def _limit(text: str | None) -> float | None:
    if text is None:
        return None
    name, _, number = text.partition("=")
    try:
        limit = float(number)
        at_least("recovered", limit, 0)
    except ValueError:
        name = ""
    if name != "recovered":
        raise InvalidInput(f"--fail-above {text!r} cannot be read. Write it as recovered=0.1.")
    return limit


def _complain(report: Report) -> None:
    """An audit in which no trial finished has measured nothing, and must not pass."""
    errors = [str(row["error"]) for row in report.rows if row["status"] == "failed"]
    if errors and len(errors) == len(report.rows):
        raise Failed(f"no trial finished. The first error: {errors[0]}")
    if errors:
        screen.note(
            f"{len(errors)} of {len(report.rows)} trials failed; the same command tries again."
        )
