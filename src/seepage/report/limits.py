"""Both sides of a result: what was found, beside what no attacker can exceed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seepage.report import words
from seepage.report.given import items, number
from seepage.report.results import Group, Result

LABELS = {
    "certified": "proven",
    "estimated": "proven but for sampled estimates",
    "indicative": "not proven: a condition fails or is unchecked",
}
OPEN = "no ceiling"
_CERTAIN = 0.995


@dataclass(frozen=True)
class Limit:
    """A ceiling of one row, every field of a known type."""

    of: str
    found: float
    limit: float
    unit: str
    label: str
    assumptions: tuple[str, ...]

    @property
    def open(self) -> bool:
        """Whether nothing is proven."""
        return self.label not in LABELS or math.isnan(self.limit)


Held = Sequence[tuple[Result, Limit]]


@dataclass(frozen=True)
class Sides:
    """One client in one unit: what is certain, what was found, and the ceiling."""

    client: str
    of: str
    proven: str
    found: str
    ceiling: str
    label: str
    assumed: tuple[str, ...]
    remark: str = ""

    @property
    def open(self) -> bool:
        """Whether nothing is proven, or not any more."""
        return self.ceiling == OPEN

    @property
    def withdrawn(self) -> bool:
        """Whether an attack has passed it."""
        return self.open and bool(self.remark)

    @property
    def grounds(self) -> str:
        """Why the ceiling holds, or why there is none."""
        assumed = "; ".join(self.assumed)
        parts = [assumed] if self.open else [self.label, assumed and f"assumed: {assumed}"]
        return "; ".join(filter(None, [*parts, self.remark]))


def limits(result: Result) -> list[Limit]:
    """The ceilings of a row; rows of earlier versions have none."""
    return [_limit(one) for one in items(result.row.get("ceilings")) if isinstance(one, Mapping)]


def noisy(group: Group) -> bool:
    """Whether a client adds noise."""
    return any(map(limits, group.results))


def bounded(groups: Sequence[Group]) -> list[Sides]:
    """The lines of all clients, where any of them adds noise."""
    return [line for group in groups for line in sides(group)] if any(map(noisy, groups)) else []


def brief(group: Group) -> str:
    """The ceilings of a client in one cell."""
    if not any("ceilings" in result.row for result in group.results):
        return "unknown"
    known = [line.ceiling for line in sides(group) if line.of != "naming" and not line.open]
    return ", ".join(known) or "none"


def paragraph(group: Group) -> str:
    """Both sides of one client in words, or that it has one side only."""
    lines, client = sides(group), words.expression(group.worst.client)
    known = [line for line in lines if not line.open]
    remarks = {one: f" {one.remark[0].upper()}{one.remark[1:]}." for one in lines if one.remark}
    broken = "".join(said for line, said in remarks.items() if line.withdrawn)
    if not known:
        why = broken or f" {lines[0].grounds}."
        return f"Nothing limits what an attacker may recover from {client}:{why}"
    said = [_SENTENCES[line.of].format(line=line) for line in known]
    assumed = dict.fromkeys(text for line in known for text in line.assumed)
    beside = "".join(remarks.get(line, "") for line in known)
    return (
        f"What no attacker can exceed from {client}, known today or not: {'; '.join(said)}. "
        f"Assumed: {'; '.join(assumed)}.{broken}{beside}"
    )


_SENTENCES = {
    "records": "at most {line.ceiling} recovered on average ({line.label}; found {line.found}, "
    "certified {line.proven})",
    "pixels": "a mean error no better than {line.ceiling} ({line.label}; found {line.found})",
    "naming": "the right one of 100 candidates named with a chance of at most {line.ceiling} "
    "({line.label}; not tried)",
}


def sides(group: Group) -> list[Sides]:
    """Every line of one client; without a ceiling on records, each of n may be recovered."""
    held = [(r, one) for r in group.results for one in limits(r)]
    known = [(r, one) for r, one in held if not one.open and not _vacuous(r, one)]
    of = {name: [pair for pair in known if pair[1].of == name] for name in _LINES}
    lines = [line(of[name]) for name, line in _LINES.items() if of[name]]
    if of["records"]:
        return lines
    none = ("the noise is too weak for any limit",) if held else ("no noise is added",)
    reasons = next((one.assumptions for _, one in held if one.open), none)
    single = ("no limit for single examples, only the next line",)
    return [_all(group, single if lines else reasons), *lines]


def _vacuous(result: Result, limit: Limit) -> bool:
    """Whether a limit is what would be so without it: all examples, or certainty."""
    most = {"records": float(result.n), "naming": 1.0}.get(limit.of, math.inf)
    return limit.limit > _CERTAIN * most


def _all(group: Group, why: tuple[str, ...]) -> Sides:
    certain, worst = max(result.certain for result in group.results), group.worst
    n = f"of {worst.n}"
    found = f"{worst.hits} {n}"
    return Sides(worst.client, "records", f"{certain} {n}", found, OPEN, "", why)


def _records(held: Held) -> Sides:
    result, limit = max(held, key=lambda pair: (pair[0].hits, -pair[1].limit))
    trials, of = _alike(held, result), f"of {result.n}"
    proven, found = f"{max(r.certain for r, _ in held)} {of}", f"{result.hits} {of}"
    ceiling = f"{limit.limit:.2g} {of}"
    hits, count = sum(r.hits for r in trials), sum(r.n for r in trials)
    line = Sides(result.client, "records", proven, found, ceiling, *_basis(limit))
    return _withdrawn(line) if _least(hits, count) > limit.limit / result.n else line


def _pixels(held: Held) -> Sides:
    result, limit = max(held, key=lambda pair: pair[1].found)
    trials = _alike(held, result)
    values = [value for r in trials for value in r.values if not math.isnan(value)]
    found, above = f"{limit.found:.1f} dB", limit.found > limit.limit
    line = Sides(
        *(result.client, "pixels", "", found, f"{limit.limit:.1f} dB"),
        *_basis(limit),
        "these few examples lie above it, which a limit of the mean allows" if above else "",
    )
    return _withdrawn(line) if _lowest(values) > limit.limit else line


def _naming(held: Held) -> Sides:
    result, limit = held[0]
    return Sides(result.client, "naming", "", "not tried", f"{limit.limit:.2g}", *_basis(limit))


_LINES = {"records": _records, "pixels": _pixels, "naming": _naming}


def _alike(held: Held, result: Result) -> list[Result]:
    """The trials that repeat one."""
    return [r for r, _ in held if (r.attack, r.believed) == (result.attack, result.believed)]


def _basis(limit: Limit) -> tuple[str, tuple[str, ...]]:
    return LABELS[limit.label], limit.assumptions


def _withdrawn(line: Sides) -> Sides:
    why = (
        f"the ceiling of {line.ceiling} was passed ({line.found}) and is withdrawn: prior or noise "
        "is not as assumed"
    )
    return dataclasses.replace(line, ceiling=OPEN, assumed=(), remark=why)


def _least(hits: int, count: int) -> float:
    from seepage.analysis.verdict import least  # SciPy, where a ceiling is there to test

    return least(hits, count)


def _lowest(values: Sequence[float]) -> float:
    from seepage.analysis.verdict import lowest

    return lowest(values)


def _limit(given: Mapping[str, Any]) -> Limit:
    said = [one[:300] for one in items(given.get("assumptions")) if isinstance(one, str)]
    return Limit(
        of=str(given.get("of"))[:40],
        found=number(given.get("found")),
        limit=number(given.get("limit")),
        unit=str(given.get("unit"))[:40],
        label=str(given.get("label"))[:40],
        assumptions=tuple(said),
    )
