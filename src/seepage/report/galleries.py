"""Originals beside reconstructions: the worst trials of each client and attack, from artefacts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from seepage import files
from seepage.errors import SeepageError
from seepage.forms import Form, Images, form_from
from seepage.report import pictures, words
from seepage.report.pictures import Cell, Picture
from seepage.report.results import KNOWN_RIGHT, Result, grouped

CARDS, CASES = 24, 3
FULL, PAIRS, FEWER = 4, 8, 4
"""The first cards show more examples than the rest."""


@dataclass(frozen=True)
class Example:
    """One private example beside what the attacker made of it."""

    number: int
    original: Picture | None
    answer: Picture | None
    cells: tuple[Cell, ...]
    score: str
    recovered: bool
    certificate: str


@dataclass(frozen=True)
class Case:
    """The worst trial of one setup, with its examples or the reason why there are none."""

    result: Result
    trials: int
    examples: tuple[Example, ...]
    missing: str

    @property
    def hidden(self) -> int:
        """How many examples of this trial are not shown."""
        return self.result.n - len(self.examples)


@dataclass(frozen=True)
class View:
    """Where artefacts lie, and how large and how many examples are shown."""

    folder: Path
    side: int
    pairs: int


@dataclass(frozen=True)
class Card:
    """One client under one attack: a case for each thing that the attacker took it for."""

    client: str
    attack: str
    cases: tuple[Case, ...]

    @property
    def worst(self) -> Result:
        return self.cases[0].result


def highlights(shown: Sequence[Card]) -> list[Example]:
    """A few recovered images of the worst trial, those with most to see."""
    examples = shown[0].cases[0].examples if shown else ()
    hits = [e for e in examples if e.recovered and e.answer and e.original]
    return sorted(hits, key=lambda e: -len(e.original.source if e.original else ""))[:3]


def cards(found: Sequence[Result], folder: Path) -> tuple[list[Card], int]:
    """The cards of the worst clients and attacks, and how many others there are."""
    groups = grouped(found, lambda result: (result.client, result.attack))
    chosen = []
    for group in groups[:CARDS]:
        setups = grouped(group.results, lambda r: (r.believed, r.tell, r.n, r.name))
        chosen.append([(setup.worst, len(setup)) for setup in setups[:CASES]])
    results = [result for card in chosen for result, _ in card]
    side = pictures.side_for(sum(2 * min(result.n, PAIRS) for result in results))
    made = []
    for i, card in enumerate(chosen):
        view = View(folder, side, PAIRS if i < FULL else FEWER)
        first = card[0][0]
        made.append(Card(first.client, first.attack, tuple(_case(r, k, view) for r, k in card)))
    return made, len(groups) - len(made)


def _case(result: Result, trials: int, view: View) -> Case:
    try:
        form = form_from(result.row.get("form"), f"the row {result.key}")
        truth, answer = _artefact(result, view.folder, form)
    except (SeepageError, OSError, ValueError) as error:
        return Case(result, trials, (), f"The examples cannot be shown: {error}")
    shown = result.row.get("shown")
    places = shown if isinstance(shown, list) else list(range(len(answer)))
    order = sorted(range(min(len(truth), result.n)), key=lambda i: _rank(result, i))
    examples = []
    for i in order[: view.pairs]:
        place = places[i] if i < len(places) else None
        inside = isinstance(place, int) and 0 <= place < len(answer)
        given = answer[place] if inside else None
        examples.append(_example(result, form, i, (truth[i], given), view.side))
    return Case(result, trials, tuple(examples), "")


def _artefact(result: Result, folder: Path, form: Form) -> tuple[Tensor, Tensor]:
    named = result.row.get("artefact")
    if not isinstance(named, str) or not named:
        raise ValueError("the row names no artefact.")
    path = (folder / named).resolve()
    # A row is data: it must not make the report read files outside its store.
    if not path.is_relative_to(folder.resolve()):
        raise ValueError("the row names an artefact outside its store.")
    tensors, _ = files.read(path)
    if "truth/x" not in tensors:
        raise ValueError("the artefact holds no originals.")
    truth = tensors["truth/x"]
    answer = tensors.get("answer/x", truth[:0])
    if not pictures.fits(form, truth) or not pictures.fits(form, answer):
        raise ValueError("the artefact does not have the shape that the row says.")
    return truth, answer


def _rank(result: Result, i: int) -> tuple[bool, float]:
    """Recovered examples first, the best score first."""
    value = result.values[i] if i < len(result.values) else math.nan
    return not _at(result.recovered, i), math.inf if math.isnan(value) else -value


def _example(
    result: Result, form: Form, i: int, pair: tuple[Tensor, Tensor | None], side: int
) -> Example:
    truth, answer = pair
    image = isinstance(form, Images)
    value = result.values[i] if i < len(result.values) else math.nan
    residual = result.residual[i] if i < len(result.residual) else math.nan
    recovered = _at(result.recovered, i)
    return Example(
        number=i + 1,
        original=pictures.picture(form, truth, side) if isinstance(form, Images) else None,
        answer=pictures.picture(form, answer, side)
        if isinstance(form, Images) and answer is not None
        else None,
        cells=() if image else pictures.cells(form, truth, answer),
        score=words.score(result.metric, value) if answer is not None else "no answer",
        recovered=recovered,
        certificate=_certificate(result, recovered, residual) if answer is not None else "",
    )


def _certificate(result: Result, recovered: bool, residual: float) -> str:
    """What the attacker can tell about an answer without the original."""
    if math.isnan(residual):
        return "the attacker cannot check it"
    about = f"residual {words.small(residual)}"
    if residual > KNOWN_RIGHT:
        return f"{about}: the attacker cannot be sure"
    if not recovered:
        return f"{about}: explains the update, yet is wrong"
    if result.misled:
        return f"{about}: a wrong answer explains the update too"
    return f"{about}: the attacker knows it is right"


def _at(flags: tuple[bool, ...], i: int) -> bool:
    return i < len(flags) and flags[i]
