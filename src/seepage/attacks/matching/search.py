"""One search under way: it steps, remembers, begins again where it diverges, and answers."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from seepage.attacks.matching.optimisers import Moment, Mover, Optimiser
from seepage.attacks.matching.problem import Measure, Problem
from seepage.attacks.matching.record import Record
from seepage.attacks.matching.simulator import Simulator
from seepage.core import Reconstruction
from seepage.errors import Failed

_AGAIN = 5
_CLEARLY = 1.5
_SHARP = 7 / 8


@dataclass(eq=False)
class Search:
    """A problem, the leaves that move, and what is known so far.

    `fresh` draws a new start, `relabel` counts the labels again from the candidates, `pull` is a
    slope in u that comes from elsewhere (other members of a group), `sharp` is what simulates the
    client at the end of a search in half precision.
    """

    problem: Problem
    leaves: list[Tensor]
    fresh: Callable[[], list[Tensor]]
    optimiser: Optimiser
    rng: Generator
    boxed: bool = True
    relabel: Callable[[Tensor, Tensor], Tensor] | None = None
    pull: Callable[[Tensor], Tensor] | None = None
    sharp: Simulator | None = None
    record: Record = field(default_factory=Record)
    _move: Mover | None = None

    def step(self, done: float, factor: float) -> None:
        """One step of the optimiser, when a share of the budget is done."""
        if self.sharp is not None and done >= _SHARP:
            self._change(dataclasses.replace(self.problem, fast=self.sharp))
            self.sharp = None
        if self._move is None:
            self._move = self.optimiser.on(self.leaves)
        self._move(self._evaluate, Moment(factor, done, self.rng))
        if self.boxed and self.problem.render is None:
            self.leaves[0].copy_(self.problem.units.clamped(self.leaves[0]))
        if self._diverged() and self.record.again < _AGAIN:
            self.record.again += 1
            self.leaves, self._move = self.fresh(), None
        with torch.no_grad():
            self.record.passed(done, lambda: self.problem.units.x(self.problem.u(self.leaves)))

    def recount(self) -> None:
        """Read the labels again, with the candidates' own predictions."""
        if self.relabel is not None and self.problem.y is not None:
            with torch.no_grad():
                x = self.problem.units.x(self.problem.u(self.leaves))
            labels = self.relabel(x, self.problem.y)
            if not torch.equal(labels, self.problem.y):
                self._change(dataclasses.replace(self.problem, y=labels))

    @property
    def over(self) -> bool:
        """Whether going on is useless."""
        return not self.record.healthy

    def best(self) -> tuple[list[Tensor], Measure]:
        """The last candidate, unless the best by its misfit explains the update clearly better.

        The end of a search is smoother than its luckiest moment: it stands too where misfit and
        priors together, which is what was minimised, are lower at the end.
        """
        if self.record.best is None and not self.record.healthy:
            raise Failed(
                f"the search left the numbers: no step of {self.optimiser!r} gave a finite misfit. "
                "Use a lower lr in its optimiser, or clip=1."
            )
        last = self.leaves, self.problem.measure(self.leaves)
        if self.record.best is None:
            return last
        best = self.record.best, self.problem.measure(self.record.best)
        totals = [one[1].misfit + self.problem.penalty(one[0]) for one in (last, best)]
        near = last[1].misfit <= _CLEARLY * best[1].misfit or totals[0] <= totals[1]
        return last if near and self.record.healthy else best

    def answer(self) -> Reconstruction:
        """The chosen candidate, with its certificate."""
        leaves, measure = self.best()
        x = self.problem.units.x(self.problem.u(leaves).detach())
        return answered(x, self.problem.labels(leaves), measure, self.record)

    def _evaluate(self) -> tuple[float, list[Tensor]]:
        slope = self.problem.slope(self.leaves)
        self.record.saw(slope.misfit, self.leaves)
        if self.pull is None:
            return slope.total, slope.leaves
        return slope.total, [slope.leaves[0] + self.pull(self.leaves[0]), *slope.leaves[1:]]

    def _change(self, problem: Problem) -> None:
        # What was best before is not comparable.
        self.problem, self.record.best, self.record.lowest = problem, None, math.inf

    def _diverged(self) -> bool:
        worse = self.record.last > self.optimiser.patience * self.record.lowest
        return worse or not self.record.healthy


def answered(x: Tensor, y: Tensor | None, measure: Measure, record: Record) -> Reconstruction:
    """Candidates that stand and fall together: one belief and one residual for all."""
    belief, residual = (
        x.new_full((len(x),), -measure.misfit),
        x.new_full((len(x),), measure.residual),
    )
    return Reconstruction(x, y, belief, residual, record.note(measure.cosine), record.trace())
