"""Originals beside reconstructions: the worst trials of each client and attack, from artefacts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seepage.errors import SeepageError
from seepage.forms import Form, Images, form_from
from seepage.report import artefacts, pictures, traces, words
from seepage.report.artefacts import Pair
from seepage.report.pictures import Cell, Picture
from seepage.report.results import Result, grouped, variant
from seepage.report.traces import NOTHING, Trace

CARDS, CASES = 24, 3
FULL, PAIRS, FEWER = 4, 8, 4
"""The first cards show more examples than the rest."""
STRIPS = 8
"""Trials whose course is shown in pictures."""
STORED, CELLS = 64, 48
"""An artefact holds no more examples than this, and no more columns or words are shown."""


@dataclass(frozen=True)
class Example:
    """One private example beside what the attacker made of it."""

    number: int
    original: Picture | None
    answer: Picture | None
    cells: tuple[Cell, ...]
    hidden: int
    """How many cells are not shown."""
    score: str
    recovered: bool
    certificate: str
    source: str
    """Where the attack read it from, such as a bin."""


@dataclass(frozen=True)
class Case:
    """The worst trial of one setup, with its examples or the reason why there are none."""

    result: Result
    trials: int
    examples: tuple[Example, ...]
    missing: str
    trace: Trace = NOTHING

    @property
    def hidden(self) -> int:
        """How many examples of this trial are not shown."""
        return self.result.n - len(self.examples)


@dataclass(frozen=True)
class View:
    """Where artefacts lie, how many examples are shown, how large, and whose course."""

    folder: Path
    side: int
    pairs: int
    traced: frozenset[str]


@dataclass(frozen=True)
class Card:
    """One client under one attack: a case for each thing that the attacker took it for."""

    client: str
    attack: str
    cases: tuple[Case, ...]

    @property
    def worst(self) -> Result:
        return self.clearest.result

    @property
    def clearest(self) -> Case:
        """The case that recovers most."""
        return max(self.cases, key=lambda case: case.result.strength)


def highlights(shown: Sequence[Card]) -> list[Example]:
    """A few recovered images of the worst trial, those with most to see."""
    examples = shown[0].clearest.examples if shown else ()
    hits = [e for e in examples if e.recovered and e.answer and e.original]
    return sorted(hits, key=lambda e: -len(e.original.source if e.original else ""))[:3]


def cards(found: Sequence[Result], folder: Path) -> tuple[list[Card], int]:
    """The cards of the worst clients and attacks, and how many others there are."""
    groups = grouped(found, lambda result: (result.client, result.attack))
    chosen = []
    for group in groups[:CARDS]:
        setups = grouped(group.results, variant)
        chosen.append([(setup.worst, len(setup)) for setup in setups[:CASES]])
    results = [result for card in chosen for result, _ in card]
    traced = [result for result in results if traces.pictured(result)][:STRIPS]
    extra = sum(map(traces.pictured, traced))
    side = pictures.side_for(extra + sum(2 * min(result.n, PAIRS) for result in results))
    keys = frozenset(result.key for result in traced)
    made = []
    for i, card in enumerate(chosen):
        view = View(folder, side, PAIRS if i < FULL else FEWER, keys)
        first = card[0][0]
        # Who knows the client stands on the left, whoever recovers more.
        card.sort(key=lambda case: not case[0].adaptive)
        made.append(Card(first.client, first.attack, tuple(_case(r, k, view) for r, k in card)))
    return made, len(groups) - len(made)


def _case(result: Result, trials: int, view: View) -> Case:
    try:
        form = form_from(result.row.get("form"), f"the row {result.key}")
        path = artefacts.place(view.folder, result.row.get("artefact"))
        wanted = _wanted(result, view.pairs)
        found = artefacts.pairs(path, form, wanted)
    except SeepageError as error:
        return Case(result, trials, (), f"The examples cannot be shown: {error}")
    first = wanted[0][0] if wanted else 0
    noted = traces.trace(result, form, path, first, view.side, pictured=result.key in view.traced)
    examples = tuple(_example(result, form, pair, view.side, noted) for pair in found)
    return Case(result, trials, examples, "", noted)


def _wanted(result: Result, most: int) -> list[tuple[int, int | None]]:
    """The examples to show, recovered and best first, each with the place of its candidate."""
    shown = result.row.get("shown")
    places = shown if isinstance(shown, list) else list(range(STORED))
    order = sorted(range(min(result.n, STORED)), key=lambda i: _rank(result, i))[:most]
    known = [places[i] if i < len(places) else None for i in order]
    return [(i, at if type(at) is int else None) for i, at in zip(order, known, strict=True)]


def _rank(result: Result, i: int) -> tuple[bool, float]:
    """Recovered examples first, the best score first."""
    value = result.values[i] if i < len(result.values) else math.nan
    return not _at(result.recovered, i), math.inf if math.isnan(value) else -value


def _example(result: Result, form: Form, pair: Pair, side: int, noted: Trace) -> Example:
    i, truth, answer = pair.number, pair.truth, pair.answer
    cells = pictures.cells(form, truth, answer)
    value = result.values[i] if i < len(result.values) else math.nan
    residual = result.residual[i] if i < len(result.residual) else math.nan
    recovered = _at(result.recovered, i)
    return Example(
        number=i + 1,
        original=pictures.picture(form, truth, side) if isinstance(form, Images) else None,
        answer=pictures.picture(form, answer, side)
        if isinstance(form, Images) and answer is not None
        else None,
        cells=cells[:CELLS],
        hidden=max(0, len(cells) - CELLS),
        score=words.score(result.metric, value) if answer is not None else "no answer",
        recovered=recovered,
        certificate=_certificate(result, i, residual) if answer is not None else "",
        source=noted.source(i) if answer is not None else "",
    )


def _certificate(result: Result, i: int, residual: float) -> str:
    """What the attacker can tell about an answer without the original."""
    if math.isnan(residual):
        return "the attacker cannot check it"
    about = f"residual {words.small(residual)}"
    if not _at(result.sure, i):
        return f"{about}: the attacker cannot be sure"
    if not _at(result.recovered, i):
        return f"{about}: explains the update, yet is wrong"
    if result.misled:
        return f"{about}: a wrong answer explains the update too"
    return f"{about}: the attacker holds a certificate"


def _at(flags: tuple[bool, ...], i: int) -> bool:
    return i < len(flags) and flags[i]
