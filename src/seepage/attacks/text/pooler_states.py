"""The exact pooled states of a batch from its pooler under a 2-class head, modified or not."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from seepage.attacks.text.anatomy import Network
from seepage.core import Observation
from seepage.errors import InvalidInput

Activation = Callable[[Tensor], Tensor]

_EXACT = {torch.float64: 1e-8}
_ROUGH = 1e-4
_MOST = 1000
"""Neurons looked at: more tell nothing new."""

_STEPS = 60
_PATIENT = 1000
_NEAR = 1e-3
"""Below this the states are almost there, at the bottom of a valley that may be long."""

_VALLEY = 1 - 1e-7
_RANK = 1e-6


@dataclass(frozen=True, eq=False)
class States:
    """One pooled state for each example, in float64 and in any order."""

    states: Tensor
    slopes: Tensor
    """dL/dlogit_1 of each example."""
    residual: float
    """What they leave unexplained of the three gradients, relative."""
    starts: int

    @property
    def labels(self) -> Tensor:
        """The loss wants a higher second logit exactly where its slope is negative."""
        return (self.slopes < 0).long()


@dataclass(frozen=True, eq=False)
class Layers:
    """The pooler W, b and the difference a of the classifier's rows, with their gradients."""

    weight: Tensor
    bias: Tensor
    difference: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor
    row_gradient: Tensor
    """Of the classifier's second row."""
    activation: Activation = torch.tanh

    def part(self, rows: Tensor) -> "Layers":
        """The same for some of the pooler's neurons."""
        return Layers(
            self.weight[rows],
            self.bias[rows],
            self.difference[rows],
            self.weight_gradient[rows],
            self.bias_gradient[rows],
            self.row_gradient[rows],
            self.activation,
        )


def pooled_states(seen: Observation, network: Network, rng: Generator, starts: int = 40) -> States:
    """Solve for all h_i and l_i = dL/dlogit_1 at once.

    With z_i = W h_i + b and s' the derivative of tanh, neuron j tells
        dL/dW_j = a_j sum_i l_i s'(z_ji) h_i,   dL/db_j = a_j sum_i l_i s'(z_ji),
        dL/dA_1j = sum_i l_i tanh(z_ji).
    The h_i lie in the row space of the first, so that B numbers describe each: B^2 + B unknowns
    and B + 2 equations a neuron, solved by damped Gauss-Newton from random starts.
    """
    layers = layers_of(seen, network)
    if len(layers.weight) > _MOST:
        layers = layers.part(torch.randperm(len(layers.weight), generator=rng)[:_MOST])
    _, values, rows = torch.linalg.svd(layers.weight_gradient, full_matrices=False)
    size = int((values > _RANK * values[0]).sum())
    if size == 1:
        return _single(layers)
    basis, best = rows[:size].T, States(rows[:0], rows[:0, 0], float("inf"), 0)
    goal = _EXACT.get(seen.update[f"{network.anatomy.pooler}.weight"].dtype, _ROUGH)
    norm = _typical_norm(network, rng)
    for start in range(1, starts + 1):
        found = _from_start(layers, basis, norm, rng)
        if found.residual < best.residual:
            best = found
        best = States(best.states, best.slopes, best.residual, start)
        if best.residual < goal:
            return best
    return _polished(layers, basis, best) if best.residual < _NEAR else best


