"""Curves over the one number that varies between clients, drawn as vector graphics.

The drawings hold numbers and the letters of the legend only: every word that came from data stands
in the page around them, where it is escaped.
"""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seepage.report import words
from seepage.report.expressions import families
from seepage.report.results import Result, grouped

CURVES, LINES = 6, 6
_INK, _ACCENT, _FAINT = "#010203", "#040506", "#070809"
_ROLES = {_INK: "currentColor", _ACCENT: "var(--accent)", _FAINT: "var(--line)"}
_STYLES = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--"))


@dataclass(frozen=True)
class Line:
    """One attacker's results over the values: the mean and the range over trials."""

    letter: str
    attack: str
    attacker: str
    x: tuple[float, ...]
    share: tuple[tuple[float, ...], ...]
    best: tuple[float, ...]
    guess: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """What happens when one number of the client varies and nothing else."""

    label: str
    example: str
    metric: str
    lines: tuple[Line, ...]
    hidden: int
    shares: str
    scores: str

    @property
    def told(self) -> str:
        """The curves in words, for those who cannot see them."""
        return " ".join(
            f"{line.letter}, at {self.label} = {x:g}: {max(share):.0%} recovered."
            for line in self.lines
            for x, share in zip(line.x, line.share, strict=True)
        )


def curves(found: Sequence[Result]) -> tuple[list[Curve], int]:
    """A curve for every family of clients, and how many families are not drawn."""
    clients = grouped(found, lambda result: result.client)
    by_client = {group.worst.client: group.results for group in clients}
    known = sorted(families(by_client), key=lambda family: -len(set(family.values.values())))
    made = []
    for i, family in enumerate(known[:CURVES]):
        points = [(x, r) for client, x in family.values.items() for r in by_client[client]]
        made.append(_curve(family.label, points, f"plot{i}"))
    return made, len(known) - len(made)


def _curve(label: str, points: list[tuple[float, Result]], prefix: str) -> Curve:
    attackers: dict[tuple[str, bool], list[tuple[float, Result]]] = {}
    for x, result in points:
        attackers.setdefault((result.attack, result.adaptive), []).append((x, result))
    ordered = sorted(attackers.items(), key=lambda item: -max(r.share for _, r in item[1]))
    letters = "ABCDEF"
    lines = tuple(
        _line(letters[i], key, members) for i, (key, members) in enumerate(ordered[:LINES])
    )
    metric = points[0][1].metric
    values = sorted({x for line in lines for x in line.x})
    return Curve(
        label=label,
        example=points[0][1].client,
        metric=words.metric_name(metric),
        lines=lines,
        hidden=len(ordered) - len(lines),
        shares=_drawn(lines, values, "share", prefix + "a"),
        scores=_drawn(lines, values, metric, prefix + "b"),
    )


_LETTER = 0.06  # of the height of the drawing, for the letter of one line


