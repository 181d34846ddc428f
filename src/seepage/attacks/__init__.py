"""Attacks: one idea of one paper each. `__all__` is the registry that `seepage list` reads."""

from seepage.attacks.bias_ratio import BiasRatio
from seepage.attacks.labels import IDLG, Chance, Counts, Impact, Joint, Told, Yin
from seepage.attacks.matching import (
    L2,
    LBFGS,
    TAG,
    TV,
    Adam,
    Cosine,
    Gray,
    Invert,
    L2Prior,
    Normal,
    Pattern,
    Restarts,
    Small,
    StartFrom,
    Uniform,
)

__all__ = [
    "Adam",
    "BiasRatio",
    "Chance",
    "Cosine",
    "Counts",
    "Gray",
    "IDLG",
    "Impact",
    "Invert",
    "Joint",
    "L2",
    "L2Prior",
    "LBFGS",
    "Normal",
    "Pattern",
    "Restarts",
    "Small",
    "StartFrom",
    "TAG",
    "TV",
    "Told",
    "Uniform",
    "Yin",
]
