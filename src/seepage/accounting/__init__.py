"""Privacy accounting of Gaussian noise: full batches in closed form, Poisson samples by FFT."""

from seepage.accounting.grid import Array
from seepage.accounting.rounds import (
    bisected,
    check_delta,
    check_mechanism,
    divergence,
    epsilon,
    gauss_delta,
    gauss_epsilon,
    losses,
    multiplier_for,
    multiplier_for_chance,
)

__all__ = [
    "Array",
    "bisected",
    "check_delta",
    "check_mechanism",
    "divergence",
    "epsilon",
    "gauss_delta",
    "gauss_epsilon",
    "losses",
    "multiplier_for",
    "multiplier_for_chance",
]
