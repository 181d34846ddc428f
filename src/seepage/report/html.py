"""The report as one page that needs nothing beside it."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seepage
from seepage.report import limits, verdict, words
from seepage.report.exposure import exposure
from seepage.report.galleries import Card, cards, highlights
from seepage.report.plots import curves
from seepage.report.results import Failure, Group, Result, grouped, setup
from seepage.report.templating import environment

CLIENTS, SETUPS, EXPLAINED, FAILED = 60, 150, 24, 50


@dataclass(frozen=True)
class Cut:
    """The first items of a list, and how many were left out."""

    items: Sequence[Any]
    hidden: int


def page(found: Sequence[Result], failed: Sequence[Failure], folder: Path) -> str:
    """The whole page as text."""
    clients = grouped(found, lambda result: result.client)
    setups = _cut(grouped(found, setup), SETUPS)
    shown, hidden = cards(found, folder)
    drawn, undrawn = curves(found)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            version=seepage.__version__,
            script_hash=_script_hash(),
            headline=verdict.headline(found),
            level=verdict.level(clients[0].worst) if clients else None,
            paragraphs=verdict.paragraphs(found, failed),
            untried=verdict.untried(found) if found else [],
            limit=verdict.LIMIT,
            levels=verdict.LEVELS,
            found=found,
            clients=_cut(clients, CLIENTS),
            sides=_cut(limits.bounded(clients), CLIENTS),
            pairs=_cut(_known_and_naive(clients), CLIENTS),
            setups=setups,
            threat=_threat(found, clients),
            cards=Cut(shown, hidden),
            highlights=highlights(shown),
            curves=Cut(drawn, undrawn),
            exposure=exposure(folder),
            failed=_cut(failed, FAILED),
            places=_places(setups.items, shown, failed[:FAILED]),
        )
    )


@dataclass(frozen=True)
class Threat:
    """Who attacks, with what, in words."""

    networks: tuple[str, ...]
    told: tuple[str, ...]
    malicious: tuple[str, ...]
    honest: bool
    noun: str
    criterion: str
    clients: Cut
    attacks: Cut
    guesses: tuple[str, ...]


def _threat(found: Sequence[Result], clients: Sequence[Group]) -> Threat:
    kinds = {result.kind for result in found}
    attacks = list(dict.fromkeys(result.attack for result in found))
    named = {f"{r.name} ({words.count(r.parameters, 'shared parameter')})" for r in found}
    return Threat(
        networks=tuple(sorted(named))[:6],
        told=tuple(sorted({words.told(result.tell) for result in found})),
        malicious=tuple(sorted({r.attack for r in found if r.malicious}))[:6],
        honest=any(not result.malicious for result in found),
        noun=words.noun(next(iter(kinds))) if len(kinds) == 1 else "example",
        criterion=" ".join(
            words.CRITERIA[kind] for kind in sorted(kinds) if kind in words.CRITERIA
        ),
        clients=_cut([(g.worst.client, words.client(g.worst.client)) for g in clients], EXPLAINED),
        attacks=_cut([(text, words.attack(text)) for text in attacks], EXPLAINED),
        guesses=tuple(dict.fromkeys(b.name for result in found for b in result.baselines))[:8],
    )


def _known_and_naive(clients: Sequence[Group]) -> list[tuple[str, Result, Result]]:
    """For each client attacked in both ways: the worst who knows it, the worst who does not."""
    pairs = []
    for group in clients:
        knowing = tuple(result for result in group.results if result.adaptive)
        naive = tuple(result for result in group.results if not result.adaptive)
        if knowing and naive:
            pairs.append((group.worst.client, Group(knowing).worst, Group(naive).worst))
    return pairs


@dataclass(frozen=True)
class Places:
    """Numbers for the names that the filter offers: only numbers reach the script."""

    clients: dict[str, int]
    attacks: dict[str, int]


def _places(setups: Sequence[Group], shown: Sequence[Card], failed: Sequence[Failure]) -> Places:
    worst = [group.worst for group in setups]
    named = [(x.client, x.attack) for x in worst]
    named += [(card.client, card.attack) for card in shown]
    named += [(failure.client, failure.attack) for failure in failed]
    clients = dict.fromkeys(client for client, _ in named)
    attacks = dict.fromkeys(attack for _, attack in named)
    return Places(
        {name: i for i, name in enumerate(clients)}, {name: i for i, name in enumerate(attacks)}
    )


def _cut(items: Sequence[Any], most: int) -> Cut:
    return Cut(items[:most], max(0, len(items) - most))


def _script_hash() -> str:
    """The only script that the page allows, whatever else finds its way into it."""
    source = environment().get_template("filter.js").render()
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
