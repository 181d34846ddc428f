"""Defenses: clients with an `inner` client. `__all__` is the registry that `seepage list` reads."""

from seepage.defenses.clip import Clip
from seepage.defenses.dpsgd import DPSGD
from seepage.defenses.dropout import Dropout
from seepage.defenses.mixup import InstaHide, MixUp
from seepage.defenses.noise import Noise
from seepage.defenses.percentile import Percentile
from seepage.defenses.prune import Prune
from seepage.defenses.quantize import Quantize
from seepage.defenses.sign import Sign
from seepage.defenses.soteria import Soteria
from seepage.defenses.svt import SVT

__all__ = [
    "DPSGD",
    "SVT",
    "Clip",
    "Dropout",
    "InstaHide",
    "MixUp",
    "Noise",
    "Percentile",
    "Prune",
    "Quantize",
    "Sign",
    "Soteria",
]
