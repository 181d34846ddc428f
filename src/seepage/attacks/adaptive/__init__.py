"""Attackers who know the defense."""

from seepage.attacks.adaptive.attack import Adaptive
from seepage.attacks.adaptive.objectives import Box, Likelihood, Signs, Support
from seepage.attacks.adaptive.priors import NormalPrior

__all__ = ["Adaptive", "Box", "Likelihood", "NormalPrior", "Signs", "Support"]
