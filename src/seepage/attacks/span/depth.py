"""Down the stack: from the features of one fully connected layer to the inputs of the one below.

With features f = s(Wx + b) known exactly, the units with z > 0 give z = s^-1(f), hence linear
equations in x; the gradient G_W = M X of that layer, M = (dL/df) * s'(z), then checks the answer
and hands dL/dx on to the layer below.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.span.activations import Activation, inverted
from seepage.attacks.span.equations import State
from seepage.attacks.span.layers import Layer
from seepage.attacks.span.measured import Measured, bias_of, floor_of, required, weight_of
from seepage.attacks.span.subspace import row_space
from seepage.core import Observation


@dataclass(frozen=True)
class Level:
    """Inputs of a layer (n, d), the gradients that flow back to them, and their residual."""

    inputs: Tensor
    back: Tensor
    residual: float


def top(seen: Observation, hidden: Layer, state: State, given: Measured) -> Level:
    """The level that a solved pair of layers gives."""
    through = state.back * state.curve.slope
    inputs = state.at.x @ given.space.basis.T
    weight = weight_of(seen, hidden)[given.reached]
    return Level(inputs, through.T @ weight, state.cost**0.5)


def below(seen: Observation, layer: Layer, above: Level) -> Level | None:
    """The inputs of a layer whose outputs, after its activation, are known; None if too few are."""
    assert layer.activation is not None
    gradient, weight = required(seen, layer.weight), weight_of(seen, layer)
    space = row_space(gradient, floor_of(seen))
    inputs = _solved(layer.activation, weight @ space.basis, bias_of(seen, layer), above.inputs)
    if inputs is None:
        return None
    inputs = inputs @ space.basis.T
    z = inputs @ weight.T + bias_of(seen, layer)
    through = above.back * _slope(layer.activation, z)
    error = (through.T @ inputs - gradient).norm() / gradient.norm()
    missed = (layer.activation.function(z) - above.inputs).norm() / above.inputs.norm()
    return Level(inputs, through @ weight, max(above.residual, float(error), float(missed)))


def _solved(
    activation: Activation, weight: Tensor, bias: Tensor, features: Tensor
) -> Tensor | None:
    """Least squares on the units that are surely above zero, each by its slope there."""
    rows = []
    for feature in features:
        surely = feature > activation.function(feature.new_zeros(())) + 1e-5 * feature.abs().max()
        z = inverted(activation, feature[surely])
        reached = ~z.isnan()
        if int(reached.sum()) < weight.shape[1]:
            return None
        slope = _slope(activation, z[reached]).abs()
        matrix = weight[surely][reached] * slope[:, None]
        target = (z[reached] - bias[surely][reached]) * slope
        rows.append(torch.linalg.pinv(matrix) @ target)
    return torch.stack(rows)


def _slope(activation: Activation, z: Tensor) -> Tensor:
    draw = activation.smooth if activation.sides is None else activation.frozen(z > 0)
    return draw(z).slope
