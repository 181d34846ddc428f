"""Pictures that commands write beside what they print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seepage.analysis.rank import Exposure, Spectrum
from seepage.analysis.tradeoff import Point
from seepage.report import words
from seepage.tradeoffs import Outcome, front
from seepage.tradeoffs.measure import ATTACKERS

_ACCENT, _ALARM, _SOFT, _INK = "#0b6b74", "#a3341a", "#566166", "#1b2427"
_TICKS = (-10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100)
_NAMED = 24  # more layers than that have no names beside their lines


def equations(exposure: Exposure, path: Path) -> None:
    """Unknowns of each layer beside the equations that it has of its own."""
    rows = exposure.rows
    figure, axes = _figure(max(5.0, 1.6 * len(rows)))
    places = range(len(rows))
    known = [row.rank for row in rows]
    axes.bar(places, [row.unknowns for row in rows], 0.7, color="none", edgecolor=_SOFT)
    axes.bar(places, known, 0.7, color=[_ALARM if r.deficit == 0 else _ACCENT for r in rows])
    for place, row in zip(places, rows, strict=True):
        said = "all fixed" if row.deficit == 0 else f"{row.deficit:,}"
        axes.annotate(said, (place, row.unknowns), (0, 3), textcoords="offset points", ha="center")
    axes.set_xticks(list(places), [_short(row.name) for row in rows])
    axes.set_ylabel("unknowns of the layer's input")
    axes.set_title("Filled: fixed by the layer's own equations; outline: all unknowns", fontsize=10)
    axes.set_ylim(0, 1.12 * max(row.unknowns for row in rows))
    figure.savefig(path, dpi=150)


def spectrum(found: Spectrum, noise: float, path: Path) -> None:
    """Singular values of the gradient's derivative, of each layer's part, and what noise hides."""
    figure, axes = _figure(8.5)
    least = float(found.values.max()) * 1e-16
    for name, part in found.layers.items():
        told = part[: found.told(name)]
        axes.semilogy(range(1, len(told) + 1), told.tolist(), linewidth=1, label=_short(name))
    whole = found.values.clamp(min=least).tolist()
    axes.semilogy(range(1, len(whole) + 1), whole, color=_INK, linewidth=2, label="all layers")
    hidden = found.floor(noise)
    if hidden > 0:
        axes.axhline(hidden, color=_ALARM, linewidth=1, linestyle="--")
        said = f"noise {noise:g}: below, a tenth of the range is hidden"
        axes.annotate(said, (1, hidden), (4, 4), textcoords="offset points", color=_ALARM)
    if found.rank < found.unknowns:
        axes.axvline(found.rank + 0.5, color=_SOFT, linewidth=1, linestyle=":")
        axes.annotate(
            f"{found.unknowns - found.rank:,} directions stay open",
            (found.rank, float(found.values[0])),
            (-4, -10),
            textcoords="offset points",
            ha="right",
            color=_SOFT,
        )
    if 1 < len(found.layers) <= _NAMED:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xlabel("direction of the input, clearest first")
    axes.set_ylabel("change of the gradient per change of the input")
    figure.savefig(path, dpi=150)


def tradeoff(outcome: Outcome, path: Path) -> None:
    """Leak against cost, a panel for each attacker; the front in black, its points numbered."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator

    figure = Figure(figsize=(13.0, 6.0), layout="constrained")
    panels = figure.subplots(1, len(ATTACKERS), sharey=True, sharex=True)
    psnr = outcome.metric == "psnr"
    for axes, attacker in zip(panels, ATTACKERS, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        for at, (family, points) in enumerate(outcome.points(attacker).items()):
            _curve(axes, points, label=family, marker="osD^vPX<>"[at % 9], color=f"C{at % 10}")
        _front(axes, front(outcome, attacker))
        # What costs little is what is chosen among: half of the width is for two points.
        axes.set_xscale("symlog", linthresh=2, linscale=1.5)
        axes.set_xlabel("points of accuracy lost (95 %)")
        axes.set_title(f"{attacker} attacker", fontsize=11)
        axes.xaxis.set_major_locator(FixedLocator(_TICKS))
        axes.xaxis.set_major_formatter("{x:g}")
        if psnr:
            axes.axhline(30, color=_ALARM, linewidth=0.8, linestyle="--", zorder=0)
    if psnr:
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_locator(FixedLocator([10, 15, 20, 30, 50, 100, 200]))
        panels[0].yaxis.set_minor_locator(FixedLocator([]))
        panels[0].yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("PSNR of the strongest attack, dB" if psnr else "share right")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    figure.suptitle(f"{outcome.task}: what leaks against what it costs", fontsize=12)
    figure.savefig(path, dpi=120)


def _curve(axes: Any, points: Sequence[Point], **style: str) -> None:
    """One defense along its strengths, with the intervals of its costs."""
    ends = [(max(p.loss - p.spread[0], 0), max(p.spread[1] - p.loss, 0)) for p in points]
    spread = list(zip(*((min(a, 50), min(b, 50)) for a, b in ends), strict=True))
    x, y = [p.loss for p in points], [p.leak for p in points]
    axes.errorbar(x, y, None, spread, elinewidth=0.6, linewidth=1, markersize=6, **style)


def _front(axes: Any, best: Sequence[Point]) -> None:
    """What nothing beats: circles with numbers, and whose they are."""
    edge = ([p.loss for p in best], [p.leak for p in best])
    axes.step(*edge, where="post", color="black", linewidth=1.4, zorder=5)
    axes.plot(*edge, "o", markersize=11, fillstyle="none", color="black", label="Pareto front")
    for number, point in enumerate(best, 1):
        place = (point.loss, point.leak)
        axes.annotate(str(number), place, (-7, -15), textcoords="offset points", weight="bold")
    named = [f"{number}  {words.label(point.name)}" for number, point in enumerate(best, 1)]
    text = "\n".join(["On the Pareto front:", *named])
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    where: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
    axes.text(0.98, 0.9, text, fontsize=8, bbox=paper, **where)


def _figure(width: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(width, 14.0), 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
