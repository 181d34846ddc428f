"""What a check found, the evidence for it, and what it is blind to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from seepage.errors import Failed

__all__ = ["Finding", "Refused", "Report"]


@dataclass(frozen=True)
class Finding:
    """One reason to refuse a model: which layer, which rows, the figure that is too high."""

    check: str
    layer: str
    rows: tuple[int, ...]
    figure: float
    limit: float
    why: str

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.rows[:6])) + (", ..." if len(self.rows) > 6 else "")
        where = f"{self.layer or 'the model'}" + (f", rows {shown}" if self.rows else "")
        return f"{self.check}: {where}: {self.figure:.4g} (limit {self.limit:.4g}). {self.why}"


@dataclass(frozen=True)
class Report:
    """Findings, the figures that they were judged by, and the limits of the checks."""

    findings: tuple[Finding, ...]
    figures: Mapping[str, Mapping[str, float]]
    """Per layer, every figure measured, whether it was too high or not."""
    blind: tuple[str, ...]
    isolated: tuple[int, ...] = field(default=())
    """The client's own examples that someone could read off its update (self-audit only)."""

    def __str__(self) -> str:
        said = [f"- {finding}" for finding in self.findings] or ["- nothing found"]
        limits = [f"- {line}" for line in self.blind]
        close = "No finding is no proof of safety."
        return "\n".join(["Findings:", *said, "These checks cannot see:", *limits, close])

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.findings + other.findings,
            {
                layer: {**self.figures.get(layer, {}), **other.figures.get(layer, {})}
                for layer in [*self.figures, *(o for o in other.figures if o not in self.figures)]
            },
            self.blind + other.blind,
            self.isolated + other.isolated,
        )


class Refused(Failed):
    """The client does not answer this broadcast; `findings` says why."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        listed = "\n".join(f"- {finding}" for finding in findings)
        super().__init__(
            f"the broadcast model was refused, nothing was shared:\n{listed}\n"
            "Ask the server what these layers are for; pass other limits to the checks if you know."
        )
