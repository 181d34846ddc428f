"""`seepage tradeoff`: leakage against utility, for defenses of rising strength."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from rich.table import Table as Grid
from rich.text import Text

from seepage import auditing, tradeoffs
from seepage.analysis.tradeoff import Reading
from seepage.analysis.utility import Plan, Splits
from seepage.attacks import Adaptive
from seepage.cli import charts, loading, screen
from seepage.cli.auditing import executor
from seepage.core import Batch, Model, stream
from seepage.errors import InvalidInput
from seepage.report import words as names
from seepage.store import plain
from seepage.tradeoffs import Families, Outcome, Task, Trade
from seepage.tradeoffs import words as said
from seepage.tradeoffs.measure import ATTACKERS
from seepage.values import value

QUICK = Plan(rounds=100, seeds=(0, 1, 2), grid=(0.1, 0.3, 1.0, 3.0))


@dataclass(frozen=True)
class Asked:
    """What to compare, as the command line writes it."""

    task: str
    model: str | None
    data: str | None
    public: str | None
    clients: list[str]
    attacks: list[str]
    examples: int
    quick: bool


@value
class Built:
    """A user's network at a seeded start: the seed is set before their function is called."""

    text: str

    def __call__(self, seed: int) -> Model:
        before = torch.random.get_rng_state()
        torch.random.set_rng_state(stream(seed, "start").get_state())
        try:
            return loading.whole_model(self.text)
        finally:
            torch.random.set_rng_state(before)


@dataclass(frozen=True)
class Dealt:
    """Examples of the user's test data to attack: other ones for each seed."""

    test: Batch

    def __call__(self, n: int, seed: int) -> Batch:
        order = torch.randperm(len(self.test), generator=stream(seed, "attacked"))
        return self.test[order[:n]]


def run(asked: Asked, store: Path, power: tuple[int, int], as_json: bool) -> None:
    """Measure what the store does not hold yet; print, draw, and write."""
    task, families = _task(asked), _families(asked)
    trade = _trade(task, families, asked)
    with screen.trials() as progress:
        outcome = tradeoffs.measured(trade, store, executor(*power), progress)
    about = plain(said.about(outcome))
    text = json.dumps(about, indent=2, allow_nan=False, ensure_ascii=False)
    (store / "tradeoff.json").write_text(text + "\n", encoding="utf-8")
    charts.tradeoff(outcome, store / "tradeoff.png")
    if as_json:
        typer.echo(text)
    else:
        _show(outcome, trade)
    screen.note(f"Wrote {store / 'tradeoff.png'} and {store / 'tradeoff.json'}.")
    screen.note(f"The leaks as a report: seepage report {store / 'leakage'}")


def _trade(task: Task, families: Families, asked: Asked) -> Trade:
    if asked.quick:
        return Trade(task, families, QUICK, batches=2, n=asked.examples)
    return Trade(task, families, n=asked.examples)


def _families(asked: Asked) -> Families:
    if not asked.clients:
        return tradeoffs.standard(asked.quick)
    return tradeoffs.grouped([loading.client(text) for text in asked.clients])


def _task(asked: Asked) -> Task:
    attacks = [loading.attack(text) for text in asked.attacks]
    if (asked.model is None) != (asked.data is None):
        raise InvalidInput("--model and --data belong together. Give both, or a --task.")
    if asked.model is None or asked.data is None:
        found = tradeoffs.named(asked.task)
        made, data, private = found.make, found.data, found.private
        public, attacks = found.public, attacks or list(found.attacks)
    else:
        made, data = Built(asked.model), _splits(asked.data)
        private, attacks = Dealt(data.test), attacks or [Adaptive()]
        public = loading.examples(asked.public) if asked.public else data.train.x[:400]
        auditing.check(made(0).form, data.train)
    _enough(asked.examples, data)
    return Task(asked.model or asked.task, made, data, private, public, attacks)


