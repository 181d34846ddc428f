"""Curves like those of Robbing the Fed, for a person to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seepage.analysis import expected
from seepage.core import stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bars", "curves", "laws"]

_BINS = (8, 16, 32, 64, 92, 128, 156, 200, 256, 300, 400, 512)
_MASSES = (0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)


def laws(path: Path, n: int = 64, many: int = 16384) -> None:
    """Figure 2: images isolated by k bins (published law, ours, draws); one bin of a given mass."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rng = stream(0, "occupancy")
    drawn = [float(expected.simulated(n, k, 2000, rng).double().mean()) for k in _BINS]
    left.plot(_BINS, [expected.singletons(n, k) for k in _BINS], label="independent images")
    left.plot(_BINS, [expected.published(n, k) for k in _BINS], "--", label="published law")
    left.plot(_BINS, drawn, "k.", label="2000 draws")
    left.axhline(n / 2, color="grey", linestyle=":")
    left.set(xlabel="bins", ylabel=f"images alone in a bin, of {n}")
    left.legend()
    right.plot(_MASSES, [expected.one_shot(many, mass / many) for mass in _MASSES])
    right.set(xlabel="mass of the bin, in images", ylabel=f"chance of one image of {many}")
    _save(figure, path)


def curves(
    path: Path, x: Sequence[float], lines: Mapping[str, Sequence[float]], labels: tuple[str, str]
) -> None:
    """One line for each name over a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for style, (name, values) in zip(("o-", "s--", "^:", "D-."), lines.items(), strict=False):
        axes.plot(x, values, style, label=name)
    axes.set(xscale="log", xlabel=labels[0], ylabel=labels[1])
    axes.legend()
    _save(figure, path)


def bars(path: Path, values: Mapping[str, float], label: str) -> None:
    """One bar for each name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(values), list(values.values()))
    axes.set(ylabel=label)
    _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
