"""The tensor moments of a wide layer's gradient."""

from seepage.attacks.moments.attack import Moments

__all__ = ["Moments"]
