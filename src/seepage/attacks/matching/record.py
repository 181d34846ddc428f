"""What a search remembers of its way."""

import math
from typing import Any

import torch
from torch import Tensor

_POINTS, _FRAMES = 100, 8


class Record:
    """The best candidate by the misfit, the misfit's course, and a strip of pictures.

    Each misfit is kept with the very iterate that it was computed at.
    """

    def __init__(self) -> None:
        self.best: list[Tensor] | None = None
        self.lowest = math.inf
        self.healthy = True
        self._count = 0
        self._last = math.nan
        self._done: list[float] = []
        self._misfits: list[float] = []
        self._frames: list[Tensor] = []

    def saw(self, misfit: float, leaves: list[Tensor]) -> None:
        """One evaluation."""
        self._last = misfit
        self.healthy = math.isfinite(misfit)
        if misfit < self.lowest:
            self.lowest, self.best = misfit, [leaf.clone() for leaf in leaves]

    def passed(self, done: float, x: Tensor) -> None:
        """One step, at its end."""
        self._count += 1
        if done >= (len(self._done) + 1) / _POINTS - 1e-9:
            self._done.append(round(done, 4))
            self._misfits.append(self._last)
        if done >= (len(self._frames) + 1) / _FRAMES - 1e-9:
            self._frames.append(x.clone())

    def note(self, cosine: float) -> str:
        """Why the search stopped, and what looks wrong about it."""
        why = "search budget exhausted" if self.healthy else "the search diverged and was cut short"
        reversed_sign = "; the update's sign looks reversed (before minus after is expected)"
        return f"{why} after {self._count} steps" + (reversed_sign if cosine < -0.5 else "")

    def trace(self) -> dict[str, Any]:
        """The course of the misfit over the share of the budget, and the strip."""
        strip = {"frames": torch.stack(self._frames)} if self._frames else {}
        return {"done": self._done, "objective": self._misfits, **strip}
