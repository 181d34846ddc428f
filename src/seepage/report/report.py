"""The report of an audit, in a terminal, in a browser, and for programs."""

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seepage.errors import Failed, InvalidInput
from seepage.report import limits, table, verdict
from seepage.report.results import Failure, Group, Result, Row, failures, grouped, results


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What the rows of a store show; it reads rows and artefacts, and never runs anything.

    >>> print(Report([], "runs/none"))
    Nothing was measured: no trial finished...
    """

    rows: list[Row]
    folder: str | Path

    def __repr__(self) -> str:
        return f"Report({len(self.rows)} rows, {str(self.folder)!r})"

    def __str__(self) -> str:
        return table.text(self.results, self.failures)

    @functools.cached_property
    def results(self) -> list[Result]:
        """The finished trials."""
        return results(self.rows)

    @functools.cached_property
    def failures(self) -> list[Failure]:
        """The trials that ended in an error."""
        return failures(self.rows)

    @property
    def recovered(self) -> float:
        """The worst share of recovered examples over all finished trials."""
        if not self.results:
            raise Failed(
                f"none of {len(self.rows)} trials finished, so no share of recovered examples is "
                "known. Look at their errors in the report, repair, and run the audit again."
            )
        return max(result.share for result in self.results)

    @property
    def verdict(self) -> str:
        """What was shown, under which assumptions, and what was not tried."""
        return verdict.text(self.results, self.failures)

    def save(self, path: str | Path) -> Path:
        """Write one HTML file that needs nothing beside it, and return its path."""
        from seepage.report import html

        path = Path(path)
        page = html.page(self.results, self.failures, Path(self.folder))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")
        except OSError as error:
            raise InvalidInput(
                f"cannot write {path}: {error.strerror}. Choose another path."
            ) from None
        return path

    def to_json(self) -> str:
        """The summary as strict JSON, for programs."""
        clients = grouped(self.results, lambda result: result.client)
        about = {
            "recovered": self.recovered if self.results else None,
            "trials": {"done": len(self.results), "failed": len(self.failures)},
            "clients": [_about(group) for group in clients],
            "not_tried": verdict.untried(self.results),
            "verdict": self.verdict,
        }
        return json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)


def _about(group: Group) -> dict[str, Any]:
    lines = [dataclasses.asdict(line) for line in limits.sides(group)]
    for line in lines:
        del line["client"]
    return _case(group.worst) | {"trials": len(group), "ceilings": lines}


def _case(worst: Result) -> dict[str, Any]:
    guess = worst.baseline
    return {
        "client": worst.client,
        "attack": worst.attack,
        "believed": worst.believed,
        "adaptive": worst.adaptive,
        "malicious": worst.malicious,
        "told": list(worst.tell),
        "severity": verdict.level(worst).word,
        "recovered": worst.hits,
        "n": worst.n,
        "share": worst.share,
        "metric": worst.metric,
        "best": _finite(worst.best),
        "baseline": guess
        and {"name": guess.name, "recovered": guess.recovered, "best": _finite(guess.best)},
        "known_right": worst.certain,
        "key": worst.key,
    }


def _finite(number: float) -> float | None:
    return None if math.isnan(number) else number
