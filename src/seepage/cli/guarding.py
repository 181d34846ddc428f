"""`seepage guard`: a look at what a server sent, and at what one's own update would give away."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.table import Table as Grid
from rich.text import Text

from seepage import auditing, guard
from seepage.cli import loading, screen
from seepage.core import Batch, Model
from seepage.errors import Failed, InvalidInput, SeepageError
from seepage.guard import Finding, Report
from seepage.store import plain

FOUND = 1
_LAYERS, _ROWS = 12, 8

REMEDIES = {
    "rank": "Ask the server what this layer is for, and compare it with the last round's or with "
    "another client's. Do not train on it until that is explained.",
    "duplicates": "Ask the server why these rows are alike, and compare them with the last "
    "round's. Do not train on them until that is explained.",
    "reach": "Ask the server where these biases come from, and compare them with the last "
    "round's; training from a usual start gives none as large.",
    "copies": "Ask the server why this layer passes its inputs on unchanged. Do not train on it "
    "until that is explained.",
    "isolated": "Do not share this update as it is: use more examples, a sum over several clients, "
    "or clipped updates with noise (`seepage dp` computes how much).",
    "rare": "Do not share this update as it is: use more examples or a sum over several clients, "
    "and ask the server how these biases were chosen.",
}
CHECKS = {
    "scan": "The scan of the parameters",
    "self-audit": "The audit of your own batches",
}

TITLES = {
    "scan": "Measured of the parameters",
    "self-audit": "Measured of your own updates, the largest over the batches",
}


@dataclass(frozen=True)
class Asked:
    """What to check, as the command line writes it."""

    params: Path | None
    model: str
    data: str | None
    batches: int


@dataclass(frozen=True)
class Seen:
    """A finding, in how many of the batches it was made, and how bad it is."""

    finding: Finding
    where: str
    severity: str

    def about(self) -> dict[str, Any]:
        """For programs."""
        found = self.finding
        return {
            "check": found.check,
            "layer": found.layer,
            "rows": list(found.rows),
            "figure": found.figure,
            "limit": found.limit,
            "why": found.why,
            "where": self.where,
            "severity": self.severity,
            "remedy": REMEDIES.get(found.check, ""),
        }

    def lines(self) -> Iterator[str]:
        """For a person."""
        found = self.finding
        rows = ", ".join(map(str, found.rows[:_ROWS])) + (
            ", ..." if len(found.rows) > _ROWS else ""
        )
        shown = f", {len(found.rows)} rows: {rows}" if found.rows else ""
        yield f"{self.severity.upper()}: {found.check} in {found.layer or 'the model'}{shown}"
        figures = f"{found.figure:.4g}, where the limit is {found.limit:.4g}"
        yield f"  Evidence: {figures} ({self.where})."
        yield f"  Why: {found.why}"
        yield f"  What to do: {REMEDIES.get(found.check, 'Ask the server what this is for.')}"


@dataclass(frozen=True)
class Outcome:
    """What the checks found, by check, with the client's own examples given away, by batch."""

    reports: dict[str, tuple[Report, ...]]

    @property
    def findings(self) -> list[Seen]:
        """The worst first; a finding made in several batches counts once."""
        worst: dict[tuple[str, str], tuple[Finding, int, str]] = {}
        for check, reports in self.reports.items():
            for finding in (f for report in reports for f in report.findings):
                key = (finding.check, _module(finding.layer))
                before, times, _ = worst.get(key, (finding, 0, ""))
                larger = max(before, finding, key=lambda f: f.figure)
                worst[key] = (larger, times + 1, check)
        checks = [layer for _, layer in worst]
        made = []
        for (name, layer), (finding, times, check) in worst.items():
            place = f"{times} of {len(self.reports[check])} batches"
            where = "received parameters" if check == "scan" else place
            # Two signs in one layer, or an example given away by this very update.
            high = name == "isolated" or checks.count(layer) > 1
            made.append(Seen(finding, where, "high" if high else "medium"))
        return sorted(made, key=lambda seen: seen.severity != "high")

    @property
    def isolated(self) -> list[list[int]]:
        """For each batch, the examples that could be read off its update."""
        return [list(report.isolated) for report in self.reports.get("self-audit", ())]

    def about(self) -> dict[str, Any]:
        """For programs."""
        figures = {
            check: [{layer: dict(f) for layer, f in r.figures.items()} for r in reports]
            for check, reports in self.reports.items()
        }
        about = {
            "findings": [seen.about() for seen in self.findings],
            "isolated": self.isolated,
            "figures": figures,
            "cannot_see": {check: list(r[0].blind) for check, r in self.reports.items()},
        }
        made: dict[str, Any] = plain(about)
        return made