def _sloped(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """The activation and its derivative, entry by entry."""
    found: Any = torch.func.vjp(activation, z)
    return found[0], found[1](torch.ones_like(z))[0]


def layers_of(seen: Observation, network: Network) -> Layers:
    """The pooler and the classifier with their gradients, in float64."""
    pooler, head = network.anatomy.pooler, network.anatomy.classifier
    names = [f"{pooler}.weight", f"{pooler}.bias", f"{head}.weight"]
    missing = [name for name in names if not pooler or name not in seen.update]
    if missing:
        raise InvalidInput(
            f"the pooled states are read from {', '.join(missing)}, and the update does not hold "
            "that. Share the pooler and the classifier, or use TokenSpan()."
        )
    rows = network.state[names[2]].double()
    if len(rows) != 2:
        raise InvalidInput(
            f"the classifier has {len(rows)} classes, and this solution knows 2: the slope of one "
            "logit is then that of the other, negated. Use pooled_span() to test sentences."
        )
    weight, bias = (network.state[name].double() for name in names[:2])
    moved, shifted, read = (seen.update[name].double() for name in names)
    parent = network.module.get_submodule(pooler.rpartition(".")[0])
    activation = getattr(parent, "activation", torch.tanh)
    return Layers(weight, bias, rows[1] - rows[0], moved, shifted, read[1], activation)


def _single(layers: Layers) -> States:
    """One example: every row of the weight's gradient over that of the bias is its state."""
    row = int(layers.bias_gradient.abs().argmax())
    state = layers.weight_gradient[row] / layers.bias_gradient[row]
    active, steep = _sloped(layers.activation, layers.weight @ state + layers.bias)
    slope = (layers.row_gradient @ active) / active.square().sum()
    found = layers.difference * slope * steep
    rest = (found[:, None] * state - layers.weight_gradient).norm()
    error = float(rest / layers.weight_gradient.norm())
    return States(state[None], slope[None], error, 1)


def _typical_norm(network: Network, rng: Generator) -> float:
    """How long a pooled state is: measured on random tokens."""
    return float(random_states(network, rng).norm(dim=1).mean())


def random_states(network: Network, rng: Generator) -> Tensor:
    """The pooled states of a few sentences of random tokens: what the server may compute."""
    length = min(12, network.form.length)
    ids = torch.randint(len(network.word), (4, length), generator=rng).to(network.word.device)
    return network.last(ids)[:, 0]


def _from_start(layers: Layers, basis: Tensor, norm: float, rng: Generator) -> States:
    """One random start on some neurons, polished on all."""
    size, width = basis.shape[1], len(layers.weight)
    some = torch.randperm(width, generator=rng)[: max(16 * size, 64)].to(basis.device)
    noise = torch.randn(size, size, generator=rng, dtype=torch.float64).to(basis)
    direction = norm * 0.7 * torch.linalg.qr(noise).Q
    problem = _Problem(layers.part(some), basis)
    guess = torch.cat([direction, problem.slopes(direction)[:, None]], 1)
    guess, _ = _descended(problem, guess)
    whole = _Problem(layers, basis)
    if float(whole(guess).norm()) < 0.1:
        guess, _ = _descended(whole, guess)
    return States(guess[:, :-1] @ basis.T, guess[:, -1], float(whole(guess).norm()), 1)


def _polished(layers: Layers, basis: Tensor, best: States) -> States:
    """More patience with the best start."""
    whole, guess = (
        _Problem(layers, basis),
        torch.cat([best.states @ basis, best.slopes[:, None]], 1),
    )
    guess, rest = _descended(whole, guess, slow=_VALLEY, steps=_PATIENT)
    return States(guess[:, :-1] @ basis.T, guess[:, -1], rest, best.starts)


class _Problem:
    """The equations of some neurons, each kind divided by its own length."""

    def __init__(self, layers: Layers, basis: Tensor) -> None:
        self.weight, self.bias = layers.weight @ basis, layers.bias
        self.difference, self.activation = layers.difference, layers.activation
        observed = (layers.weight_gradient @ basis, layers.bias_gradient, layers.row_gradient)
        self.lengths = [part.norm() for part in observed]
        self.observed = self._joined(observed)

    def __call__(self, guess: Tensor) -> Tensor:
        """What (h_i, l_i), one row an example, leave unexplained."""
        return self._joined(self._simulated(guess[:, :-1], guess[:, -1])) - self.observed

    def slopes(self, states: Tensor) -> Tensor:
        """The best l for given states: the equations are linear in it."""
        each = torch.eye(len(states), dtype=states.dtype, device=states.device)
        columns = [self._joined(self._simulated(states, one)) for one in each]
        found: Tensor = torch.linalg.pinv(torch.stack(columns, 1)) @ self.observed
        return found

    def _simulated(self, states: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        active, steep = _sloped(self.activation, self.weight @ states.T + self.bias[:, None])
        pulls = self.difference[:, None] * slopes * steep
        return pulls @ states, pulls.sum(1), active @ slopes

    def _joined(self, parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        scaled = [p.flatten() / length for p, length in zip(parts, self.lengths, strict=True)]
        return torch.cat(scaled)


def _jacobian(problem: _Problem, guess: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # At its first use the forward mode of torch warns of what it itself still compiles.
        warnings.simplefilter("ignore", DeprecationWarning)
        slope: Tensor = torch.func.jacfwd(problem)(guess)
    return slope.flatten(1)


def _descended(
    problem: _Problem, guess: Tensor, slow: float = 0.999, steps: int = _STEPS
) -> tuple[Tensor, float]:
    """Damped Gauss-Newton: (J^T J + c diag) d = -J^T r, c falling while the error does."""
    damping, rest = 1e-2, problem(guess)
    for _ in range(steps):
        slope = _jacobian(problem, guess)
        square, pull = slope.T @ slope, slope.T @ rest
        improved = False
        while not improved and damping < 1e8:
            damped = square + damping * torch.diag(square.diagonal() + 1e-12)
            trial = guess - torch.linalg.solve(damped, pull).view_as(guess)
            after = problem(trial)
            improved = bool(after.norm() < rest.norm())
            damping = damping / 5 if improved else damping * 4
        if not improved:
            break
        stalled = float(after.norm()) > slow * float(rest.norm())
        guess, rest = trial, after
        if stalled or float(rest.norm()) < 1e-14:
            break
    return guess, float(rest.norm())