def spectrum(whole: Sequence[float], parts: Mapping[str, Sequence[float]], hidden: float) -> str:
    """Singular values on a logarithmic scale: of all layers, and of each under its letter."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "spectrum", "font.size": 10.5}):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.subplots()
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for values, (_, dash) in zip(parts.values(), itertools.cycle(_STYLES)):
            axes.semilogy(range(1, len(values) + 1), values, dash, color=_ACCENT, linewidth=1)
        axes.semilogy(range(1, len(whole) + 1), whole, color=_INK, linewidth=2)
        if hidden > 0:
            axes.axhline(hidden, color=_INK, linewidth=0.8, linestyle="--", alpha=0.6)
        axes.tick_params(colors=_INK, color=_FAINT, length=3)
        low, high = axes.get_ylim()
        for letter, at in _letters(parts, (high / low) ** _LETTER).items():
            axes.annotate(letter, at, (4, 0), textcoords="offset points", color=_INK, weight="bold")
        return _svg(figure, "spectrum")


def _letters(parts: Mapping[str, Sequence[float]], least: float) -> dict[str, tuple[float, float]]:
    """Where each line ends, moved up where another ends less than a factor `least` below."""
    ends = sorted((len(v), v[-1], letter) for letter, v in parts.items() if v and v[-1] > 0)
    placed: dict[str, tuple[float, float]] = {}
    last, below = 0, 0.0
    for x, y, letter in ends:
        below = max(y, least * below) if x == last else y
        placed[letter], last = (x, below), x
    return placed


def _line(letter: str, key: tuple[str, bool], members: list[tuple[float, Result]]) -> Line:
    attack, _ = key
    values = tuple(sorted({x for x, _ in members}))
    at = [[r for value, r in members if value == x] for x in values]
    return Line(
        letter,
        attack,
        words.knows(members[0][1]),
        values,
        tuple(tuple(r.share for r in some) for some in at),
        tuple(max((r.best for r in some), key=_low) for some in at),
        tuple(
            max((r.baseline.best if r.baseline else math.nan for r in some), key=_low)
            for some in at
        ),
    )


def _low(number: float) -> float:
    return -math.inf if math.isnan(number) else number


def _drawn(lines: Sequence[Line], values: list[float], what: str, prefix: str) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix, "font.size": 10.5}):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.subplots()
        _frame(axes, values)
        if what == "share":
            _shares(axes, lines, values)
        else:
            _scores(axes, lines, values, what)
        return _svg(figure, prefix)


def _svg(figure: Any, prefix: str) -> str:
    data = io.StringIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(data, format="svg", transparent=True, metadata=none)
    return _inlined(data.getvalue(), prefix)


def _shares(axes: Any, lines: Sequence[Line], values: list[float]) -> None:
    for line, style in zip(lines, itertools.cycle(_STYLES)):
        means = [100 * sum(share) / len(share) for share in line.share]
        low = [100 * min(share) for share in line.share]
        high = [100 * max(share) for share in line.share]
        places = _places(line.x, values)
        axes.fill_between(places, low, high, color=_ACCENT, alpha=0.12, linewidth=0)
        _plotted(axes, places, means, style)
    _lettered(
        axes, lines, values, {n.letter: 100 * sum(n.share[-1]) / len(n.share[-1]) for n in lines}
    )
    axes.set_ylim(-6, 109)
    axes.set_yticks([0, 25, 50, 75, 100], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def _scores(axes: Any, lines: Sequence[Line], values: list[float], metric: str) -> None:
    for line, style in zip(lines, itertools.cycle(_STYLES)):
        _plotted(axes, _places(line.x, values), list(line.best), style)
    _guesses(axes, lines, values)
    if metric == "psnr":
        axes.axhline(30, color=_INK, linewidth=0.8, alpha=0.6)
        axes.annotate("30 dB", (0, 30), (2, 3), textcoords="offset points", color=_INK)
        axes.yaxis.set_major_formatter("{x:g} dB")
    else:
        axes.yaxis.set_major_formatter("{x:.0%}")
    _lettered(axes, lines, values, {line.letter: line.best[-1] for line in lines})


def _guesses(axes: Any, lines: Sequence[Line], values: list[float]) -> None:
    """What the best guess reaches at each value, where one was recorded."""
    known = {x: g for line in lines for x, g in zip(line.x, line.guess, strict=True)}
    points = [(float(values.index(x)), g) for x, g in sorted(known.items()) if not math.isnan(g)]
    if points:
        axes.plot(*zip(*points, strict=True), color=_INK, alpha=0.55, linewidth=1, linestyle=":")
        axes.annotate("guess", points[0], (0, -12), textcoords="offset points", color=_INK)


def _plotted(axes: Any, places: list[float], heights: list[float], style: tuple[str, str]) -> None:
    marker, dash = style
    axes.plot(places, heights, marker=marker, linestyle=dash, color=_ACCENT, clip_on=False)


def _lettered(
    axes: Any, lines: Sequence[Line], values: list[float], ends: dict[str, float]
) -> None:
    """The letter of each line at its end, side by side where lines end together."""
    low, high = axes.get_ylim()
    taken: list[tuple[float, float]] = []
    for line in lines:
        end = ends[line.letter]
        spot = (float(values.index(line.x[-1])), low if math.isnan(end) else end)
        near = sum(x == spot[0] and abs(y - spot[1]) < 0.08 * (high - low) for x, y in taken)
        taken.append(spot)
        axes.annotate(
            line.letter,
            spot,
            (9 + 10 * near, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
            color=_INK,
            annotation_clip=False,
        )


def _frame(axes: Any, values: list[float]) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_FAINT)
    axes.tick_params(colors=_INK, color=_FAINT, length=3)
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    few = values if len(values) <= 8 else values[:: -(-len(values) // 8)]
    axes.set_xticks([values.index(x) for x in few], [f"{x:.4g}" for x in few])
    axes.margins(x=0.06)


def _places(x: Sequence[float], values: list[float]) -> list[float]:
    # Even steps: shares such as 0.9, 0.99, 0.999 would fall on one spot of a linear axis.
    return [float(values.index(value)) for value in x]


def _inlined(svg: str, prefix: str) -> str:
    """The drawing for the middle of a page: own names, the page's colours, no preamble."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    for colour, role in _ROLES.items():
        svg = svg.replace(colour, role)
    return svg
