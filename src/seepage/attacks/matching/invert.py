"""Gradient matching: search the batch whose simulated update equals the observed one."""

import dataclasses
import math
import time
from collections.abc import Iterator

from torch import Generator, Tensor

from seepage.attacks.labels import Counts, Rule
from seepage.attacks.matching.objectives import Cosine, Objective
from seepage.attacks.matching.optimisers import Adam, Moment, Optimiser
from seepage.attacks.matching.priors import TV, Prior
from seepage.attacks.matching.problem import Problem, problem_of, shell_of
from seepage.attacks.matching.record import Record
from seepage.attacks.matching.schedules import SCHEDULES, Schedule, rate
from seepage.attacks.matching.starts import Normal, Start
from seepage.attacks.units import Kind, units_of
from seepage.checks import at_least, one_of, positive
from seepage.core import Observation, Reconstruction
from seepage.errors import Failed, InvalidInput
from seepage.values import value


@value
class Invert:
    """argmin_u D(client(c + s u, y), g) + sum_k prior_k(u), by descent from a random start.

    Zhu et al. 2019, arXiv 1906.08935, and all that followed: each field is one idea, and the
    presets put them together as papers did. Labels that the threat model tells are used; else
    the rule reads them from the update. `seconds` (of CPU time) ends the search before `steps`.

    >>> from seepage import zoo
    >>> from seepage.core import observe, stream
    >>> from seepage.clients import FedSGD
    >>> model, batch = zoo.example()
    >>> seen = observe(model, batch, FedSGD(), stream(0, "client"))
    >>> Invert(steps=20)(seen, stream(0, "attack")).x.shape == batch.x.shape
    True
    """

    objective: Objective = Cosine()
    priors: tuple[Prior, ...] = (TV(1e-5),)
    labels: Rule | None = Counts()
    start: Start = Normal()
    optimiser: Optimiser = Adam(lr=0.1, sign="hard")
    schedule: Schedule = "drops"
    warmup: int = 0
    steps: int = 2000
    seconds: float | None = None
    box: bool = True
    units: Kind = "auto"
    n: int | None = None

    def __post_init__(self) -> None:
        one_of("Invert.schedule", self.schedule, SCHEDULES)
        one_of("Invert.units", self.units, ("auto", "raw"))
        at_least("Invert.steps", self.steps, 1)
        at_least("Invert.warmup", self.warmup, 0)
        if self.seconds is not None:
            positive("Invert.seconds", self.seconds)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        problem, leaves = self._posed(seen, rng)
        record = Record()
        move = self.optimiser.on(leaves)

        def evaluate() -> tuple[Tensor, list[Tensor]]:
            slope = problem.slope(leaves)
            record.saw(float(slope.misfit), leaves)
            return slope.total, slope.leaves

        for done, factor in self._moments():
            move(evaluate, Moment(factor, done, rng))
            if self.box:
                leaves[0].copy_(problem.units.clamped(leaves[0]))
            record.passed(done, problem.units.x(leaves[0]))
            if not record.healthy:
                break
        return self._answer(problem, record, leaves)

    def _posed(self, seen: Observation, rng: Generator) -> tuple[Problem, list[Tensor]]:
        like = next(iter(seen.model.params.values()))
        n, form = batch_size(seen, self.n), seen.model.form
        shell = shell_of(seen, self.objective, self.priors, units_of(form, like, self.units), rng)
        u = self.start((n, *form.shape), shell.units, rng)
        leaves = [shell.units.clamped(u) if self.box else u]
        labels = seen.y if seen.y is not None or self.labels is None else self.labels(seen, n, rng)
        if labels is not None and seen.y is None and labels.is_floating_point():
            leaves.append(labels)
            labels = None
        return problem_of(seen, dataclasses.replace(shell, y=labels), leaves), leaves

    def _moments(self) -> Iterator[tuple[float, float]]:
        """The share of the budget done and the factor on the rate, step by step."""
        began = time.process_time()
        for step in range(1, self.steps + 1):
            spent = (time.process_time() - began) / (self.seconds or math.inf)
            done = max(step / self.steps, spent)
            yield min(done, 1), rate(self.schedule, done) * min(1, step / (self.warmup or 1))
            if done >= 1:
                return

    def _answer(self, problem: Problem, record: Record, leaves: list[Tensor]) -> Reconstruction:
        if record.best is None:
            raise Failed(
                f"the search left the numbers: no step of {self!r} gave a finite misfit. "
                "Use a lower lr in its optimiser, or clip=1."
            )
        kept = [record.best] if not record.healthy else [record.best, leaves]
        measured = [problem.measure(one[0], _hard(problem, one)) for one in kept]
        # The last of a search is smoother than its best; only a clear difference speaks for best.
        chosen = len(kept) - 1 if measured[-1][0] <= 1.5 * measured[0][0] else 0
        u, (misfit, residual, cosine) = kept[chosen][0], measured[chosen]
        x = problem.units.x(u)
        rank, certificate = x.new_full((len(x),), -misfit), x.new_full((len(x),), residual)
        y = _hard(problem, kept[chosen])
        return Reconstruction(x, y, rank, certificate, record.note(cosine), record.trace())


def batch_size(seen: Observation, given: int | None) -> int:
    """How many examples to search: told, as many as told labels, or given."""
    n = seen.n or (None if seen.y is None else len(seen.y)) or given
    if n is None:
        raise InvalidInput("batch size unknown: pass Invert(n=...), or observe with tell=('n',).")
    at_least("Invert.n", n, 1)
    return n


def _hard(problem: Problem, leaves: list[Tensor]) -> Tensor | None:
    return leaves[1].argmax(-1) if len(leaves) > 1 else problem.y
