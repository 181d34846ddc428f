"""Defenses: clients with an `inner` client. `__all__` is the registry that `seepage list` reads."""

from seepage.defenses.clip import Clip
from seepage.defenses.dpsgd import DPSGD
from seepage.defenses.dropout import Dropout
from seepage.defenses.noise import Noise
from seepage.defenses.prune import Prune
from seepage.defenses.quantize import Quantize
from seepage.defenses.sign import Sign

__all__ = ["Clip", "DPSGD", "Dropout", "Noise", "Prune", "Quantize", "Sign"]
