"""Why data leak, and how much can at most: mathematics of models, updates and noise."""

from seepage.analysis import bounds, utility, verdict

__all__ = ["bounds", "utility", "verdict"]
