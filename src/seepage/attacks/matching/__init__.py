"""Gradient matching as small values: objective x prior x optimiser x labels x schedule."""

from seepage.attacks.matching.invert import Invert
from seepage.attacks.matching.objectives import L2, TAG, Cosine
from seepage.attacks.matching.optimisers import LBFGS, Adam
from seepage.attacks.matching.priors import TV, L2Prior
from seepage.attacks.matching.restarts import Restarts
from seepage.attacks.matching.starts import Gray, Normal, Pattern, Small, StartFrom, Uniform

__all__ = [
    "L2",
    "LBFGS",
    "TAG",
    "TV",
    "Adam",
    "Cosine",
    "Gray",
    "Invert",
    "L2Prior",
    "Normal",
    "Pattern",
    "Restarts",
    "Small",
    "StartFrom",
    "Uniform",
]
