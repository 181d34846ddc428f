"""R-GAP: one example in closed form, layer by layer, from the gradient of a deep network."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator

from seepage.attacks.rgap import batch, blocks
from seepage.attacks.rgap import candidates as found
from seepage.attacks.rgap import joint as joining
from seepage.attacks.rgap.answers import answered, mixture
from seepage.attacks.rgap.candidates import Candidate
from seepage.attacks.rgap.free import freed
from seepage.attacks.rgap.match import rematched
from seepage.attacks.rgap.problem import Problem, problem
from seepage.attacks.rgap.recursion import Step, System, back, error_signal
from seepage.attacks.rgap.refine import polished, settled
from seepage.attacks.rgap.repair import propagated, repaired
from seepage.chains import Chain, Linked, layer_rank, linked, network_ranks
from seepage.checks import one_of, positive
from seepage.core import Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value

__all__ = ["RGap"]


@value
class RGap:
    """Recursive gradient attack: x_i from [W; K(k)] x_i = [z; g], for i = d, d-1, ..., 1.

    Zhu & Blaschko 2021, arXiv 2010.07733. One gradient of one example, a chain of Linear and Conv2d
    layers. Every answer has a certificate: the relative residual of its own gradient. Beyond the
    paper: unknown labels and both roots of the logistic head, `repair` of signs lost to noise,
    `joint` solves of two layers where one is short of equations, and `refine`, Gauss-Newton with
    frozen kinks ("auto": where the residual asks for it; "match": by gradient matching instead).

    `noise` is the standard deviation of the update's noise, where the believed client has none.
    Several examples are parted where they are fewer than the classes of a softmax; with
    `combination` they give one mixture instead.

    >>> from seepage import Batch, FedSGD, Images, Model, observe
    >>> rng = torch.Generator().manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    >>> model = Model.of(net, torch.nn.functional.cross_entropy, Images((1, 4, 4), classes=3))
    >>> batch = Batch(torch.rand(1, 1, 4, 4, generator=rng), torch.tensor([2]))
    >>> answer = RGap()(observe(model, batch, FedSGD(), rng), rng)
    >>> bool((answer.x - batch.x).abs().max() < 1e-5), int(answer.y)
    (True, 2)
    """

    tol: float = 1e-9
    repair: bool = True
    joint: bool = True
    refine: Literal["auto", "match", "none"] = "auto"
    noise: float | None = None
    combination: bool = False

    def __post_init__(self) -> None:
        positive("RGap.tol", self.tol)
        one_of("RGap.refine", self.refine, ("auto", "match", "none"))
        if self.noise is not None:
            positive("RGap.noise", self.noise)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        network = linked(seen.model)
        made = problem(seen, network, self.noise)
        if len(made.chain.layers) < len(network.links):
            return self._blockwise(made, network, seen)
        if not self.combination and (seen.n or made.rank) > 1:
            several = self._several(made, seen, rng)
            if several is not None:
                return several
        with torch.no_grad():
            answers = self._recovered(made, seen.n is None, rng)
            if self.refine == "match":
                answers = [c if c.residual <= 1e-5 else rematched(c, seen, rng) for c in answers]
        if self.combination and seen.n != 1:
            return mixture(answers[0], seen)
        return answered(made, answers, seen)

    def _blockwise(self, made: Problem, network: Linked, seen: Observation) -> Reconstruction:
        if (seen.n or 1) > 1:
            raise InvalidInput(
                f"RGap: n={seen.n} examples, and R-GAP reads one through residual blocks. Use "
                "Span, Imprint or Invert."
            )
        with torch.no_grad():
            return blocks.recovered(made, network, seen, self.tol)

    def _several(self, made: Problem, seen: Observation, rng: Generator) -> Reconstruction | None:
        """The answer for a batch; None where its size is a guess that nothing confirms."""
        n = seen.n or made.rank
        if not batch.separable(made, n):
            if seen.n is None:
                return None
            raise InvalidInput(
                f"RGap: n={n} examples. R-GAP parts fewer examples than the last layer has "
                "classes, under cross-entropy without clipping. Use Span, Imprint or Invert, or "
                "combination=True for one mixture of them."
            )
        with torch.no_grad():
            found = batch.separated(made, n, seen.y, self.tol, rng)
        return batch.answer(found, made, seen) if seen.n or found.residual <= 1e-3 else None

    def _recovered(self, made: Problem, unknown: bool, rng: Generator) -> list[Candidate]:
        """All candidates: the recursion, then repair and refinement where the residual asks."""
        solve = _Solver(self.tol, self.joint, network_ranks(made.chain))
        ended = found.followed(made, found.readings(made), solve.plain)
        best = min(c.residual for c in ended if not c.note)
        several = unknown and made.rank > 1
        if (best > 1e-5 or made.sigma) and not several:
            # What a joint solve leaves is no noise, and a repair would solve it all again.
            joined = made.sigma is None and solve.joins(made.chain)
            made = made if joined else dataclasses.replace(made, sigma=_sigma(made, ended))
            ended = [c if c.note else self._improved(c, made, solve, rng) for c in ended]
        return [t for c in ended for t in ([c] if c.note else found.twins(c))]

    def _improved(
        self, candidate: Candidate, made: Problem, solve: "_Solver", rng: Generator
    ) -> Candidate:
        if self.repair and made.sigma and made.relative > 1e-9:
            noisy = functools.partial(solve.noisy, rng=rng)
            (again,) = found.followed(made, [candidate.head], noisy)
            errors = [step.error for step in again.trail]
            plain = [
                dataclasses.replace(step, error=error)
                for step, error in zip(candidate.trail, errors, strict=True)
            ]
            candidate = dataclasses.replace(candidate, trail=plain)
            candidate = min((candidate, again), key=lambda c: c.residual)
        # With a layer short of equations the slopes are wrong, and no polish helps them.
        if self.refine == "auto" and (candidate.residual < 0.3 or made.relative > 1e-6):
            candidate = _refined(candidate)
            if self.repair and made.relative > 1e-9:
                candidate = _freed(candidate)
        return candidate


def _refined(candidate: Candidate) -> Candidate:
    """The candidate after Gauss-Newton, if that explains the update better."""
    problem, head, trail = candidate.problem, candidate.head, candidate.trail
    x = polished(problem, candidate.x, head.label, trail)
    moved = (x, settled(problem.chain, x, trail))
    tried = [found.measured(dataclasses.replace(candidate, x=at)) for at in moved]
    return min((candidate, *tried), key=lambda c: c.residual)


def _freed(candidate: Candidate) -> Candidate:
    """While more is left than the noise: slopes in doubt, of all layers, solved for with x."""
    problem, head, width = candidate.problem, candidate.head, 4
    for _ in range(8):
        # The misfit of the truth is the noise itself, give or take one percent.
        if candidate.residual <= 1.02 * problem.relative or width > 16:
            break
        x, trail = freed(problem, candidate.x, head.label, candidate.trail, width)
        tried = _refined(found.measured(dataclasses.replace(candidate, x=x, trail=trail)))
        if tried.residual > 0.98 * candidate.residual:
            width *= 2
        candidate = min((candidate, tried), key=lambda c: c.residual)
    return candidate


@dataclass(frozen=True, eq=False)
class _Solver:
    """How one layer's input is found: alone, with the layer before, or with repair."""

    tol: float
    joint: bool
    ranks: list[int]

    def joins(self, chain: Chain) -> bool:
        """Whether some layer is solved with the one before it."""
        return any(self._joined(chain, i) for i in range(len(chain.layers) - 1))

    def _joined(self, chain: Chain, i: int) -> bool:
        short = layer_rank(chain.layers[i]) < chain.layers[i].unknowns
        full = i >= 1 and self.ranks[i - 1] == chain.layers[i - 1].unknowns
        return self.joint and short and full and joining.possible(chain, i)

    def plain(self, problem: Problem, i: int, after: Step) -> list[Step]:
        chain = problem.chain
        if self._joined(chain, i):
            return joining.together(chain, i, problem.gradient, after, self.tol)
        return [back(chain, i, problem.gradient, after, self.tol)]

    def noisy(self, problem: Problem, i: int, after: Step, rng: Generator) -> list[Step]:
        chain, sigma = problem.chain, problem.sigma or 0.0
        error = after.error or sigma / float(after.k.norm())
        plain = self.plain(problem, i, after)
        if len(plain) > 1 or chain.layers[i].window is None:
            grown = max(error, sigma / float(plain[-1].k.norm()))
            return [dataclasses.replace(step, error=grown) for step in plain]
        signal = error_signal(chain, i, after)
        system = System(chain.layers[i], signal.k, signal.known)
        right = float(system.right(signal.z, problem.weight(i)).norm())
        noise = propagated(system, right, error, signal.slope, (sigma, rng))
        step = repaired(chain, i, problem.gradient, after, plain[0], noise)
        return [dataclasses.replace(step, error=noise.after)]


def _sigma(made: Problem, ended: list[Candidate]) -> float:
    """The noise: told, or the part of the last gradient beyond rank one, or the last fit's."""
    if made.sigma is not None:
        return made.sigma
    weight = made.weight(-1)
    outputs, inputs = weight.shape
    if outputs > 2 and made.rank == 1:
        tail = torch.linalg.svdvals(weight)[1:].norm()
        return float(tail) / math.sqrt((outputs - 1) * (inputs - 1))
    return made.head_noise if outputs > 1 else _last_misfit(made, ended)


def _last_misfit(made: Problem, ended: list[Candidate]) -> float:
    """The root mean square error of the last convolution's equations."""
    chain, best = made.chain, min(ended, key=lambda c: c.residual)
    convolutions = [i for i, layer in enumerate(chain.layers) if layer.window is not None]
    if not convolutions:
        return 0.0
    i = convolutions[-1]
    layer, step = chain.layers[i], best.trail[i]
    system = System(layer, step.k)
    right = system.right(error_signal(chain, i, best.trail[i + 1]).z, made.weight(i))
    free = max(right.numel() - layer.unknowns, 1)
    return step.residual * float(right.norm()) / (system.balance * math.sqrt(free))
