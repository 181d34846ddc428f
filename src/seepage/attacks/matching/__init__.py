"""Gradient matching as small values: objective x prior x optimiser x labels x schedule."""

from seepage.attacks.matching.finisher import LM
from seepage.attacks.matching.generators import DeepImage, Learned
from seepage.attacks.matching.group import Group
from seepage.attacks.matching.invert import Invert
from seepage.attacks.matching.modes import EitherMode
from seepage.attacks.matching.objectives import L2, TAG, Cosine
from seepage.attacks.matching.optimisers import LBFGS, Adam
from seepage.attacks.matching.presets import (
    dlg,
    idlg,
    inverting_gradients,
    modern,
    see_through,
    tag,
)
from seepage.attacks.matching.priors import TV, BatchStats, Features, L2Prior
from seepage.attacks.matching.recovered import Recovered
from seepage.attacks.matching.restarts import Restarts
from seepage.attacks.matching.starts import (
    ClassMean,
    Gray,
    Normal,
    Pattern,
    SameClass,
    Small,
    StartFrom,
    Uniform,
)

__all__ = [
    "L2",
    "LBFGS",
    "LM",
    "TAG",
    "TV",
    "Adam",
    "BatchStats",
    "ClassMean",
    "Cosine",
    "DeepImage",
    "EitherMode",
    "Features",
    "Gray",
    "Group",
    "Invert",
    "L2Prior",
    "Learned",
    "Normal",
    "Pattern",
    "Recovered",
    "Restarts",
    "SameClass",
    "Small",
    "StartFrom",
    "Uniform",
    "dlg",
    "idlg",
    "inverting_gradients",
    "modern",
    "see_through",
    "tag",
]
