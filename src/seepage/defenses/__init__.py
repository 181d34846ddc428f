"""Defenses: clients with an `inner` client. `__all__` is the registry that `seepage list` reads."""

from seepage.defenses.clip import Clip
from seepage.defenses.noise import Noise
from seepage.defenses.prune import Prune

__all__ = ["Clip", "Noise", "Prune"]
