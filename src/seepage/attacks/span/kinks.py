"""Activations with a kink: first round it off, then find out which side of it each unit is on."""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from seepage.attacks.span.activations import Activation
from seepage.attacks.span.equations import Equations, State, Unknown, evaluated, predicted
from seepage.attacks.span.levenberg import Damping, solved

# The second follows inputs that nearly coincide, as features of deep networks do.
_SHARPNESS = ((2.0, 5.0, 15.0, 40.0, 120.0), (15.0, 40.0, 120.0, 400.0, 1500.0))
_CONFIDENT = (1.0, 0.95, 0.7, 0.4, 0.2)
_FROZEN = Damping(steps=10)
_EXACT = 1e-18


def softened(given: Equations, activation: Activation, start: Unknown, rng: Generator) -> Unknown:
    """Solve with the kink rounded off, less and less."""
    spread = float((given.weight @ start.x.mean(0) + given.bias).std())
    for sharpness in _SHARPNESS[int(torch.randint(2, (), generator=rng))]:
        draw = activation.softened(sharpness / spread)
        start = solved(given, draw, start, Damping(steps=15)).at
    return start


def sharpened(given: Equations, activation: Activation, start: Unknown, rounds: int = 8) -> State:
    """Freeze each unit's side, solve on the units that are surest, read the sides again.

    On units far from the kink the sides are right before the solution is, and there the equations
    hold exactly: this turns errors of a percent into rounding.
    """
    state = judged(given, activation, start)
    for _ in range(rounds):
        new = _frozen(given, activation, state.at)
        stuck = not new.cost < 0.999 * state.cost
        state = new if new.cost < state.cost else state
        if stuck or state.cost < 1e-26:
            break
    return state


def judged(given: Equations, activation: Activation, at: Unknown) -> State:
    """The residuals on all units, each on the side where this point puts it."""
    return evaluated(given, activation.frozen(_signal(given, at) > 0), at)


def without(given: Equations, activation: Activation, known: Unknown) -> Equations:
    """The equations of the other examples: what the known ones add to the gradients is gone."""
    state = judged(given, activation, known)
    parts = zip(predicted(state.curve, state.back, known), given.blocks, strict=True)
    left = [block if block is None else block - part for part, block in parts]
    return replace(
        given,
        weight_gradient=left[0],
        bias_gradient=left[1],
        head_gradient=left[2],
        head_bias_gradient=left[3],
    )


def _frozen(given: Equations, activation: Activation, at: Unknown) -> State:
    z = _signal(given, at)
    order, fits = z.abs().amin(1).argsort(descending=True), list[State]()
    for share in _CONFIDENT:
        kept = order[: max(int(share * len(order)), at.x.shape[1] + 2)]
        fit = solved(given.rows(kept), activation.frozen(z[kept] > 0), at, _FROZEN)
        fits.append(judged(given, activation, fit.at))
        if fit.cost < _EXACT:
            break
    return min(fits, key=lambda state: state.cost)


def _signal(given: Equations, at: Unknown) -> Tensor:
    return given.weight @ at.x.T + given.bias[:, None]
