"""Hermite coefficients of an activation: what the moments of its gradient are worth.

By Stein's lemma E[s(w.x) He_p(w)] = c_p(|x|) x^(p) for standard-normal w, with
c_p(r) = E[He_p(Z) s(rZ)] / r^p: the mean p-th derivative, also where there is none.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.errors import InvalidInput

Function = Callable[[Tensor], Tensor]

_NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Plan:
    """Which moments show the span of the inputs, and which tell them apart."""

    subspace: int
    components: int

    @property
    def path(self) -> str:
        """A: second and third, B: second and fourth, C: third alone."""
        return "C" if self.subspace == 3 else "A" if self.components == 3 else "B"


def coefficients(function: Function, radius: float = 1.0, biases: Tensor | None = None) -> Tensor:
    """c_0 to c_4 at an input of this length, averaged over the hidden biases.

    A dense trapezoid: Gauss-Hermite rules are wrong at kinks.

    >>> [round(float(c), 4) for c in coefficients(torch.nn.functional.elu)]
    [0.1605, 0.7616, 0.2616, -0.1374, -0.1374]
    """
    powers = torch.tensor(float(radius), dtype=torch.float64) ** torch.arange(5)
    return weighted(function, radius, biases) / powers


def weighted(function: Function, radius: float = 1.0, biases: Tensor | None = None) -> Tensor:
    """r^p c_p for p = 0 to 4: how much a unit direction weighs in each moment."""
    z = torch.linspace(-12, 12, 400_001 if biases is None else 40_001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    polynomials = torch.stack([torch.ones_like(z), z, z**2 - 1, z**3 - 3 * z, z**4 - 6 * z**2 + 3])
    shifts = torch.zeros(1, dtype=torch.float64) if biases is None else _typical(biases)
    values = torch.stack([function(radius * z + shift) for shift in shifts]).mean(0)
    return torch.trapezoid(polynomials * (density * values), z, dim=1)


def planned(coefficient: Tensor, order: str | int) -> Plan:
    """Second moments for the span where they are not zero; third or fourth for the components."""
    second, third, fourth = (abs(float(c)) for c in coefficient[2:5])
    if max(third, fourth) <= _NEGLIGIBLE:
        raise InvalidInput(
            "the activation has no third or fourth moment (it is linear or quadratic): individual "
            "samples are not identifiable from any update. There is nothing to attack here."
        )
    if order == "auto":
        order = 3 if third >= max(_NEGLIGIBLE, 0.2 * fourth) else 4
    subspace = 2 if second > _NEGLIGIBLE else 3
    if subspace == 3 and order == 4:
        raise InvalidInput(
            "Moments.order=4 needs an activation that is not odd: its second and fourth moments "
            "are zero here. Use order='auto'."
        )
    return Plan(subspace, int(order))


def _typical(biases: Tensor) -> Tensor:
    shifts = biases.double().flatten()
    if bool((shifts == shifts[0]).all()):
        return shifts[:1]
    middles = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    return torch.quantile(shifts, middles)
