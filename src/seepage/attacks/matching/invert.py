"""Gradient matching: search the batch whose simulated update equals the observed one."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Generator, Tensor

from seepage.attacks.labels import Counts, Rule, recounted
from seepage.attacks.matching.compiled import whole_step
from seepage.attacks.matching.finisher import LM
from seepage.attacks.matching.generators import ImageGenerator, Render
from seepage.attacks.matching.match import Match
from seepage.attacks.matching.objectives import Cosine, Objective
from seepage.attacks.matching.optimisers import Adam, Optimiser
from seepage.attacks.matching.priors import TV, PixelPrior, Prior
from seepage.attacks.matching.problem import Problem, matched
from seepage.attacks.matching.schedules import SCHEDULES, Schedule, rate
from seepage.attacks.matching.search import Search
from seepage.attacks.matching.simulator import Simulator, seeded
from seepage.attacks.matching.starts import Normal, Start
from seepage.attacks.matching.words import Words
from seepage.attacks.units import Kind, Units, units_of
from seepage.checks import at_least, one_of, positive
from seepage.core import Observation, Reconstruction, noiseless
from seepage.errors import Failed, InvalidInput
from seepage.values import value

_RECOUNTS = (0.25, 0.5)


@value
class Invert:
    """argmin_u D(client(c + s u, y), g) + sum_k prior_k(u), by descent from a random start.

    Zhu et al. 2019, arXiv 1906.08935, and all that followed: each field is one idea, and the
    presets put them together as papers did. Labels that the threat model tells are used; else
    the rule reads them from the update, and where it can, twice again from the candidates on the
    way. `labels=None`: the data are their own target. Sentences are searched as embeddings.
    `seconds` (of CPU time) ends the search before `steps`; `finish` solves to the end what the
    search brought near. `precision="bf16"` multiplies in half precision but for the last eighth,
    and `compile=True` compiles the step: both for accelerators and long searches.

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
    generator: ImageGenerator | None = None
    finish: LM | None = None
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        one_of("Invert.schedule", self.schedule, SCHEDULES)
        one_of("Invert.units", self.units, ("auto", "raw"))
        one_of("Invert.precision", self.precision, ("float32", "bf16"))
        if self.compile and self.precision != "float32":
            raise InvalidInput("Invert compiles steps in float32: use compile=True or bf16.")
        at_least("Invert.steps", self.steps, 1)
        at_least("Invert.warmup", self.warmup, 0)
        if self.seconds is not None:
            positive("Invert.seconds", self.seconds)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        try:
            answer = self._searched(self.begin(seen, rng))
            words = Words.of(seen, len(answer))
            return answer if words is None else words.spelt(answer, seen, rng)
        except torch.OutOfMemoryError as error:
            raise Failed(
                f"out of memory: simulating {batch_size(seen, self.n)} examples keeps the graph of "
                "every local step, two to three times what training on them takes. Lower n, or "
                f"use a device with more memory ({error})."
            ) from None

    def _searched(self, search: Search) -> Reconstruction:
        past = 0.0
        for done, factor in self.moments():
            search.step(done, factor)
            if any(past < part <= done < 1 for part in _RECOUNTS):
                search.recount()
            past = done
            if search.over or (self.finish and search.record.stalled(20, 1e-3)):
                break
        return self.finish(search) if self.finish else search.answer()

    def begin(self, seen: Observation, rng: Generator) -> Search:
        """The search at its start: labels read, a first candidate drawn."""
        like = next(iter(seen.model.params.values()))
        n = batch_size(seen, self.n)
        words = Words.of(seen, n)
        units = units_of(seen.model.form, like, self.units) if words is None else words.units
        shape = (n, *seen.model.form.shape)
        told = seen.y is not None or self.labels is None
        labels = seen.y if told or self.labels is None else self.labels(seen, n, rng)
        scored = not told and labels is not None and labels.is_floating_point()
        draw, render = self._pictures(shape, units, None if scored else labels, rng)
        if words is not None:
            draw, render = functools.partial(words.draw, rng), words.render

        def fresh() -> list[Tensor]:
            scores = self.labels(seen, n, rng) if scored and self.labels else None
            return draw() if scores is None else [*draw(), scores]

        leaves = fresh()
        problem = self._problem(seen, units, None if scored else labels, rng)
        problem = dataclasses.replace(problem, scored=scored, render=render)
        problem = matched(problem, seen.update, leaves)
        counts = not told and n > 1 and isinstance(self.labels, Counts) and not self.compile
        relabel = functools.partial(recounted, seen) if counts else None
        search = Search(problem, leaves, fresh, self.optimiser, rng, self.box, relabel)
        if self.compile:
            search.problem = dataclasses.replace(problem, whole=torch.compile(whole_step(problem)))
        elif self.precision == "bf16":
            search.sharp = problem.fast
            search.problem = dataclasses.replace(problem, fast=problem.plain().halved())
        return search

    def _pictures(
        self, shape: tuple[int, ...], units: Units, y: Tensor | None, rng: Generator
    ) -> tuple[Callable[[], list[Tensor]], Render | None]:
        if self.generator is not None:
            generator = self.generator
            return lambda: generator.begin(shape, units, rng)[0], generator.begin(
                shape, units, rng
            )[1]

        def draw() -> list[Tensor]:
            u = self.start(shape, units, y, rng)
            return [units.clamped(u) if self.box else u]

        return draw, None

    def _problem(
        self, seen: Observation, units: Units, y: Tensor | None, rng: Generator
    ) -> Problem:
        exact = Simulator(seen.model, noiseless(seen.client), seeded(rng))
        pixels = tuple(prior for prior in self.priors if isinstance(prior, PixelPrior))
        others = (prior for prior in self.priors if not isinstance(prior, PixelPrior))
        terms = tuple(prior.fitted(seen) for prior in others)
        return Problem(exact, exact, Match.of(self.objective, {}), pixels, terms, units, y)

    def moments(self) -> Iterator[tuple[float, float]]:
        """The share of the budget done and the factor on the rate, step by step."""
        began = time.process_time()
        for step in range(1, self.steps + 1):
            spent = (time.process_time() - began) / (self.seconds or math.inf)
            done = max(step / self.steps, spent)
            yield min(done, 1), rate(self.schedule, done) * min(1, step / (self.warmup or 1))
            if done >= 1:
                return


def batch_size(seen: Observation, given: int | None) -> int:
    """How many examples to search: told, as many as told labels, or given."""
    n = seen.n or (None if seen.y is None else len(seen.y)) or given
    if n is None:
        raise InvalidInput("batch size unknown: pass Invert(n=...), or observe with tell=('n',).")
    at_least("Invert.n", n, 1)
    return n