def _splits(text: str) -> Splits:
    (batch,) = auditing.batches_of(loading.called(text), auditing.Plan())
    if batch.y is None or batch.y.is_floating_point():
        raise InvalidInput(f"{text} must give examples with class labels, as (x, y).")
    if len(batch) < 50:
        raise InvalidInput(
            f"{text} gives {len(batch)} examples, which is too few to learn from and to judge on. "
            "Give all of them as one batch, at least 50."
        )
    return Splits.of(batch)


def _enough(examples: int, data: Splits) -> None:
    if examples > len(data.test):
        raise InvalidInput(
            f"--examples {examples} are more than the {len(data.test)} that may be attacked."
        )


def _show(outcome: Outcome, trade: Trade) -> None:
    screen.out().print(_strengths(outcome))
    screen.out().print(_equal(outcome))
    screen.lines(_sentences(outcome))
    screen.lines(
        [
            f"Leaks are of batches of {trade.n}, costs of training on batches of "
            f"{trade.plan.batch}: noise that is divided by the batch size, as that of DPSGD, is "
            "smaller in larger ones (see --examples)."
        ]
    )


def _strengths(outcome: Outcome) -> Grid:
    heads = ("defense", "points of accuracy lost", "adaptive leak", "naive leak", "by attack")
    mean = sum(outcome.none.accuracy) / len(outcome.none.accuracy)
    title = f"{outcome.task}: accuracy {mean:.3f} without a defense; * on the Pareto front"
    grid = Grid(*heads, title=title)
    fronts = {a: {p.name for p in said.front(outcome, a)} for a in ATTACKERS}
    for strengths in ([outcome.none], *outcome.families.values()):
        for one in strengths:
            point = outcome.point(one, "adaptive")
            leaks = [
                f"{names.score(outcome.metric, outcome.point(one, a).leak)}"
                f"{' *' if one.client in fronts[a] else ''}"
                for a in ATTACKERS
            ]
            low, high = point.spread
            lost = f"{point.loss:.1f} [{low:.1f}, {high:.1f}]{' (edge)' if one.edge else ''}"
            cells = (names.label(one.client), lost, *leaks, names.label(one.attacks["adaptive"]))
            grid.add_row(*map(Text, cells), end_section=one is strengths[-1])
    return grid


def _equal(outcome: Outcome) -> Grid:
    heads = [f"{_points(cost)} lost" for cost in said.COSTS]
    title = "Leak at equal cost; * lowest of its column for this attacker, or a tie with it"
    grid = Grid("defense", "attacker", *heads, title=title)
    curves = {attacker: outcome.points(attacker) for attacker in ATTACKERS}
    found = {attacker: said.readings(outcome, attacker) for attacker in ATTACKERS}
    best = {(a, cost): said.lowest(found[a], cost) for a in ATTACKERS for cost in said.COSTS}
    for a, family in itertools.product(ATTACKERS, found[ATTACKERS[0]]):
        cells = [
            _cell(
                *(outcome.metric, found[a][family][cost], family in best[a, cost]),
                *(max(point.loss for point in curves[a][family]), cost),
            )
            for cost in said.COSTS
        ]
        grid.add_row(*map(Text, (family, a, *cells)))
    return grid


def _cell(metric: str, reading: Reading, best: bool, dearest: float, cost: float) -> str:
    if not reading.known:
        return "not measured"
    low, high = (names.score(metric, end) for end in (reading.low, reading.high))
    less = f" (dearest: {dearest:.1f})" if dearest < cost else ""
    return f"{names.score(metric, reading.leak)} [{low}, {high}]{' *' if best else ''}{less}"


def _points(cost: float) -> str:
    return f"{cost:g} point{'' if cost == 1 else 's'}"


def _sentences(outcome: Outcome) -> Iterator[str]:
    for one in said.claims(outcome):
        yield (
            f'"{said.CLAIM}", {one.attacker} attacker, {_points(one.cost)} of accuracy lost: '
            f"{one.verdict} ({one.why})"
        )
    yield from (f"Failed, and left out: {text}" for text in outcome.failed)
    yield (
        "Costs are paired over seeds, leaks those of the strongest attack here or the best guess. "
        "Other attacks may find more, and other tasks may cost more."
    )
