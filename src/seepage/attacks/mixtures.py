"""Mixtures taken apart: the examples, and the shares in which they were mixed."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from seepage.attacks.matching.simulator import Simulator
from seepage.checks import at_least, positive
from seepage.core import Client, Observation, Reconstruction, noiseless
from seepage.errors import Failed, InvalidInput
from seepage.forms import Images, Tokens
from seepage.values import value

_ENTRIES = 10**8  # of a Jacobian held at once
_SOLVED, _EXPLAINED = 1e-20, 1e-12


@value
class Unmix:
    """Fit mixtures z and shares W to the update at once, and undo the shares: x = W^-1 z.

    r(z, W) = (G(z, W Y) - g) / |g| with Y the told labels: first by Adam, then by damped
    Gauss-Newton steps in double precision. The shares show in the mixed labels alone, so labels
    must differ. `InstaHide` flips signs of pixels: where pixels are not negative |z| undoes that;
    where they can be, several encodings of each example are needed (Carlini et al. 2021, arXiv
    2011.05315), which one round does not give.
    """

    starts: int = 3
    steps: int = 300
    solves: int = 60
    lr: float = 0.05

    def __post_init__(self) -> None:
        for name in ("starts", "steps", "solves"):
            at_least(f"Unmix.{name}", getattr(self, name), 1)
        positive("Unmix.lr", self.lr)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        if seen.y is None:
            return Reconstruction.nothing(seen, "no labels are told, which show the shares")
        problem = _Mixed.of(seen, seen.y)
        if len(torch.unique(problem.labels, dim=0)) < len(problem.labels):
            return Reconstruction.nothing(seen, "labels repeat, and shares show in labels only")
        if problem.flips and not _bright(seen):
            return Reconstruction.nothing(
                seen, "pixels may be negative, so that one encoding hides their signs"
            )
        best = self._solved(problem, problem.start(rng))
        for _ in range(self.starts - 1):
            if best[0] < _EXPLAINED:
                break
            again = self._solved(problem, problem.start(rng))
            best = min(best, again, key=lambda pair: pair[0])
        return problem.answer(seen, best[1], best[0])

    def _solved(self, problem: "_Mixed", point: Tensor) -> tuple[float, Tensor]:
        point = self._neared(problem, point.requires_grad_()).detach()
        rest, damping = problem.rest(point), 1e-6
        cost = float(rest.square().sum())
        for _ in range(self.solves):
            slopes = problem.slopes(point)
            system = slopes @ slopes.T, slopes @ rest
            before = cost
            point, rest, damping = _stepped(problem, (point, rest, damping), system)
            cost = float(rest.square().sum())
            if cost < _SOLVED or cost > before * (1 - 1e-6):
                break
        return cost, point

    def _neared(self, problem: "_Mixed", point: Tensor) -> Tensor:
        optimiser = torch.optim.Adam([point], self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps, self.lr / 100)
        for _ in range(self.steps):
            optimiser.zero_grad()
            problem.residual(point).square().sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        return point


State = tuple[Tensor, Tensor, float]


def _stepped(problem: "_Mixed", state: State, system: tuple[Tensor, Tensor]) -> State:
    """The first of ever more damped steps that lowers the cost; the same state where none does."""
    (point, rest, damping), (square, pull) = state, system
    cost = float(rest.square().sum())
    unit = float(square.diagonal().mean()) * torch.eye(len(point), dtype=point.dtype)
    for _ in range(10):
        moved = point - torch.linalg.solve(square + damping * unit, pull)
        new = problem.rest(moved)
        if float(new.square().sum()) < cost:
            return moved, new, damping / 10
        damping *= 5
    return state


@dataclass(frozen=True, eq=False)
class _Mixed:
    """The update of mixtures as a function of them and of the logits of their shares."""

    simulator: Simulator
    observed: Tensor
    names: list[str]
    labels: Tensor
    shape: tuple[int, ...]
    flips: bool

    @classmethod
    def of(cls, seen: Observation, y: Tensor) -> "_Mixed":
        if isinstance(seen.model.form, Tokens):
            raise InvalidInput("Unmix takes mixtures of numbers apart, and these are tokens.")
        client: Any = seen.client
        kind = type(client).__name__
        inner: Client = client.inner if kind in ("MixUp", "InstaHide") else client
        y = y if y.ndim > 1 else functional.one_hot(y, seen.model.form.classes)
        shape, names = (len(y), *seen.model.form.shape), list(seen.update)
        observed = torch.cat([seen.update[name].double().flatten() for name in names])
        unknowns = math.prod(shape) + len(y) ** 2
        if unknowns * len(observed) > _ENTRIES:
            raise Failed(
                f"Unmix solves {unknowns:,} unknowns from {len(observed):,} entries at once, which "
                "is too much to hold. Use smaller batches or examples."
            )
        simulator = Simulator(seen.model, noiseless(inner), 0).doubled()
        return cls(simulator, observed, names, y.double(), shape, kind == "InstaHide")

    def start(self, rng: Generator) -> Tensor:
        """Mixtures around the middle, each mostly of its own example."""
        n, size = len(self.labels), math.prod(self.shape)
        z = 0.05 * torch.randn(size, generator=rng, dtype=torch.float64)
        logits = 0.3 * torch.randn((n, n), generator=rng, dtype=torch.float64)
        logits = logits + torch.eye(n, dtype=torch.float64)
        return torch.cat([z + (0.0 if self.flips else 0.5), logits.flatten()])

    def parts(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Mixtures and shares."""
        n, size = len(self.labels), math.prod(self.shape)
        return point[:size].view(self.shape), point[size:].view(n, n).softmax(1)

    def residual(self, point: Tensor) -> Tensor:
        """(G - g) / |g|."""
        z, shares = self.parts(point)
        update = self.simulator(z, shares @ self.labels)
        given = torch.cat([update[name].flatten() for name in self.names])
        apart: Tensor = (given - self.observed) / self.observed.norm()
        return apart

    def rest(self, point: Tensor) -> Tensor:
        """The residual alone; a client keeps its graph where the candidate asks for one."""
        return self.residual(point.detach().requires_grad_()).detach()

    def slopes(self, point: Tensor) -> Tensor:
        """The Jacobian, a row for each unknown."""
        held = point.detach().requires_grad_()
        rest = self.residual(held)
        weights = torch.zeros_like(rest).requires_grad_()
        (back,) = torch.autograd.grad(rest, held, weights, create_graph=True)
        each = torch.eye(len(point), dtype=point.dtype)
        found: Tensor = torch.autograd.grad(back, weights, each, is_grads_batched=True)[0]
        return found

    def answer(self, seen: Observation, point: Tensor, cost: float) -> Reconstruction:
        """The examples that these mixtures hold."""
        z, shares = self.parts(point)
        apart = torch.linalg.pinv(shares) @ (z.abs() if self.flips else z).flatten(1)
        x = apart.view(self.shape).to(next(iter(seen.model.params.values())))
        level = x.new_full((len(x),), math.sqrt(cost))
        note = f"mixtures taken apart, condition {float(torch.linalg.cond(shares)):.1f}"
        return Reconstruction(x, seen.y, -level, level, note, {"shares": shares, "mixtures": z})


def _bright(seen: Observation) -> bool:
    """Whether no pixel of the network's input is negative."""
    form, like = seen.model.form, next(iter(seen.model.params.values()))
    return isinstance(form, Images) and bool((form.box(like)[0] >= 0).all())
