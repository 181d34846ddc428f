"""Rows read with care (they may come from an old, damaged or foreign store), and what they show."""

import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        marks = _flags(_mapping(self.row.get("trace")).get("certified"))
        if not marks:
            return tuple(residual <= KNOWN_RIGHT for residual in self.residual)
        matched = [_place(at, len(marks)) for at in _list(self.row.get("matched"))]
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
    recovered = _flags(row.get("recovered"))
    return Result(
        key=_text(row.get("key")),
        name=_short(row.get("name")) or "network",
        parameters=_whole(row.get("parameters")),
        client=_text(row.get("client")),
        attack=_text(row.get("attack")),
        believed=_text(row.get("believed")),
        tell=tuple(_short(word) for word in _list(row.get("tell"))),
        seed=_text(row.get("seed")),
        n=max(_whole(row.get("n")), len(recovered), 1),
        batch=_text(row.get("batch")),
        kind=_text(_mapping(row.get("form")).get("kind")) or "examples",
        malicious=row.get("malicious") is True,
        metric=metric,
        values=scores.get(metric, ()),
        recovered=recovered,
        identified=_flags(row.get("identified")),
        labels=_labels(row.get("labels")),
        residual=tuple(_or_nan(r) for r in _list(row.get("residual"))),
        baselines=_baselines(row.get("baselines"), metric),
        note=_short(row.get("note")),
        seconds=_or_nan(row.get("seconds")),
        row=row,
    )


def _baselines(given: object, metric: str) -> tuple[Baseline, ...]:
    return tuple(
        Baseline(
            _short(name),
            _numbers_of(about).get(metric, ()),
            sum(_flags(_mapping(about).get("recovered"))),
        )
        for name, about in _mapping(given).items()
    )


def _labels(given: object) -> tuple[float, float] | None:
    right, chance = (_or_nan(_mapping(given).get(name)) for name in ("right", "chance"))
    return None if math.isnan(right) else (right, chance)


def _numbers_of(given: object) -> dict[str, tuple[float, ...]]:
    """The lists of numbers in an object, NaN for what is missing."""
    return {
        _text(name): tuple(map(_or_nan, values))
        for name, values in _mapping(given).items()
        if isinstance(values, list) and name not in ("recovered", "identified")
    }


def _mapping(given: object) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}


def _list(given: object) -> Sequence[Any]:
    return given if isinstance(given, list | tuple) else ()


def _flags(given: object) -> tuple[bool, ...]:
    return tuple(flag is True for flag in _list(given))


def _whole(given: object) -> int:
    return given if isinstance(given, int) and not isinstance(given, bool) else 0


def _short(given: object) -> str:
    text = _text(given)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _text(given: object) -> str:
    return given if isinstance(given, str) else "" if given is None else json.dumps(given)


def _or_nan(given: object) -> float:
    usable = isinstance(given, int | float) and not isinstance(given, bool)
    return float(given) if usable and abs(given) < 1e300 else math.nan  # type: ignore[arg-type]


def _place(given: object, length: int) -> int | None:
    return given if type(given) is int and 0 <= given < length else None


def _low(number: float) -> float:
    return -math.inf if math.isnan(number) else number


def _top(values: tuple[float, ...]) -> float:
    return max((v for v in values if not math.isnan(v)), default=math.nan)
