"""What one gradient fixes of a network's input, as `seepage rank --out` left it in rank.json."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seepage
from seepage.errors import InvalidInput
from seepage.report import plots, words
from seepage.report.templating import environment

LAYERS, LINES = 60, 10


@dataclass(frozen=True)
class Row:
    """One layer's equations; None where they were not checked."""

    name: str
    unknowns: int
    count: int
    confirmed: int | None
    deficit: int
    whole: int


@dataclass(frozen=True)
class Part:
    """What the gradient of one layer alone tells of the input, and the letter of its line."""

    letter: str
    name: str
    told: int


@dataclass(frozen=True)
class Exposure:
    """The section: counted, measured, or both."""

    rows: Sequence[Row]
    hidden: int
    sentences: Sequence[str]
    measured: str
    drawing: str
    parts: Sequence[Part]
    unseen: int


def exposure(folder: Path) -> Exposure | None:
    """The section of a folder, None where nothing was counted there.

    >>> exposure(Path("runs/none")) is None
    True
    """
    path = folder / "rank.json"
    if not path.is_file():
        return None
    try:
        return _made(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is damaged ({type(error).__name__}). Remove it, or write it again with "
            f"'seepage rank --out {folder}'."
        ) from None


def page(folder: Path) -> str:
    """The section of a folder as a page of its own."""
    template = environment().get_template("rank.html.jinja")
    return template.render(version=seepage.__version__, exposure=exposure(folder))


def _made(about: Mapping[str, Any]) -> Exposure:
    counted, measured = about["counted"], about["measured"]
    rows = [] if counted is None else [_row(row) for row in counted["layers"]]
    sentences = [] if counted is None else [_tier(counted), *counted["advice"]]
    parts, drawing, unseen = _spectrum(measured) if measured else ([], "", 0)
    return Exposure(
        rows=rows[:LAYERS],
        hidden=max(0, len(rows) - LAYERS),
        sentences=[words.cut(str(text), 400) for text in sentences[:8]],
        measured=_said(measured) if measured else "",
        drawing=drawing,
        parts=parts,
        unseen=unseen,
    )


def _tier(counted: Mapping[str, Any]) -> str:
    return f"{str(counted['tier']).capitalize()}: {counted['meaning']}"


def _row(row: Mapping[str, Any]) -> Row:
    confirmed = row["confirmed"]
    return Row(
        words.cut(str(row["name"]), 40),
        int(row["unknowns"]),
        int(row["count"]),
        None if confirmed is None else int(confirmed),
        int(row["deficit"]),
        int(row["network"]) - int(row["unknowns"]),
    )


def _said(measured: Mapping[str, Any]) -> str:
    directions, rank = int(measured["directions"]), int(measured["rank"])
    error, noise = measured["error"], float(measured["noise"])
    fixed = (
        f"Measured over {directions:,} of {int(measured['inputs']):,} directions of the input, one "
        f"gradient tells {rank:,} apart."
    )
    if error is None:
        return f"{fixed} The others stay open, so only a prior can fill them."
    return (
        f"{fixed} With noise of {noise:g} of the gradient's length an attacker without a prior "
        f"errs by at least {float(error):.3g} (root mean square, in the network's units)."
    )


def _spectrum(measured: Mapping[str, Any]) -> tuple[list[Part], str, int]:
    """The layers of most weight as lettered lines, below that of all layers together."""
    layers = {str(name): _positive(values) for name, values in measured.get("layers", {}).items()}
    ordered = sorted(layers, key=lambda name: -math.fsum(v * v for v in layers[name]))
    chosen = [name for name in layers if name in ordered[:LINES]]
    parts = [
        Part(chr(ord("A") + i), words.cut(name, 40), len(layers[name]))
        for i, name in enumerate(chosen)
    ]
    drawing = plots.spectrum(
        _positive(measured["singular_values"]),
        {part.letter: layers[name] for part, name in zip(parts, chosen, strict=True)},
        float(measured.get("hidden_below", 0)),
    )
    return parts, drawing, len(layers) - len(parts)


def _positive(values: Sequence[Any]) -> list[float]:
    """Those that count: squares above 1e-13 of the largest."""
    numbers = [float(v) for v in values]
    top = max(numbers, default=0.0)
    return [v for v in numbers if v * v > 1e-13 * top * top]
