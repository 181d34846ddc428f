"""What a search remembers of its way."""

import math
from collections.abc import Callable
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
        self.last = math.nan
        self.again = 0
        self.remarks: list[str] = []
        self._count = 0
        self._done: list[float] = []
        self._misfits: list[float] = []
        self._lows: list[float] = []
        self._frames: list[Tensor] = []

    @property
    def healthy(self) -> bool:
        """Whether the last misfit was a number."""
        return math.isfinite(self.last)

    def saw(self, misfit: float, leaves: list[Tensor]) -> None:
        """One evaluation."""
        self.last = misfit
        if misfit < self.lowest:
            self.lowest, self.best = misfit, [leaf.clone() for leaf in leaves]

    def passed(self, done: float, x: Callable[[], Tensor]) -> None:
        """One step, at its end."""
        self._count += 1
        if done >= (len(self._done) + 1) / _POINTS - 1e-9:
            self._done.append(round(done, 4))
            self._misfits.append(self.last)
        if done >= (len(self._frames) + 1) / _FRAMES - 1e-9:
            self._frames.append(x().clone())

    def stalled(self, within: int, gain: float) -> bool:
        """Whether the misfit fell by less than a share over the last calls of this question."""
        self._lows = [*self._lows, self.lowest][-within - 1 :]
        return len(self._lows) > within and self._lows[-1] > (1 - gain) * self._lows[0]

    def note(self, cosine: float) -> str:
        """Why the search stopped, and what looks wrong about it."""
        why = "search budget exhausted" if self.healthy else "the search diverged and was cut short"
        again = [f"began again {self.again} times after diverging"] if self.again else []
        # A true candidate points along its own update, so this is no local minimum.
        wrong = ["the update's sign looks reversed (before minus after is expected)"]
        return "; ".join(
            [f"{why} after {self._count} steps", *again, *self.remarks]
            + (wrong if cosine < -0.5 else [])
        )

    def trace(self) -> dict[str, Any]:
        """The course of the misfit over the share of the budget, and the strip."""
        strip = {"frames": torch.stack(self._frames)} if self._frames else {}
        return {"done": self._done, "objective": self._misfits, **strip}