def run(asked: Asked, threads: int, as_json: bool) -> None:
    """Check, print what was found and what cannot be seen, and leave with 1 if there is any."""
    torch.set_num_threads(threads)
    model, batches = _given(asked)
    outcome = _checked(model, batches)
    if as_json:
        typer.echo(json.dumps(outcome.about(), indent=2, allow_nan=False))
    else:
        _show(outcome)
    if outcome.findings:
        raise typer.Exit(FOUND)


def _given(asked: Asked) -> tuple[Model, list[Batch]]:
    if asked.data is None:
        model, batches = loading.whole_model(asked.model), []
    else:
        made = loading.model(asked.model)
        plan = auditing.Plan(batches=asked.batches)
        batches = auditing.batches_of(loading.called(asked.data), plan)[: asked.batches]
        model = auditing.model_of(made, batches[0])
        for batch in batches:
            auditing.check(model.form, batch)
    return (model if asked.params is None else _received(model, asked.params)), batches


def _received(model: Model, path: Path) -> Model:
    try:
        return loading.broadcast(model, path)
    except InvalidInput as error:
        names = "unexpected:" in str(error) or "missing:" in str(error)
        more = " If the server sent this for your network, it changed the network." if names else ""
        raise InvalidInput(f"{error}{more}") from None


def _checked(model: Model, batches: Sequence[Batch]) -> Outcome:
    try:
        with screen.waiting("looking at the parameters"):
            reports: dict[str, tuple[Report, ...]] = {"scan": (guard.scan(model),)}
        audits = []
        with screen.counted("looking at your own batches") as progress:
            for batch in batches:
                audits.append(guard.self_audit(model, batch))
                progress(len(audits), len(batches))
    except SeepageError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise Failed(
            f"{type(model.module).__name__} could not be checked ({said}). Check that its loss "
            "takes the network's output and these labels."
        ) from None
    return Outcome(reports | ({"self-audit": tuple(audits)} if audits else {}))


def _show(outcome: Outcome) -> None:
    found = outcome.findings
    lines = [_headline(found), ""]
    for seen in found:
        lines += [*seen.lines(), ""]
    screen.lines(lines)
    named = {_module(seen.finding.layer) for seen in found}
    for check, reports in outcome.reports.items():
        screen.out().print(_grid(check, reports, named))
    screen.lines([*_examples(outcome), *_limits(outcome)])


def _headline(found: Sequence[Seen]) -> str:
    if not found:
        return (
            "No finding: no figure is above its limit. The figures, and what these checks cannot "
            "see, are below."
        )
    layers = {_module(seen.finding.layer) for seen in found}
    count = "1 finding" if len(found) == 1 else f"{len(found)} findings"
    return f"{count} in {len(layers)} layer{'s' if len(layers) > 1 else ''}."


def _grid(check: str, reports: Sequence[Report], named: set[str]) -> Grid:
    """The largest figure of every layer over the batches, layers with findings first."""
    figures: dict[str, dict[str, float]] = {}
    for layer, measured in ((n, m) for report in reports for n, m in report.figures.items()):
        kept = figures.setdefault(layer, {})
        for name, figure in measured.items():
            kept[name] = max(figure, kept.get(name, figure))
    order = sorted(figures, key=lambda layer: _module(layer) not in named)
    hidden = len(order) - _LAYERS
    more = f" ({hidden} layers not shown)" if hidden > 0 else ""
    names = list(dict.fromkeys(name for measured in figures.values() for name in measured))
    grid = Grid("layer", *names, title=TITLES[check] + more)
    for layer in order[:_LAYERS]:
        cells = (f"{figures[layer][n]:.3g}" if n in figures[layer] else "" for n in names)
        grid.add_row(Text(layer), *cells)
    return grid


def _examples(outcome: Outcome) -> Iterator[str]:
    for place, given in enumerate(outcome.isolated):
        if given:
            shown = ", ".join(str(i) for i in given[:20]) + (", ..." if len(given) > 20 else "")
            yield f"Batch {place + 1}: {len(given)} of your examples stand alone in it: {shown}."


def _limits(outcome: Outcome) -> Iterator[str]:
    for check, reports in outcome.reports.items():
        yield ""
        yield f"{CHECKS[check]} cannot see:"
        yield from (f"- {line}" for line in reports[0].blind)
    if "self-audit" not in outcome.reports:
        yield ""
        yield "Your own batches were not checked: add --data app.py:loader."


def _module(layer: str) -> str:
    """The layer of a tensor's name."""
    return layer.removesuffix(".weight").removesuffix(".in_proj_weight")
