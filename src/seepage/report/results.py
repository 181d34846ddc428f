"""Rows read with care (they may come from an old, damaged or foreign store), and what they show."""

import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seepage.report.given import flags, items, mapping, number, whole

Row = Mapping[str, Any]

LONGEST = 500
"""Characters of a remark that are kept: an error may quote a whole file."""
KNOWN_RIGHT = 1e-3
"""Below this residual an answer explains the update to one part in a thousand."""


@dataclass(frozen=True)
class Baseline:
    """What a guess without the update scores."""

    name: str
    values: tuple[float, ...]
    recovered: int

    @property
    def best(self) -> float:
        return _top(self.values)


@dataclass(frozen=True)
class Result:
    """One finished trial, every field of a known type."""

    key: str
    name: str
    parameters: int
    client: str
    attack: str
    believed: str
    tell: tuple[str, ...]
    seed: str
    n: int
    batch: str
    kind: str
    malicious: bool
    metric: str
    values: tuple[float, ...]
    recovered: tuple[bool, ...]
    identified: tuple[bool, ...]
    labels: tuple[float, float] | None
    residual: tuple[float, ...]
    baselines: tuple[Baseline, ...]
    note: str
    seconds: float
    row: Row

    @property
    def adaptive(self) -> bool:
        """Whether the attacker knew the client as it is."""
        return self.believed == self.client

    @property
    def hits(self) -> int:
        return sum(self.recovered)

    @property
    def share(self) -> float:
        return self.hits / self.n

    @property
    def best(self) -> float:
        """The best score over the examples (NaN where none is known)."""
        return _top(self.values)

    @property
    def baseline(self) -> Baseline | None:
        """The strongest guess without the update."""
        return max(self.baselines, key=lambda b: (b.recovered, _low(b.best)), default=None)

    @functools.cached_property
    def sure(self) -> tuple[bool, ...]:
        """For each original, whether the attacker takes its answer for right.

        An attack that certifies single answers says so; for others the residual does.
        """
        marks = flags(mapping(self.row.get("trace")).get("certified"))
        if not marks:
            return tuple(residual <= KNOWN_RIGHT for residual in self.residual)
        matched = [_place(at, len(marks)) for at in items(self.row.get("matched"))]
        return tuple(at is not None and marks[at] for at in matched)

    @property
    def misled(self) -> bool:
        """Whether a wrong answer explains the update as well as a right one would."""
        return any(sure and not hit for hit, sure in zip(self.recovered, self.sure, strict=False))

    @property
    def certain(self) -> int:
        """How many recovered examples the attacker can tell to be right."""
        found = sum(hit and sure for hit, sure in zip(self.recovered, self.sure, strict=False))
        return 0 if self.misled else found

    @property
    def guessed(self) -> bool:
        """Whether a guess without the update recovers as many."""
        return self.baseline is not None and self.baseline.recovered >= self.hits > 0

    @functools.cached_property
    def strength(self) -> tuple[float, int, int, float]:
        """What makes one result worse for privacy than another: first what no guess explains."""
        share = 0.0 if self.guessed else self.share
        return share, self.hits, sum(self.identified), _low(self.best)

    def over(self, threshold: float) -> int:
        """How many examples score above a threshold."""
        return sum(score > threshold for score in self.values)


@dataclass(frozen=True)
class Failure:
    """A trial that ended in an error, and so says nothing about privacy."""

    client: str
    attack: str
    believed: str
    seed: str
    error: str


@dataclass(frozen=True)
class Group:
    """Trials that share something, worst first in `worst`."""

    results: tuple[Result, ...]

    @functools.cached_property
    def worst(self) -> Result:
        return max(self.results, key=lambda result: result.strength)

    def __len__(self) -> int:
        return len(self.results)


def results(rows: Iterable[Row]) -> list[Result]:
    """The finished trials."""
    return [_result(row) for row in rows if row.get("status") == "done"]


def failures(rows: Iterable[Row]) -> list[Failure]:
    """The trials that are not finished, with their errors."""
    return [
        Failure(
            _text(row.get("client")),
            _text(row.get("attack")),
            _text(row.get("believed")),
            _text(row.get("seed")),
            _short(row.get("error")) or "no error was recorded",
        )
        for row in rows
        if row.get("status") != "done"
    ]


def grouped(found: Iterable[Result], key: Callable[[Result], object]) -> list[Group]:
    """Results that agree in a key, the groups ordered by their worst result."""
    groups: dict[object, list[Result]] = defaultdict(list)
    for result in found:
        groups[key(result)].append(result)
    made = [Group(tuple(group)) for group in groups.values()]
    return sorted(made, key=lambda group: group.worst.strength, reverse=True)


def setup(result: Result) -> tuple[object, ...]:
    """What makes two trials repetitions of each other: all but the seed and the batch."""
    return result.client, result.attack, *variant(result)


def variant(result: Result) -> tuple[object, ...]:
    """What differs between trials of one client and one attack."""
    return result.believed, result.tell, result.n, result.name, result.kind


def _result(row: Row) -> Result:
    scores = _numbers_of(row.get("scores"))
    metric = "psnr" if "psnr" in scores else next(iter(scores), "")
    recovered = flags(row.get("recovered"))
    return Result(
        key=_text(row.get("key")),
        name=_short(row.get("name")) or "network",
        parameters=whole(row.get("parameters")),
        client=_text(row.get("client")),
        attack=_text(row.get("attack")),
        believed=_text(row.get("believed")),
        tell=tuple(_short(word) for word in items(row.get("tell"))),
        seed=_text(row.get("seed")),
        n=max(whole(row.get("n")), len(recovered), 1),
        batch=_text(row.get("batch")),
        kind=_text(mapping(row.get("form")).get("kind")) or "examples",
        malicious=row.get("malicious") is True,
        metric=metric,
        values=scores.get(metric, ()),
        recovered=recovered,
        identified=flags(row.get("identified")),
        labels=_labels(row.get("labels")),
        residual=tuple(number(r) for r in items(row.get("residual"))),
        baselines=_baselines(row.get("baselines"), metric),
        note=_short(row.get("note")),
        seconds=number(row.get("seconds")),
        row=row,
    )


def _baselines(given: object, metric: str) -> tuple[Baseline, ...]:
    return tuple(
        Baseline(
            _short(name),
            _numbers_of(about).get(metric, ()),
            sum(flags(mapping(about).get("recovered"))),
        )
        for name, about in mapping(given).items()
    )


def _labels(given: object) -> tuple[float, float] | None:
    right, chance = (number(mapping(given).get(name)) for name in ("right", "chance"))
    return None if math.isnan(right) else (right, chance)


def _numbers_of(given: object) -> dict[str, tuple[float, ...]]:
    """The lists of numbers in an object, NaN for what is missing."""
    return {
        _text(name): tuple(map(number, values))
        for name, values in mapping(given).items()
        if isinstance(values, list) and name not in ("recovered", "identified")
    }


def _short(given: object) -> str:
    text = _text(given)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _text(given: object) -> str:
    return given if isinstance(given, str) else "" if given is None else json.dumps(given)


def _place(given: object, length: int) -> int | None:
    return given if type(given) is int and 0 <= given < length else None


def _low(number: float) -> float:
    return -math.inf if math.isnan(number) else number


def _top(values: tuple[float, ...]) -> float:
    return max((v for v in values if not math.isnan(v)), default=math.nan)
